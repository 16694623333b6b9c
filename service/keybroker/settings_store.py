"""Settings: the fleet's store."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keybroker.settings_values import Section, from_directory, is_loopback, require_extra

_STORE_URL = re.compile(
    r"redis(?P<tls>s?)(?P<kind>\+sentinel|\+cluster)?://(?P<hosts>[a-zA-Z0-9.:\[\]_,-]+)(?:/(?P<service>[a-zA-Z0-9._-]+))?/?",
    re.ASCII,
)


class StoreSettings(Section):
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
                ' "rediss+cluster://HOST:PORT,HOST:PORT", without user or password: see username and password_file'
            )
        hosts = [urlsplit(f"//{host}").hostname or "" for host in match["hosts"].split(",")]
        if (match["kind"] == "+sentinel") != bool(match["service"]):
            raise ValueError("names a service with +sentinel, and only there")
        if len(hosts) > 1 and not match["kind"]:
            raise ValueError("names several hosts, which needs +sentinel or +cluster")
        if match["tls"] != "s" and not all(map(is_loopback, hosts)):
            raise ValueError("must begin with rediss, unless the hosts are loopback")
        return value

    @field_validator("seal_keys")
    @classmethod
    def _check_seal_keys(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(from_directory(path, info) for path in value)

    @field_validator("password_file", "ca")
    @classmethod
    def _check_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else from_directory(value, info)

    @model_validator(mode="after")
    def _check_installed(self) -> Self:
        require_extra("store", "redis")
        return self
