"""How far a bulk import is: a bar on a terminal, a line for each row elsewhere."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from keyimport.bulk.items import Outcome
from keyimport.cli.output import console, note, printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from contextlib import AbstractAsyncContextManager

    from keyimport.bulk.items import Item, Tally
    from keyimport.bulk.run import Run

_REFRESH_SECONDS: Final = 0.25
_REPEAT_SECONDS: Final = 10.0


class Display(Protocol):
    """What is shown while a run is under way."""

    def told(self, item: Item) -> None:
        """A row is done."""

    def say(self, text: str) -> None:
        """Something else to know."""

    def shown(self, run: Run) -> AbstractAsyncContextManager[None]:
        """Show it as long as the block lasts."""


class Lines:
    """For a log or another program: a line for each row, with the count of all; none where a program reads JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._run: Run | None = None

    def told(self, item: Item) -> None:
        if self._run:
            self.say(f"{_row(item)} ({counted(self._run.tally())})")

    def say(self, text: str) -> None:
        note(text, as_json=self._as_json)

    @asynccontextmanager
    async def shown(self, run: Run) -> AsyncIterator[None]:
        """Count the rows of this run, and say now and then how many they are."""
        self._run = run
        async with _beside(self._repeat(run)):
            yield

    async def _repeat(self, run: Run) -> None:
        said = counted(run.tally())
        while True:
            await asyncio.sleep(_REPEAT_SECONDS)
            if said != (said := counted(run.tally())):
                self.say(said)


class Bar:
    """For a terminal: a bar with the counts, and above it a line for each row that is not imported."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            console=console(sys.stderr),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("imported", total=None, counts="")

    def told(self, item: Item) -> None:
        if item.outcome is not Outcome.IMPORTED:
            self.say(_row(item))

    def say(self, text: str) -> None:
        self._progress.console.print(Text(printable(text)))

    @asynccontextmanager
    async def shown(self, run: Run) -> AsyncIterator[None]:
        """Show the bar as long as the block lasts."""
        self._count(run.tally())
        with self._progress:
            try:
                async with _beside(self._refresh(run)):
                    yield
            finally:
                self._draw(run.tally())

    async def _refresh(self, run: Run) -> None:
        while True:
            self._draw(run.tally())
            await asyncio.sleep(_REFRESH_SECONDS)

    def _draw(self, tally: Tally) -> None:
        self._count(tally)
        self._progress.refresh()

    def _count(self, tally: Tally) -> None:
        counts = counted(tally, imported=False)
        self._progress.update(self._task, completed=tally.imported, total=tally.rows, counts=counts)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Let the work go on as long as the block lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def counted(tally: Tally, *, imported: bool = True) -> str:
    """The counts in words, such as ``12 of 200 imported, 188 waiting, 0 failed, 0:12:32 left``."""
    parts = [f"{tally.imported} of {tally.rows} imported"] if imported else []
    why = f" ({tally.why})" if tally.why else ""
    parts += [f"{tally.waiting} waiting{why}", f"{tally.failed} failed"]
    if tally.unknown:
        parts.append(f"{tally.unknown} unknown")
    if tally.left is not None:
        parts.append(f"{timedelta(seconds=round(tally.left))} left")
    return ", ".join(parts)


def _row(item: Item) -> str:
    if item.end is None:
        return f"line {item.row.line}: {item.outcome}"
    why = f": {item.end.reason} {item.end.message}".rstrip() if item.end.message else ""
    return f"line {item.row.line}: {item.end.event} {item.end.key_arn or item.row.key_id}{why}"
