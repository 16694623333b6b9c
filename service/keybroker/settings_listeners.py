"""Settings: where the broker listens."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keybroker.settings_values import LARGEST_PORT, Section, from_directory, is_loopback

_LONGEST_SOCKET_PATH = 107  # bytes, by Linux's sockaddr_un


class Tls(Section):
    """Mutual TLS: PEM files, read again when they change; relative paths start at the settings file."""

    certificate: str = Field(description="The server's certificate, and those between it and its CA.")
    private_key: str = Field(description="The certificate's key, without a password.")
    client_ca: str = Field(description="The CAs whose clients are let in.")
    minimum_version: Literal["1.2", "1.3"] = Field(default="1.2", description="The oldest TLS that is spoken.")

    @field_validator("certificate", "private_key", "client_ca")
    @classmethod
    def _check_path(cls, value: str, info: ValidationInfo) -> str:
        return from_directory(value, info)


class Listener(Section):
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
        elif int(value.rpartition(":")[2]) > LARGEST_PORT:
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


class OpsSettings(Section):
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
            or int(value.rpartition(":")[2]) > LARGEST_PORT
        ):
            raise ValueError('must be "HOST:PORT", as in "127.0.0.1:9090"')
        return value
