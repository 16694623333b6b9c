"""The settings file, parsed into frozen values; every bad value is refused by its path and a sentence."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from keybroker.model import Operation, WrappingAlgorithm, WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,2}-[0-9]{1,2}", re.ASCII)
_KEY_PATTERN = re.compile(r"arn:[a-z*-]+:kms:[a-z0-9*-]+:[0-9*]+:key/[a-z0-9*-]+", re.ASCII)
_LONGEST_SOCKET_PATH = 107  # bytes, by Linux's sockaddr_un


class SettingsError(Exception):
    """The settings cannot be used; its text is for the operator, one line for each fault."""


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", value, re.ASCII)):
        return float(match[1]) * _UNITS[match[2]]
    raise ValueError('must be a duration such as "90s", "15m" or "1h"')


Seconds = Annotated[float, BeforeValidator(_duration)]

# TOML has strings where these have members.
_Algorithm = Annotated[WrappingAlgorithm, Strict(strict=False)]
_KeySpec = Annotated[WrappingKeySpec, Strict(strict=False)]
_Operation = Annotated[Operation, Strict(strict=False)]


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError('must be a URL such as "https://kms.us-east-1.amazonaws.com"')
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must be https, unless the host is loopback: KMS's answers are not signed")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Listener(_Section):
    """One socket and whom it lets in."""

    address: str
    mode: str = "0660"
    plaintext: bool = False
    caller: str = Field(min_length=1, max_length=256)

    @property
    def socket_path(self) -> str | None:
        """The path of a Unix socket; None for TCP."""
        return self.address.removeprefix("unix:") if self.address.startswith("unix:") else None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The host and port of a TCP address."""
        host, _, port = self.address.removeprefix("tcp:").rpartition(":")
        return host.strip("[]"), int(port)

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value.startswith("unix:"):
            path = value.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError('must hold an absolute path, as in "unix:/run/keybroker/keybroker.sock"')
            if len(path.encode()) > _LONGEST_SOCKET_PATH:
                raise ValueError(f"is longer than the {_LONGEST_SOCKET_PATH} bytes a socket's path can have")
        elif not re.fullmatch(r"tcp:(?:\[[0-9a-fA-F:]+\]|[^:\[\]/]+):[0-9]{1,5}", value, re.ASCII):
            raise ValueError('must be "unix:/PATH" or "tcp:HOST:PORT"')
        elif int(value.rpartition(":")[2]) > 65535:  # noqa: PLR2004 -- the largest port
            raise ValueError("has a port above 65535")
        return value

    @field_validator("mode")
    @classmethod
    def _check_mode(cls, value: str) -> str:
        if not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
            raise ValueError('must be octal permissions such as "0660"')
        return value

    @model_validator(mode="after")
    def _check_plaintext(self) -> Self:
        if self.socket_path is None:
            if not self.plaintext:
                raise ValueError("a tcp listener needs `plaintext = true`, and then a loopback address")
            if not is_loopback(self.host_and_port[0]):
                raise ValueError("plaintext is for loopback addresses only")
        elif self.plaintext:
            raise ValueError("plaintext is for tcp listeners; a unix socket needs no such word")
        return self


class KmsSettings(_Section):
    """Which KMS, and how much of it."""

    regions: tuple[str, ...] = Field(min_length=1, max_length=64, strict=False)
    account: str | None = None
    endpoint: str | None = None
    sts_endpoint: str | None = None
    requests_per_second: float = Field(default=0.25, gt=0, le=1000, strict=False)
    queue: int = Field(default=1000, ge=1, le=1_000_000)

    @field_validator("regions")
    @classmethod
    def _check_regions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for region in value:
            if not _REGION.fullmatch(region):
                raise ValueError(f'holds {region!r}, which is no Region such as "us-east-1"')
        if len(set(value)) < len(value):
            raise ValueError("names a Region twice")
        return value

    @field_validator("account")
    @classmethod
    def _check_account(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9]{12}", value, re.ASCII):
            raise ValueError("must be the 12 digits of an AWS account, in quotes")
        return value

    @field_validator("endpoint", "sts_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else _endpoint(value)

    @property
    def sts(self) -> str | None:
        """STS's endpoint; None for AWS's own. One on loopback stands in for all of AWS."""
        if self.sts_endpoint or not self.endpoint:
            return self.sts_endpoint
        return self.endpoint if is_loopback(urlsplit(self.endpoint).hostname or "") else None


class ParametersSettings(_Section):
    """How sets are kept."""

    min_remaining: Seconds = Field(default=3600.0, ge=0, le=23 * 3600.0)
    max_entries: int = Field(default=10_000, ge=1, le=10_000_000)
    reuse: Literal["until-import", "until-expiry"] = "until-import"
    supersede: bool = True


class PolicySettings(_Section):
    """What may wrap."""

    wrapping_algorithms: tuple[_Algorithm, ...] = Field(
        default=(WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256),
        min_length=1,
        strict=False,
    )
    wrapping_key_specs: tuple[_KeySpec, ...] = Field(
        default=(WrappingKeySpec.RSA_3072, WrappingKeySpec.RSA_4096, WrappingKeySpec.RSA_2048),
        min_length=1,
        strict=False,
    )

    @field_validator("wrapping_algorithms")
    @classmethod
    def _check_algorithms(cls, value: tuple[WrappingAlgorithm, ...]) -> tuple[WrappingAlgorithm, ...]:
        if WrappingAlgorithm.RSAES_PKCS1_V1_5 in value:
            raise ValueError("cannot hold RSAES_PKCS1_V1_5, which KMS has refused since 2023-10-10")
        return value


class CallerSettings(_Section):
    """What some callers may do to some keys."""

    id: str = Field(min_length=1, max_length=2048)
    keys: tuple[str, ...] = Field(min_length=1, strict=False)
    operations: tuple[_Operation, ...] = Field(min_length=1, strict=False)

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not _KEY_PATTERN.fullmatch(pattern):
                raise ValueError(
                    f'holds {pattern!r}; write key ARNs such as "arn:aws:kms:us-east-1:111122223333:key/*", where * is'
                    " any one part"
                )
        return value


class Settings(_Section):
    """The whole file."""

    listeners: tuple[Listener, ...] = Field(min_length=1, strict=False)
    kms: KmsSettings
    parameters: ParametersSettings = ParametersSettings()
    policy: PolicySettings = PolicySettings()
    callers: tuple[CallerSettings, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check_listeners(self) -> Self:
        addresses = [listener.address for listener in self.listeners]
        if len(set(addresses)) < len(addresses):
            raise ValueError("listeners: two have the same address")
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no TOML: {error}") from error
    return parse(raw)


def parse(raw: dict[str, Any]) -> Settings:
    """The settings in a parsed TOML document.

    Raises:
        SettingsError: as load.
    """
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error))) from error


def _sentences(error: ValidationError) -> Iterator[str]:
    faults = error.errors(include_url=False)
    for fault in faults:
        if fault["type"] == "too_short" and any(
            len(f["loc"]) > len(fault["loc"]) for f in faults if f["loc"][: len(fault["loc"])] == fault["loc"]
        ):
            continue  # a list whose every item is refused is then called empty
        yield f"{_path(fault)}: {_sentence(fault)}".removeprefix(": ")


def _path(fault: ErrorDetails) -> str:
    path = ""
    for part in fault["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _sentence(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            known = [name for section in _Section.__subclasses__() for name in section.model_fields]
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            return "is no setting" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return "is missing"
        case "value_error":
            return str(fault["ctx"]["error"])
        case _:
            message = fault["msg"].removeprefix("Input ").replace("Input should", "should")
            return f"{message}, not {fault['input']!r}" if fault["type"] != "too_short" else message
