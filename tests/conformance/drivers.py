"""The drivers: a program of each language that does with its client library what it is told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = Path(__file__).resolve().parents[2] / "clients"
ALL_LANGUAGES = ("python", "go", "java", "typescript", "rust")

LANGUAGES = tuple(os.environ.get("KEYBROKER_CLIENTS", "python").split())
"""Whose clients are tried. `make conformance` names all of them, once it has built them."""


class Driver:
    """A driver that runs; DRIVER.md says what it understands."""

    def __init__(self, language: str, process: subprocess.Popen[bytes]) -> None:
        self.language = language
        self._process = process

    async def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Has one thing done; the whole answer."""
        return await asyncio.to_thread(self._exchange, json.dumps(request).encode() + b"\n")

    def _exchange(self, line: bytes) -> dict[str, Any]:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(line)
        requests.flush()
        answer = answers.readline()
        assert answer.endswith(b"\n"), f"the {self.language} driver has ended"
        read: dict[str, Any] = json.loads(answer)
        assert len(read) == 1, read
        return read


@contextmanager
def driver(language: str) -> Iterator[Driver]:
    """Runs the driver of a language, which must have been built."""
    process = subprocess.Popen(  # noqa: S603 -- a script of ours
        [CLIENTS / language / "conformance"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Driver(language, process)
        if process.stdin:
            process.stdin.close()
        assert process.wait(20) == 0, f"the {language} driver failed"
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
