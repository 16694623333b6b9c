"""Lines written to files and pipes. A full pipe that nobody reads must not stop the event loop."""

from __future__ import annotations

import errno
import os
import select

_PIECE = select.PIPE_BUF
"""Bytes for which a pipe has room whenever it says that it has any."""


class Lines:
    """Lines appended to a descriptor, each whole or not at all as far as the system allows."""

    def __init__(self, descriptor: int, *, torn: bool = False) -> None:
        """Nothing written yet.

        Args:
            descriptor: a file, a pipe, a socket or a terminal, in blocking mode: others may share it, and its mode.
            torn: whether what is there ends in the middle of a line.
        """
        self._descriptor = descriptor
        self._torn = torn
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def append(self, line: bytes, patience: float) -> None:
        """Writes a line. After one that was cut short it begins anew, so that only that one cannot be read.

        Args:
            line: with its end of line.
            patience: seconds to wait for a reader who is behind.

        Raises:
            OSError: it is not written, or not whole.
        """
        left = b"\n" + line if self._torn else line
        while left:
            if not self._room.poll(patience * 1000):
                raise BlockingIOError(errno.EAGAIN, "nobody reads what is written")
            written = os.write(self._descriptor, left[:_PIECE])
            left = left[written:]
            self._torn = bool(left)
