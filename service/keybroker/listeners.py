"""Sockets: how each is bound, and which identity it gives its callers."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keybroker.model import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from keybroker.settings import Listener

    Context = grpc.aio.ServicerContext[Any, Any]


class ListenError(Exception):
    """A listener cannot be opened; its text is for the operator."""


def identity(listener: Listener) -> Callable[[Context], Caller]:
    """Who the callers of a listener are: whoever may open the socket is the caller the settings name.

    Nothing a caller sends is looked at: metadata never changes who one is.
    """
    caller = Caller(name=listener.caller, listener=listener.address)
    return lambda _: caller


def bind(server: grpc.aio.Server, listener: Listener) -> int:
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
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"{listener.address}: cannot be bound; is the port in use?") from error


def _bind_unix(server: grpc.aio.Server, path: Path, mode: int) -> None:
    _remove_stale(path)
    # The socket's permissions come from the umask of the moment it is bound; a chmod alone would leave a gap.
    umask = os.umask(0o777 & ~mode)
    try:
        server.add_insecure_port(f"unix:{path}")
        path.chmod(mode)
    except (RuntimeError, OSError) as error:
        raise ListenError(
            f"unix:{path}: cannot be bound; does its directory exist, may the broker write it?"
        ) from error
    finally:
        os.umask(umask)


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
