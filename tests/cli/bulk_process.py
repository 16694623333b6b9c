"""The real `keyimport bulk` command as a process, which can be killed at any moment, or by itself at a given point."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

ENDS_WITHIN = 100.0  # seconds, on a busy machine

COMMAND = "keyimport.cli"
"""The command itself."""
DYING = "tests.cli.bulk_dying"
"""The command, killed at the point that its first argument names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: the exit code, negative where a signal ended it, and what it said."""

    code: int | None
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        """What it printed, as JSON."""
        report: dict[str, Any] = json.loads(self.output)
        return report

    @property
    def outcomes(self) -> list[str]:
        """What became of each row, by the report."""
        return [row["outcome"] for row in self.report["rows"]]


@asynccontextmanager
async def bulk(
    manifest: Path, target: str, *options: str, module: str = COMMAND, point: str = ""
) -> AsyncIterator[Bulk]:
    """Start the command over a manifest; at the end of the block it is gone."""
    first = [point] if point else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *first, "bulk", str(manifest), "--target", target),
        *("--wrapping-key-spec", "RSA_2048", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    started = Bulk(process)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await started.ended()


async def run(manifest: Path, target: str, *options: str, module: str = COMMAND, point: str = "") -> Ended:
    """Run the command to its end."""
    async with bulk(manifest, target, *options, module=module, point=point) as process:
        return await process.ended()


async def run_at_terminal(manifest: Path, target: str, *options: str) -> Ended:
    """Run the command to its end at a terminal of its own, 120 columns wide; what was on it is the output."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", COMMAND, "bulk", str(manifest), "--target", target),
        *("--wrapping-key-spec", "RSA_2048", *options),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(theirs)
    seen = await asyncio.to_thread(read_terminal, ours)
    return Ended(code=await process.wait(), output=seen, errors="")


def read_terminal(ours: int) -> str:
    """Everything that the other side writes until it is gone, without what colours it."""
    content = b""
    with suppress(OSError):  # how a terminal says that the other side is gone
        while chunk := os.read(ours, 1 << 16):
            content += chunk
    os.close(ours)
    return _COLOURS.sub("", content.decode(errors="replace"))


class Bulk:
    """The command as it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._texts = {"output": "", "errors": ""}
        self._news = asyncio.Condition()
        self._reading = [
            asyncio.create_task(self._read("output", process.stdout)),
            asyncio.create_task(self._read("errors", process.stderr)),
        ]

    async def said(self, text: str) -> None:
        """Wait until this is on standard error."""
        async with asyncio.timeout(ENDS_WITHIN), self._news:
            await self._news.wait_for(lambda: text in self._texts["errors"])

    async def ended(self) -> Ended:
        """Wait until it ends."""
        async with asyncio.timeout(ENDS_WITHIN):
            await asyncio.gather(*self._reading)
            code = await self.process.wait()
        return Ended(code=code, **self._texts)

    async def _read(self, name: str, stream: asyncio.StreamReader | None) -> None:
        if stream is None:
            raise ValueError(f"{name} is no pipe")
        while chunk := await stream.read(1 << 16):
            async with self._news:
                self._texts[name] += chunk.decode()
                self._news.notify_all()
