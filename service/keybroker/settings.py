"""The settings file, parsed into frozen values; every bad value is refused by its path and a sentence."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from keybroker.settings_callers import CallerSettings, Limits
from keybroker.settings_errors import sentences
from keybroker.settings_kms import KmsSettings, ParametersSettings, PolicySettings
from keybroker.settings_listeners import Listener, OpsSettings
from keybroker.settings_records import AuditSettings, OtelSettings
from keybroker.settings_store import StoreSettings
from keybroker.settings_together import Keys, address_faults
from keybroker.settings_upkeep import PrefetchSettings, WatchSettings
from keybroker.settings_values import Section


class SettingsError(Exception):
    """The settings cannot be used; its text is for the operator, one line for each fault."""


class Settings(Section):
    """The whole file."""

    listeners: tuple[Listener, ...] = Field(min_length=1, strict=False)
    kms: KmsSettings
    parameters: ParametersSettings = ParametersSettings()
    policy: PolicySettings = PolicySettings()
    callers: tuple[CallerSettings, ...] = Field(default=(), strict=False)
    limits: Limits = Limits()
    audit: AuditSettings = AuditSettings()
    ops: OpsSettings | None = None
    store: StoreSettings | None = None
    prefetch: tuple[PrefetchSettings, ...] = Field(default=(), strict=False)
    watch: WatchSettings | None = None
    otel: OtelSettings | None = None

    @property
    def version(self) -> str:
        """Names these settings in the audit: 12 hexadecimal digits that differ when any value does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        keys = Keys(self.kms, self.policy)
        faults = [*address_faults(self.listeners, self.ops), *keys.policy_faults()]
        if not faults:  # with a policy that allows nothing, everything would be a fault
            faults += keys.prefetch_faults(self.prefetch, self.parameters)
        if self.watch:
            faults += keys.watch_faults(self.watch)
        if faults:
            raise ValueError("\n".join(faults))
        return self


def load(path: Path) -> Settings:
    """The settings in a file.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or holds a bad value.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also numbers too long, and nesting too deep, to be read
        raise SettingsError(f"{path}: is no TOML: {error}") from error
    return parse(raw, directory=path.parent)


def parse(raw: dict[str, Any], directory: Path = Path()) -> Settings:
    """The settings in a parsed TOML document.

    Args:
        raw: the document.
        directory: where its relative paths start.

    Raises:
        SettingsError: as load.
    """
    try:
        return Settings.model_validate(raw, context={"directory": directory})
    except ValidationError as error:
        known = [name for section in Section.__subclasses__() for name in section.model_fields]
        raise SettingsError("\n".join(sentences(error, known))) from error
