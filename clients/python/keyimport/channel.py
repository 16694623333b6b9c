"""The connection to a broker: only where nobody can answer in its place, and without retries of gRPC's own."""

from __future__ import annotations

import ipaddress
from typing import Final

import grpc

# A token and a ciphertext are at most 6 KiB each; whatever is far larger is no message of this API.
_MESSAGE_BYTES: Final = 64 * 1024
_OPTIONS: Final = (
    # Trying again is decided in one place, `keyimport.retry`. gRPC would otherwise send an import again by itself, or
    # when a DNS record's service config says so.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # No proxy from the environment: it could answer in the broker's place.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    # A broker that is back is found as soon as a retry looks for it: left alone, gRPC stays away for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_LAST_PORT: Final = 65535
# What sun_path of Linux holds, less the zero at its end.
_SOCKET_BYTES: Final = 107


def check_target(target: str, *, encrypted: bool) -> str:
    """A target in gRPC's spelling.

    Args:
        target: ``unix:PATH``, ``tcp:HOST:PORT`` or ``HOST:PORT``.
        encrypted: whether there are TLS credentials for it.

    Raises:
        ValueError: it is none of these, needs credentials and has none, or has credentials and takes none.
    """
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{target!r} is no text") from error
    if target.startswith("unix:"):
        if encrypted:
            raise ValueError("a unix socket takes no TLS credentials")
        # gRPC's other spelling is unix:///absolute/path.
        path = target.removeprefix("unix:").removeprefix("//")
        if not 0 < len(path.encode()) <= _SOCKET_BYTES:
            raise ValueError(f"{target!r} has no path of 1 to {_SOCKET_BYTES} bytes, as a unix socket has")
        return target
    host, colon, port = target.removeprefix("tcp:").rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal()):
        raise ValueError(f"{target!r} is none of unix:PATH, tcp:HOST:PORT and HOST:PORT")
    # gRPC would take the remainder of another one for the port.
    if not 0 < int(port) <= _LAST_PORT:
        raise ValueError(f"{target!r} has no port of 1 to {_LAST_PORT}")
    # Whoever can answer in the broker's place can have the key material wrapped for himself.
    if not encrypted and not _is_loopback(host.strip("[]")):
        raise ValueError(f"{target!r} is not on this machine, so the connection needs TLS credentials")
    return f"dns:///{host}:{port}"


def open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel to a target that `check_target` gave; its credentials decide whether it is encrypted."""
    if credentials is None:
        # Of a socket gRPC would send the path, which is no authority, and which strict servers refuse.
        local = (("grpc.default_authority", "localhost"),) if target.startswith("unix:") else ()
        return grpc.aio.insecure_channel(target, options=_OPTIONS + local)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
