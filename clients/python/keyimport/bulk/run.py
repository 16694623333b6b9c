"""A bulk import: the quota is never idle while rows wait for it, and no row stops another."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from keyimport.bulk import items as rows
from keyimport.bulk.importing import Importing
from keyimport.bulk.items import Phase
from keyimport.bulk.journal import JournalError
from keyimport.bulk.patience import awaited, is_away, seconds_to_wait
from keyimport.errors import KeyImportError, QuotaWaitExceedsDeadline
from keyimport.results import BatchParameters, BatchProgress, BatchRefusal
from keyimport.v1.key_import_pb2 import WrappingAlgorithm, WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import timedelta

    from keyimport.bulk.entries import History
    from keyimport.bulk.items import Item, Tally
    from keyimport.bulk.journal import Journal
    from keyimport.bulk.manifest import Manifest
    from keyimport.client import KeyImportClient
    from keyimport.results import BatchNews

_KEYS_IN_A_STREAM: Final = 500
_STREAM_SECONDS: Final = 900.0
# Keys that did not fit into a stream are asked for so much earlier, as a part of it, lest the quota be idle.
_AHEAD: Final = 1 / 20
GREETING_SECONDS: Final = 10.0
"""How long the first answer is waited for."""


class Run:
    """One run over the rows of a manifest that are not imported yet.

    Attributes:
        items: the rows, in the manifest's order.
    """

    def __init__(
        self,
        *,
        client: KeyImportClient,
        journal: Journal,
        manifest: Manifest,
        known: Mapping[str, History],
        settling: timedelta,
        wrapping_algorithm: WrappingAlgorithm.ValueType = WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
        wrapping_key_spec: WrappingKeySpec.ValueType = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
        stream_seconds: float = _STREAM_SECONDS,
        told: Callable[[Item], None] = lambda _item: None,
    ) -> None:
        """Begin nothing.

        Args:
            client: open.
            journal: open, of this manifest.
            manifest: the rows, checked.
            known: what the journal says of them.
            settling: as for `Importing`.
            wrapping_algorithm: as for `KeyImportClient.get_parameters`.
            wrapping_key_spec: as for `KeyImportClient.get_parameters`.
            stream_seconds: the deadline of a stream, 900 at most.
            told: is called with each row when it is done.
        """
        self.items = rows.begin(manifest.rows, known)
        self._client = client
        self._importing = Importing(client=client, journal=journal, manifest=manifest, settling=settling)
        self._wrapping_algorithm = wrapping_algorithm
        self._wrapping_key_spec = wrapping_key_spec
        self._stream_seconds = stream_seconds
        self._told = told
        self._changed = asyncio.Event()
        self._stopping = False

    def tally(self) -> Tally:
        """How many rows are where, now."""
        return rows.tally(self.items, asyncio.get_running_loop().time())

    def stop(self) -> None:
        """Begin nothing new; `run` returns when the imports under way are in the journal."""
        self._stopping = True
        self._importing.interrupt()
        self._changed.set()

    async def run(self) -> None:
        """Import. A second run for what is left needs a second `Run`.

        Raises:
            KeyImportError: no broker answers, and nothing was begun.
            JournalError: the journal cannot be written any more; imports under way are left to the next run.
        """
        await self._greet()
        try:
            async with asyncio.TaskGroup() as group:
                for item in self._in(Phase.SETTLING):
                    group.create_task(self._with(item, self._importing.settle(item)))
                # All are looked at first, so that the streams are few and long.
                async with asyncio.TaskGroup() as looks:
                    for item in self._in(Phase.NEW):
                        looks.create_task(self._with(item, self._importing.look(item)))
                await self._ask_for_all(group)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _ask_for_all(self, group: asyncio.TaskGroup) -> None:
        clock = asyncio.get_running_loop().time
        while not self._stopping and any(item.phase is not Phase.DONE for item in self.items):
            due = self._due(clock())
            for start in range(0, len(due), _KEYS_IN_A_STREAM):
                asked = due[start : start + _KEYS_IN_A_STREAM]
                for item in asked:
                    item.phase, item.crowded = Phase.ASKED, False
                group.create_task(self._stream(asked, group))
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min((item.due for item in self._in(Phase.WAITING)), default=None)):
                    await self._changed.wait()

    def _due(self, now: float) -> list[Item]:
        """Those to ask for now; with the first of those the line was too long for, all that fit behind it."""
        waiting = self._in(Phase.WAITING)
        if not any(item.due <= now for item in waiting):
            return []
        return [item for item in waiting if item.due <= now + (self._stream_seconds if item.crowded else 0)]

    async def _stream(self, asked: Sequence[Item], group: asyncio.TaskGroup) -> None:
        by_key = {item.row.key_id: item for item in asked}
        news = self._client.get_parameters_batch(
            by_key,
            wrapping_algorithm=self._wrapping_algorithm,
            wrapping_key_spec=self._wrapping_key_spec,
            timeout=self._stream_seconds,
        )
        with self._importing.interruptible():
            try:
                async with aclosing(news):
                    async for one in news:
                        self._take(by_key[one.key_id], one, group)
            except KeyImportError as error:
                for item in asked:
                    if item.phase is Phase.ASKED:
                        self._refuse(item, error)

    def _take(self, item: Item, news: BatchNews, group: asyncio.TaskGroup) -> None:
        match news:
            case BatchProgress(expected_wait=wait, position=position):
                item.turn = asyncio.get_running_loop().time() + wait.total_seconds()
                item.pace = wait.total_seconds() / position if position else 0.0
            case BatchRefusal(error=error):
                self._refuse(item, error)
            case BatchParameters(parameters=parameters):
                item.phase, item.turn, item.why = Phase.PREPARING, None, ""
                group.create_task(self._with(item, self._importing.run(item, parameters)))

    def _refuse(self, item: Item, error: KeyImportError) -> None:
        delay = seconds_to_wait(error)
        now = asyncio.get_running_loop().time()
        item.turn = None
        if delay is None:
            self._importing.fail(item, error)
            self._told(item)
        else:
            item.crowded = isinstance(error, QuotaWaitExceedsDeadline)
            if item.crowded:
                item.turn = now + delay
                ahead = _AHEAD * self._stream_seconds
                delay = max(delay - ahead, min(delay, ahead))
            item.phase, item.due = Phase.WAITING, now + delay
            item.why = "" if item.crowded else awaited(error)
        self._changed.set()

    async def _with(self, item: Item, work: Coroutine[None, None, None]) -> None:
        """Do it, and let it be known."""
        try:
            await work
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 -- no row stops another
            self._importing.break_off(item, error)
        finally:
            self._changed.set()
        if item.phase is Phase.DONE:
            self._told(item)

    def _in(self, phase: Phase) -> list[Item]:
        return [item for item in self.items if item.phase is phase]

    async def _greet(self) -> None:
        """Learn whether a broker answers at all: later its absence is only waited for."""
        for item in self.items:
            if item.phase is not Phase.DONE:
                try:
                    await self._client.status(item.row.key_id, timeout=GREETING_SECONDS)
                except KeyImportError as error:
                    if is_away(error):
                        raise
                return


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of the errors that are not groups themselves."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
