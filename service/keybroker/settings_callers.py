"""Settings: what callers may do, and how much of it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, Strict, field_validator

from keybroker.model import Operation
from keybroker.settings_values import Section

_KEY_PATTERN = re.compile(r"arn:[a-z*-]+:kms:[a-z0-9*-]+:[0-9*]+:key/[a-z0-9*-]+", re.ASCII)

_Operation = Annotated[Operation, Strict(strict=False)]


class CallerSettings(Section):
    """What some callers may do to some keys."""

    id: str = Field(
        min_length=1, max_length=2048, description="A SPIFFE ID, or a listener's `caller`; `*` is any one part."
    )
    keys: tuple[str, ...] = Field(min_length=1, strict=False, description="Key ARNs; `*` is any one part.")
    operations: tuple[_Operation, ...] = Field(min_length=1, strict=False, description="What they may do.")

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


class Limits(Section):
    """What one caller, or one connection, may take.

    The rates are for each caller. Two seconds' worth of requests are let through at once, and twenty seconds' worth of
    look-ups, which are questions to KMS about keys the broker does not know.
    """

    requests_per_second: float = Field(default=10_000.0, ge=0.001, le=1e6, description="Requests of one caller.")
    lookups_per_second: float = Field(
        default=50.0, ge=0.001, le=2000, description="Questions to KMS about keys, caused by one caller."
    )
    connections: int = Field(default=1000, ge=1, le=1_000_000, description="Connections to each listener.")
    streams_per_connection: int = Field(
        default=128, ge=1, le=100_000, description="Calls at once on one TLS connection."
    )
