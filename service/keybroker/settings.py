"""The settings file, parsed into frozen values; every bad value is refused by its path and a sentence."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

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


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError('must be a URL such as "https://kms.us-east-1.amazonaws.com"')
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must be https, unless the host is loopback: KMS's answers are not signed")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _from_directory(path: str, info: ValidationInfo) -> str:
    if not path:
        raise ValueError("must be the path of a file")
    return str(Path((info.context or {}).get("directory", ""), path))


class Tls(_Section):
    """Mutual TLS: PEM files, read again when they change; relative paths start at the settings file."""

    certificate: str
    private_key: str
    client_ca: str
    minimum_version: Literal["1.2", "1.3"] = "1.2"

    @field_validator("certificate", "private_key", "client_ca")
    @classmethod
    def _check_path(cls, value: str, info: ValidationInfo) -> str:
        return _from_directory(value, info)


class Listener(_Section):
    """One socket and whom it lets in."""

    address: str
    mode: str = "0660"
    plaintext: bool = False
    caller: str | None = Field(default=None, min_length=1, max_length=256)
    tls: Tls | None = None

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

    regions: tuple[str, ...] = Field(min_length=1, max_length=64, strict=False)
    account: str | None = None
    endpoint: str | None = None
    sts_endpoint: str | None = None
    requests_per_second: float = Field(default=0.25, ge=0.001, le=1000)
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


class Limits(_Section):
    """What one caller, or one connection, may take.

    The rates are for each caller. Two seconds' worth of requests are let through at once, and twenty seconds' worth of
    look-ups, which are questions to KMS about keys the broker does not know.
    """

    requests_per_second: float = Field(default=10_000.0, ge=0.001, le=1e6)
    lookups_per_second: float = Field(default=50.0, ge=0.001, le=2000)
    connections: int = Field(default=1000, ge=1, le=1_000_000)
    streams_per_connection: int = Field(default=128, ge=1, le=100_000)


class AuditSettings(_Section):
    """Where the audit lines go: a file, or - for standard output."""

    file: str = Field(default="-", min_length=1)


class OpsSettings(_Section):
    """The operators' HTTP port."""

    address: str

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

    endpoint: str

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.username:
            raise ValueError('must be a URL such as "https://collector.internal:4317"')
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError("must be https, unless the host is loopback")
        return value


class PrefetchSettings(_Section):
    """A key whose set is fetched before anyone asks."""

    key_id: str = Field(min_length=1, max_length=2048)
    wrapping_algorithm: _Algorithm | None = None
    wrapping_key_spec: _KeySpec | None = None


class WatchSettings(_Section):
    """Keys whose imported material expires, by the names that metrics and log show."""

    keys: dict[str, str] = Field(min_length=1)
    warn_before: Seconds = Field(default=30 * 86400.0, ge=0, le=365 * 86400.0)

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

    url: str
    seal_keys: tuple[str, ...] = Field(min_length=1, strict=False)
    fleet_size: int = Field(ge=1, le=100_000)
    username: str | None = None
    password_file: str | None = None
    ca: str | None = None

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
