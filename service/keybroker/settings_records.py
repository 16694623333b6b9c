"""Settings: where the broker tells what it did."""

from __future__ import annotations

from pydantic import Field, field_validator

from keybroker.settings_values import Section, endpoint_parts


class AuditSettings(Section):
    """Where the audit lines go: a file, or - for standard output."""

    file: str = Field(default="-", min_length=1, description="A path, made with mode 0600; `-` is standard output.")


class OtelSettings(Section):
    """Where traces go: OTLP over gRPC."""

    endpoint: str = Field(description="A URL of the collector; https unless on loopback.")

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if endpoint_parts(value, example="https://collector.internal:4317").path.strip("/"):
            raise ValueError("must have no path: OTLP over gRPC has none")
        return value
