"""Lines written to files and pipes. A full pipe that nobody reads must not stop the event loop."""

from __future__ import annotations

import errno
import os
import select

_PIECE = select.PIPE_BUF
"""Bytes for which a pipe has room whenever it says that it has any."""


def append(descriptor: int, line: bytes, patience: float) -> None:
    """Writes a line, whole or not at all as far as the system allows.

    Args:
        descriptor: a file, a pipe, a socket or a terminal, in blocking mode: others may share it, and its mode.
        line: with its end of line.
        patience: seconds to wait for a reader who is behind.

    Raises:
        OSError: it is not written, or not whole.
    """
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    for start in range(0, len(line), _PIECE):
        if not room.poll(patience * 1000):
            raise BlockingIOError(errno.EAGAIN, "nobody reads what is written")
        piece = line[start : start + _PIECE]
        if os.write(descriptor, piece) != len(piece):
            raise OSError(errno.EIO, "the line was cut short")
