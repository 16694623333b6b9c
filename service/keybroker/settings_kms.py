"""Settings: which KMS, what is asked of it, and how the answers are kept."""

from __future__ import annotations

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keybroker.model import WrappingAlgorithm, WrappingKeySpec
from keybroker.regions import partition_of
from keybroker.settings_values import Algorithm, KeySpec, Seconds, Section, endpoint_parts, is_loopback

_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,2}-[0-9]{1,2}", re.ASCII)
# AWS's own names of KMS and STS, those of VPC endpoints among them.
_AWS_HOST = re.compile(
    r"(?:[a-z0-9-]+\.)*(?:kms|sts)(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws|api)\.[a-z.]+", re.ASCII
)


class KmsSettings(Section):
    """Which KMS, and how much of it."""

    regions: tuple[str, ...] = Field(
        min_length=1,
        max_length=64,
        strict=False,
        description="The Regions served, all of one partition; the first serves bare key ids.",
    )
    account: str | None = Field(
        default=None, description="12 digits. The broker does not start with the credentials of another account."
    )
    endpoint: str | None = Field(
        default=None, description="A URL in place of AWS's own, such as a VPC endpoint's; https unless on loopback."
    )
    sts_endpoint: str | None = Field(default=None, description="As `endpoint`, for STS.")
    use_fips: bool = Field(
        default=False, description="AWS's FIPS endpoints, of KMS and, unless `sts_endpoint` names another, STS."
    )
    use_dualstack: bool = Field(default=False, description="AWS's endpoints with IPv6, of KMS and STS.")
    requests_per_second: float = Field(
        default=0.25,
        ge=0.001,
        le=1000,
        description="Your account's quota for GetParametersForImport, for each Region.",
    )
    queue: int = Field(
        default=1000, ge=1, le=1_000_000, description="Requests that may wait for the quota, for each Region."
    )

    @field_validator("regions")
    @classmethod
    def _check_regions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for region in value:
            if not _REGION.fullmatch(region):
                raise ValueError(f'holds {region!r}, which is no Region such as "us-east-1"')
        if len(set(value)) < len(value):
            raise ValueError("names a Region twice")
        if others := [region for region in value if partition_of(region) != partition_of(value[0])]:
            raise ValueError(
                f"holds {value[0]} of {partition_of(value[0])} and {others[0]} of {partition_of(others[0])}: no"
                " credentials are for both"
            )
        return value

    @field_validator("account")
    @classmethod
    def _check_account(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9]{12}", value, re.ASCII):
            raise ValueError("must be the 12 digits of an AWS account, in quotes")
        return value

    @field_validator("endpoint", "sts_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        example, why = "https://kms.us-east-1.amazonaws.com", ": KMS's answers are not signed"
        match = _AWS_HOST.fullmatch(endpoint_parts(value, example=example, why=why).hostname or "")
        regions = info.data.get("regions") or ()
        asked = regions if info.field_name == "endpoint" else regions[:1]
        if match and (others := [region for region in asked if region != match["region"]]):
            raise ValueError(f"is the endpoint of {match['region']}, which refuses what is signed for {others[0]}")
        return value

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.endpoint and (self.use_fips or self.use_dualstack):
            raise ValueError("use_fips and use_dualstack choose among AWS's own endpoints, and go without endpoint")
        return self

    @property
    def sts(self) -> str | None:
        """STS's endpoint; None for AWS's own. One on loopback stands in for all of AWS."""
        if self.sts_endpoint or not self.endpoint:
            return self.sts_endpoint
        return self.endpoint if is_loopback(urlsplit(self.endpoint).hostname or "") else None


class ParametersSettings(Section):
    """How sets are kept."""

    min_remaining: Seconds = Field(
        default=3600.0, ge=0, le=23 * 3600.0, description="How long a handed-out set is still valid at least."
    )
    max_entries: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Sets kept, for each Region; the least recently used go first."
    )
    reuse: Literal["until-import", "until-expiry"] = Field(
        default="until-import", description="Whether a set ends with an import, or is kept until it expires."
    )
    supersede: bool = Field(default=True, description="Whether a newer set for a key ends its older ones.")


class PolicySettings(Section):
    """What may wrap."""

    wrapping_algorithms: tuple[Algorithm, ...] = Field(
        default=(WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256),
        min_length=1,
        strict=False,
        description="Those allowed. SHA-1 has to be named, SM2PKE is for China, PKCS #1 v1.5 is refused.",
    )
    wrapping_key_specs: tuple[KeySpec, ...] = Field(
        default=(WrappingKeySpec.RSA_3072, WrappingKeySpec.RSA_4096, WrappingKeySpec.RSA_2048),
        min_length=1,
        strict=False,
        description="Those allowed; SM2 is for China.",
    )

    @field_validator("wrapping_algorithms")
    @classmethod
    def _check_algorithms(cls, value: tuple[WrappingAlgorithm, ...]) -> tuple[WrappingAlgorithm, ...]:
        if WrappingAlgorithm.RSAES_PKCS1_V1_5 in value:
            raise ValueError("cannot hold RSAES_PKCS1_V1_5, which KMS has refused since 2023-10-10")
        return value
