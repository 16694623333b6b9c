"""Settings: where the broker tells what it did."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keybroker.audit import STANDARD_OUTPUT
from keybroker.settings_values import Section, endpoint_parts, from_directory, require_extra


class AuditSettings(Section):
    """Where the audit lines go: a file, or - for standard output."""

    file: str = Field(default=STANDARD_OUTPUT, description="A path, made with mode 0600; `-` is standard output.")

    @field_validator("file")
    @classmethod
    def _check_file(cls, value: str, info: ValidationInfo) -> str:
        return value if value == STANDARD_OUTPUT else from_directory(value, info)


class OtelSettings(Section):
    """Where traces go: OTLP over gRPC."""

    endpoint: str = Field(description="A URL of the collector; https unless on loopback.")

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if endpoint_parts(value, example="https://collector.internal:4317").path.strip("/"):
            raise ValueError("must have no path: OTLP over gRPC has none")
        return value

    @model_validator(mode="after")
    def _check_installed(self) -> Self:
        require_extra("otel", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
        return self
