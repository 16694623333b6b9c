"""Settings: what the broker does without being asked."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from keybroker.settings_values import Algorithm, KeySpec, Seconds, Section


class PrefetchSettings(Section):
    """A key whose set is fetched before anyone asks."""

    key_id: str = Field(min_length=1, max_length=2048, description="A key id or key ARN.")
    wrapping_algorithm: Algorithm | None = Field(
        default=None, description="What callers will ask for; by default what they get who do not say."
    )
    wrapping_key_spec: KeySpec | None = Field(default=None, description="As `wrapping_algorithm`.")


class WatchSettings(Section):
    """Keys whose imported material expires, by the names that metrics and log show."""

    keys: dict[str, str] = Field(min_length=1, description="Key ids or key ARNs by name.")
    warn_before: Seconds = Field(
        default=30 * 86400.0, ge=0, le=365 * 86400.0, description="How long before the end the log warns, each hour."
    )

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name, re.ASCII):
                raise ValueError(
                    f"holds the name {name!r}; names have 1 to 64 letters, digits, dots, dashes and underscores"
                )
        return value
