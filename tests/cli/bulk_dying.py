"""`keyimport`, killed by itself or out of disk: `python -m tests.cli.bulk_dying POINT bulk ...`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from keyimport import KeyImportClient, files
from keyimport.bulk.journal import Journal
from keyimport.cli import main

if TYPE_CHECKING:
    from keyimport.bulk.entries import Entry

UNDER_WAY_SECONDS = 0.3


def die() -> NoReturn:
    """End as a power cut would, except that the kernel's caches outlive it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError  # not reached


def at(point: str) -> None:
    """Let the process die at this point: WHEN:EVENT of a journal's entry, or one around the import or the saving."""
    when, _, event = point.partition(":")
    if when in ("before", "half", "after", "full"):
        _at_entry(when, event)
    elif when in ("before-rpc", "under-way", "answered"):
        _at_import(when)
    elif when in ("before-save", "saved"):
        _at_save(when)
    else:
        raise SystemExit(f"there is no point {point}")


def _at_entry(when: str, event: str) -> None:
    append = Journal.append

    def dying(self: Journal, entry: Entry) -> None:
        if entry.event != event:
            append(self, entry)
            return
        if when == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(self._fd).st_size + 10, resource.RLIM_INFINITY))
            append(self, entry)
        if when == "half":
            line = entry.line().encode()
            os.write(self._fd, line[: len(line) // 2])
        if when == "after":
            append(self, entry)
        die()

    Journal.append = dying  # type: ignore[method-assign]


def _at_import(when: str) -> None:
    send = KeyImportClient.import_wrapped

    async def dying(*arguments: Any, **more: Any) -> Any:
        if when == "under-way":
            asyncio.get_running_loop().call_later(UNDER_WAY_SECONDS, die)
        if when in ("under-way", "answered"):
            await send(*arguments, **more)
        die()

    KeyImportClient.import_wrapped = dying  # type: ignore[method-assign]


def _at_save(when: str) -> None:
    write = files.write_new

    def dying(*arguments: Any) -> None:
        if when == "saved":
            write(*arguments)
        die()

    files.write_new = dying  # type: ignore[assignment]


if __name__ == "__main__":
    at(sys.argv.pop(1))
    main()
