"""Sockets: how each is bound, and which identity it gives its callers."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keybroker.errors import StartError
from keybroker.model import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from keybroker.certificates import Certificates
    from keybroker.clock import Clock
    from keybroker.settings_callers import Limits
    from keybroker.settings_listeners import Listener

    Context = grpc.aio.ServicerContext[Any, Any]

LONGEST_CONNECTION = 600
"""Seconds after which a TLS connection is asked to make way for a new one, with a new look at certificates."""

_HANDSHAKE = 5
"""Seconds a TLS handshake may take."""

# Those a local listener lets in are trusted with many requests at once on one connection.
_LOCAL_STREAMS = 100_000


class ListenError(StartError):
    """A listener cannot be opened; its text is for the operator."""


def identity(listener: Listener, certificates: Certificates | None, clock: Clock) -> Callable[[Context], Caller]:
    """Who the callers of a listener are: the name in the client's certificate, or the name the settings give.

    Nothing a caller sends in metadata is looked at.
    """
    if certificates:
        return lambda context: Caller(
            name=certificates.clients.identify(
                {name: list(values) for name, values in context.auth_context().items()}, clock.now()
            ),
            listener=listener.address,
        )
    caller = Caller(name=listener.caller or "", listener=listener.address)
    return lambda _: caller


def options(listener: Listener, limits: Limits, longest_deadline: float) -> list[tuple[str, int]]:
    """GRPC's settings for a listener: bounds for what can reach it before anyone is known."""
    common = [
        ("grpc.so_reuseport", 0),  # on by default: a second broker would silently share the port
        ("grpc.max_receive_message_length", 64 * 1024),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.absolute_max_metadata_size", 16 * 1024),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        # Below these, gRPC answers CANCELLED by itself when thousands of callers wait for one set.
        ("grpc.server.max_pending_requests", 65_536),
        ("grpc.server.max_pending_requests_hard_limit", 131_072),
    ]
    if not listener.tls:
        return [*common, ("grpc.max_concurrent_streams", _LOCAL_STREAMS)]
    return [
        *common,
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE * 1000),
        ("grpc.max_connection_age_ms", LONGEST_CONNECTION * 1000),
        # A call that outlives the grace would fail with UNAVAILABLE.
        ("grpc.max_connection_age_grace_ms", int(longest_deadline * 1000) + 60_000),
    ]


def bind(server: grpc.aio.Server, listener: Listener, certificates: Certificates | None) -> int:
    """Binds a server to a listener's address, not yet accepting.

    Returns:
        The TCP port; 0 for a Unix socket.

    Raises:
        ListenError
    """
    if path := listener.socket_path:
        _bind_unix(server, Path(path), int(listener.mode, 8))
        return 0
    address = listener.address.removeprefix("tcp:")
    try:
        if certificates:
            return server.add_secure_port(address, certificates.credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"{listener.address}: cannot be bound; is the port in use?") from error


def _bind_unix(server: grpc.aio.Server, path: Path, mode: int) -> None:
    _require_private(path.parent)
    _remove_stale(path)
    # The socket's permissions come from the umask of the moment it is bound; a chmod alone would leave a gap.
    umask = os.umask(0o777 & ~mode)
    try:
        server.add_insecure_port(f"unix:{path}")
        path.chmod(mode)
    except (RuntimeError, OSError) as error:
        raise ListenError(f"unix:{path}: cannot be bound; may the broker write its directory?") from error
    finally:
        os.umask(umask)


def _require_private(directory: Path) -> None:
    """Refuses a directory in which others could put a socket of their own in the place of ours."""
    try:
        status = directory.stat()
    except OSError as error:
        raise ListenError(f"unix: the directory {directory}: {error.strerror}") from error
    if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
        raise ListenError(
            f"unix: the directory {directory} may be written by others, who could put their own socket there; it must"
            " belong to root or the broker, with mode 0755 or less"
        )


def _remove_stale(path: Path) -> None:
    """Removes a socket nobody listens on. gRPC would silently take the path of one that is listened on."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"unix:{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(kind):
        raise ListenError(f"unix:{path}: is there already, and is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ListenError(f"unix:{path}: is there already, and cannot be tried: {error.strerror}") from error
    raise ListenError(f"unix:{path}: another process is listening there")
