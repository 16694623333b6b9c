"""The settings file, parsed into frozen values; every bad value is refused by its path and a sentence."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from keybroker.model import Operation, WrappingAlgorithm, WrappingKeySpec
from keybroker.settings_errors import sentences

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,2}-[0-9]{1,2}", re.ASCII)
_KEY_PATTERN = re.compile(r"arn:[a-z*-]+:kms:[a-z0-9*-]+:[0-9*]+:key/[a-z0-9*-]+", re.ASCII)
_STORE_URL = re.compile(
    r"redis(?P<tls>s?)(?P<kind>\+sentinel|\+cluster)?://(?P<hosts>[a-zA-Z0-9.:\[\]_,-]+)(?:/(?P<service>[a-zA-Z0-9._-]+))?/?",
    re.ASCII,
)
# AWS's own names of KMS and STS, those of VPC endpoints among them.
_AWS_HOST = re.compile(
    r"(?:[a-z0-9-]+\.)*(?:kms|sts)(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws|api)\.[a-z.]+", re.ASCII
)
_LARGEST_PORT = 65535
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


def _endpoint(value: str, *, example: str, why: str = "") -> SplitResult:
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:  # of an address or a port that can be none
        known = False
    if not known or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f'must be a URL such as "{example}"')
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(f"must be https, unless the host is loopback{why}")
    return parts


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _from_directory(path: str, info: ValidationInfo) -> str:
    if not path:
        raise ValueError("must be the path of a file")
    return str(Path((info.context or {}).get("directory", ""), path))


class Tls(_Section):
    """Mutual TLS: PEM files, read again when they change; relative paths start at the settings file."""

    certificate: str = Field(description="The server's certificate, and those between it and its CA.")
    private_key: str = Field(description="The certificate's key, without a password.")
    client_ca: str = Field(description="The CAs whose clients are let in.")
    minimum_version: Literal["1.2", "1.3"] = Field(default="1.2", description="The oldest TLS that is spoken.")

    @field_validator("certificate", "private_key", "client_ca")
    @classmethod
    def _check_path(cls, value: str, info: ValidationInfo) -> str:
        return _from_directory(value, info)


class Listener(_Section):
    """One socket and whom it lets in."""

    address: str = Field(description="`unix:/PATH` or `tcp:HOST:PORT`.")
    mode: str = Field(default="0660", description="The permissions of a Unix socket.")
    plaintext: bool = Field(
        default=False, description="Needed for a tcp listener without `tls`, which must be on loopback."
    )
    caller: str | None = Field(
        default=None, min_length=1, max_length=256, description="The name of whoever may open a listener without `tls`."
    )
    tls: Tls | None = Field(default=None, description="Mutual TLS, below; the caller is the certificate's SPIFFE ID.")

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
            if not path.startswith("/") or "\0" in path:
                raise ValueError('must hold an absolute path, as in "unix:/run/keybroker/keybroker.sock"')
            if len(path.encode()) > _LONGEST_SOCKET_PATH:
                raise ValueError(f"is longer than the {_LONGEST_SOCKET_PATH} bytes a socket's path can have")
        elif not re.fullmatch(r"tcp:(?:\[[0-9a-fA-F:]+\]|[^:\[\]/]+):[0-9]{1,5}", value, re.ASCII):
            raise ValueError('must be "unix:/PATH" or "tcp:HOST:PORT"')
        elif int(value.rpartition(":")[2]) > _LARGEST_PORT:
            raise ValueError("has a port above 65535")
        return value

    @field_validator("mode")
    @classmethod
    def _check_mode(cls, value: str) -> str:
        if not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
            raise ValueError('must be octal permissions such as "0660"')
        return value

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.tls:
            if self.socket_path or self.plaintext:
                raise ValueError("tls is for tcp listeners, and goes without plaintext")
            if self.caller:
                raise ValueError("caller has no place beside tls, where the certificate says who calls")
            return self
        if not self.caller:
            raise ValueError("caller is missing: the name of whoever may open this listener")
        if self.socket_path:
            if self.plaintext:
                raise ValueError("plaintext is for tcp listeners; a unix socket needs no such word")
        elif not self.plaintext:
            raise ValueError("a tcp listener needs tls, or `plaintext = true` and a loopback address")
        elif not is_loopback(self.host_and_port[0]):
            raise ValueError("plaintext is for loopback addresses only")
        return self


class KmsSettings(_Section):
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
        match = _AWS_HOST.fullmatch(_endpoint(value, example=example, why=why).hostname or "")
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


class ParametersSettings(_Section):
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


class PolicySettings(_Section):
    """What may wrap."""

    wrapping_algorithms: tuple[_Algorithm, ...] = Field(
        default=(WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256),
        min_length=1,
        strict=False,
        description="Those allowed. SHA-1 has to be named, SM2PKE is for China, PKCS #1 v1.5 is refused.",
    )
    wrapping_key_specs: tuple[_KeySpec, ...] = Field(
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


class CallerSettings(_Section):
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


class Limits(_Section):
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


class AuditSettings(_Section):
    """Where the audit lines go: a file, or - for standard output."""

    file: str = Field(default="-", min_length=1, description="A path, made with mode 0600; `-` is standard output.")


class OpsSettings(_Section):
    """The operators' HTTP port."""

    address: str = Field(description="`HOST:PORT` of /metrics, /livez and /readyz.")

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The host and port of the address."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if (
            not re.fullmatch(r"(?:\[[0-9a-fA-F:]+\]|[^:\[\]/]+):[0-9]{1,5}", value, re.ASCII)
            or int(value.rpartition(":")[2]) > _LARGEST_PORT
        ):
            raise ValueError('must be "HOST:PORT", as in "127.0.0.1:9090"')
        return value


class OtelSettings(_Section):
    """Where traces go: OTLP over gRPC."""

    endpoint: str = Field(description="A URL of the collector; https unless on loopback.")

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if _endpoint(value, example="https://collector.internal:4317").path.strip("/"):
            raise ValueError("must have no path: OTLP over gRPC has none")
        return value


class PrefetchSettings(_Section):
    """A key whose set is fetched before anyone asks."""

    key_id: str = Field(min_length=1, max_length=2048, description="A key id or key ARN.")
    wrapping_algorithm: _Algorithm | None = Field(
        default=None, description="What callers will ask for; by default what they get who do not say."
    )
    wrapping_key_spec: _KeySpec | None = Field(default=None, description="As `wrapping_algorithm`.")


class WatchSettings(_Section):
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


class StoreSettings(_Section):
    """The fleet's shared store, Redis or Valkey; relative paths start at the settings file."""

    url: str = Field(description="`rediss://HOST:PORT`, or of a cluster or Sentinels: [fleet.md](fleet.md).")
    seal_keys: tuple[str, ...] = Field(min_length=1, strict=False, description="Files; the first key seals, all open.")
    fleet_size: int = Field(ge=1, le=100_000, description="Brokers that run at once, at most.")
    username: str | None = Field(default=None, description="The brokers' own user of the store.")
    password_file: str | None = Field(default=None, description="A file with the user's password.")
    ca: str | None = Field(default=None, description="The store's CA, as PEM; the system's by default.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        match = _STORE_URL.fullmatch(value)
        if not match:
            raise ValueError(
                'must be "rediss://HOST:PORT", "rediss+sentinel://HOST:PORT,HOST:PORT/SERVICE" or'
                ' "rediss+cluster://HOST:PORT", without user or password: see username and password_file'
            )
        hosts = [urlsplit(f"//{host}").hostname or "" for host in match["hosts"].split(",")]
        if (match["kind"] == "+sentinel") != bool(match["service"]) or (
            match["kind"] != "+sentinel" and len(hosts) > 1
        ):
            raise ValueError("names a service, and several hosts, with +sentinel and only there")
        if match["tls"] != "s" and not all(map(is_loopback, hosts)):
            raise ValueError("must begin with rediss, unless the hosts are loopback")
        return value

    @field_validator("seal_keys")
    @classmethod
    def _check_seal_keys(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(_from_directory(path, info) for path in value)

    @field_validator("password_file", "ca")
    @classmethod
    def _check_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else _from_directory(value, info)


class Settings(_Section):
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
        known = [name for section in _Section.__subclasses__() for name in section.model_fields]
        raise SettingsError("\n".join(sentences(error, known))) from error
