"""What the sections of the settings are made of."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationInfo

from keybroker.model import WrappingAlgorithm, WrappingKeySpec

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

LARGEST_PORT = 65535


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", value, re.ASCII)):
        return float(match[1]) * _UNITS[match[2]]
    raise ValueError('must be a duration such as "90s", "15m" or "1h"')


Seconds = Annotated[float, BeforeValidator(_duration)]

# TOML has strings where these have members.
Algorithm = Annotated[WrappingAlgorithm, Strict(strict=False)]
KeySpec = Annotated[WrappingKeySpec, Strict(strict=False)]


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint_parts(value: str, *, example: str, why: str = "") -> SplitResult:
    """The parts of a URL to connect to; a ValueError says what is wrong with it."""
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


def from_directory(path: str, info: ValidationInfo) -> str:
    """A path, from the settings file's directory if it is relative."""
    if not path or "\0" in path:
        raise ValueError("must be the path of a file")
    return str(Path((info.context or {}).get("directory", ""), path))


def require_extra(extra: str, *modules: str) -> None:
    """Refuses a section whose libraries are not installed, without loading them."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # of what the module is in
            found = None
        if not found:
            raise ValueError(f"needs {module}, which is not installed: pip install 'keybroker[{extra}]'")
