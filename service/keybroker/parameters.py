"""The cache: one unexpired parameter set for each slot, fetched once however many ask."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from keybroker import errors
from keybroker.lru import Lru
from keybroker.model import Source

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.keys import Keys
    from keybroker.kms import Kms
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.quota import Place, Quota
    from keybroker.tasks import Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a caller needs of a set.

    Attributes:
        caller: whose share of the line a new fetch uses.
        min_remaining: seconds the set is still valid at least.
        deadline: monotonic; an expected wait beyond it is refused at once.
        described: whether KMS has just been asked whether the key takes imports.
    """

    caller: str
    min_remaining: float
    deadline: float
    described: bool


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    """A set in the cache. `expires` is monotonic, so that no jump of the wall clock makes an expired set look fresh."""

    parameters: ParameterSet
    expires: float
    retired: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Fetch:
    """A fetch under way. It belongs to the broker: callers join it and leave it, and it goes on.

    Attributes:
        caller: whose share of the line it uses: of those who joined, the one whose turn comes first.
        patience: the latest deadline among those who joined; nobody could use the answer after it.
        described: whether KMS has just been asked about the key.
        lined_up: done when the wait is known.
    """

    slot: Slot
    caller: str
    patience: float
    described: bool
    lined_up: asyncio.Future[None]
    place: Place | None = None
    task: asyncio.Task[_Entry] = field(init=False)


class Parameters:
    """The parameter sets of one Region."""

    def __init__(
        self,
        *,
        kms: Kms,
        quota: Quota,
        keys: Keys,
        clock: Clock,
        tasks: Tasks,
        max_entries: int,
        supersede: bool,
    ) -> None:
        """An empty cache.

        Args:
            kms: the Region's KMS.
            quota: spent one token for each set.
            keys: asked before a token is spent.
            clock: wall and monotonic time.
            tasks: runs the fetches.
            max_entries: sets kept; the least recently used goes first.
            supersede: whether a newer set for a key ends the older ones of that key.
        """
        self._kms = kms
        self._quota = quota
        self._keys = keys
        self._clock = clock
        self._tasks = tasks
        self._supersede = supersede
        self._entries: Lru[Slot, _Entry] = Lru(max_entries)
        self._fetches: dict[Slot, _Fetch] = {}
        self._issuing: WeakValueDictionary[KeyArn, asyncio.Lock] = WeakValueDictionary()

    async def shared(self, slot: Slot, ask: Ask) -> tuple[ParameterSet, Source]:
        """The slot's set: cached, of a fetch under way, or of a new one.

        Raises:
            QuotaWaitExceedsDeadline, QuotaQueueFull, CallerRateExceeded, TimeoutError, or what the fetch failed with
        """
        while True:
            entry = self._entries.get(slot)
            if entry and self._remaining(entry) >= ask.min_remaining:
                self._entries.move_to_end(slot)
                return entry.parameters, Source.CACHE
            self._keys.require_not_refused(slot.key)
            fetch = self._fetches.get(slot)
            if fetch is None or fetch.task.done():
                fetch = self._fetches[slot] = self._start(slot, ask)
                fetch.task.add_done_callback(partial(self._finished, fetch))
            else:
                self._join(fetch, ask.caller)
            entry = await self._wait_for(fetch, ask.deadline)
            ask = replace(ask, described=False)
            if not entry.retired:  # else imported or superseded by another caller before this one woke
                self._require_valid_for(ask.min_remaining, entry)
                return entry.parameters, Source.KMS

    async def exclusive(self, slot: Slot, ask: Ask) -> ParameterSet:
        """A set that no one else was or will be given; raises as shared."""
        self._keys.require_not_refused(slot.key)
        fetch = self._start(slot, ask)
        try:
            entry = await self._wait_for(fetch, ask.deadline)
        finally:
            fetch.task.cancel()  # nobody else could use it
        self._require_valid_for(ask.min_remaining, entry)
        return entry.parameters

    def find(self, key: KeyArn, import_token: bytes) -> ParameterSet | None:
        """The cached set of this key with this token."""
        return next((e.parameters for e in self._of(key) if e.parameters.import_token == import_token), None)

    def forget(self, key: KeyArn, import_token: bytes) -> None:
        """Never hands out the set with this token again."""
        for entry in self._of(key):
            if entry.parameters.import_token == import_token:
                self._retire(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def _of(self, key: KeyArn) -> list[_Entry]:
        return [entry for slot, entry in self._entries.items() if slot.key == key]

    def _retire(self, entry: _Entry) -> None:
        entry.retired = True
        if self._entries.get(entry.parameters.slot) is entry:
            del self._entries[entry.parameters.slot]

    def _remaining(self, entry: _Entry) -> float:
        by_wall_clock = (entry.parameters.valid_to - self._clock.now()) / timedelta(seconds=1)
        return min(by_wall_clock, entry.expires - self._clock.monotonic())

    def _start(self, slot: Slot, ask: Ask) -> _Fetch:
        self._require_in_time(self._quota.expected_wait(ask.caller), ask.deadline)
        self._quota.require_room(ask.caller)
        if not ask.described:
            self._keys.charge(ask.caller)
        lined_up = asyncio.get_running_loop().create_future()
        fetch = _Fetch(slot=slot, caller=ask.caller, patience=ask.deadline, described=ask.described, lined_up=lined_up)
        fetch.task = self._tasks.start(self._fetch(fetch))
        return fetch

    def _join(self, fetch: _Fetch, caller: str) -> None:
        """Brings the fetch forward where the caller's own turn would come sooner: no one waits for another's greed."""
        if fetch.place:
            self._quota.rehome(fetch.place, caller)
        elif self._quota.expected_wait(caller) < self._quota.expected_wait(fetch.caller):
            fetch.caller = caller

    async def _wait_for(self, fetch: _Fetch, deadline: float) -> _Entry:
        """The fetch's result. The caller's cancel or deadline ends the waiting, not the fetch."""
        fetch.patience = max(fetch.patience, deadline)
        while not fetch.task.done():
            wait = fetch.place.expected_wait() if fetch.place else self._quota.expected_wait(fetch.caller)
            self._require_in_time(wait, deadline)
            awaited: set[asyncio.Future[Any]] = {fetch.task}
            if not fetch.lined_up.done():
                awaited.add(fetch.lined_up)
            left = max(0.0, deadline - self._clock.monotonic())
            done, _ = await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self._require_in_time(fetch.place.expected_wait() if fetch.place else 0.0, deadline)
                raise TimeoutError
        try:
            return fetch.task.result()
        except errors.BrokerError as error:
            raise error.with_traceback(None)  # noqa: B904 -- one exception for all: each waiter would lengthen its traceback

    def _finished(self, fetch: _Fetch, _: object) -> None:
        if self._fetches.get(fetch.slot) is fetch:
            del self._fetches[fetch.slot]

    def _require_valid_for(self, min_remaining: float, entry: _Entry) -> None:
        if self._remaining(entry) < min_remaining:
            raise errors.KmsBadResponse("the new set is valid for less than the caller needs")

    def _require_in_time(self, wait: float, deadline: float) -> None:
        if wait > max(0.0, deadline - self._clock.monotonic()):
            raise errors.QuotaWaitExceedsDeadline(retry_after=wait)

    async def _fetch(self, fetch: _Fetch) -> _Entry:
        slot = fetch.slot
        # KMS may end a key's older sets when it issues a newer one: one at a time, so that which is the newer is known.
        lock = self._issuing.setdefault(slot.key, asyncio.Lock())
        async with lock:
            if not fetch.described:
                await self._keys.require_importable(slot.key)
            fetch.place = self._quota.join(fetch.caller)
            try:
                self._require_in_time(fetch.place.expected_wait(), fetch.patience)
                fetch.lined_up.set_result(None)
                await fetch.place.turn()
            finally:
                self._quota.leave(fetch.place)
            entry = await self._issue(slot)
            if self._fetches.get(slot) is fetch:
                self._entries[slot] = entry
            return entry

    async def _issue(self, slot: Slot) -> _Entry:
        """A new set from KMS, the token spent. What it may have superseded is retired, unless KMS plainly refused."""
        try:
            parameters = await self._kms.get_parameters_for_import(slot)
        except errors.KmsThrottled as error:
            self._quota.slow_down()
            raise errors.KmsThrottled(retry_after=self._quota.expected_wait("")) from error
        except errors.BrokerError as error:
            if error.unanswered:
                self._supersede_all(slot.key)
            if isinstance(error, errors.KeyNotExternal) and self._keys.known(slot.key):
                raise errors.WrappingUnsuitable from error  # KMS's code is for both; the origin is known to be right
            self._keys.remember_refusal(slot.key, error)
            raise
        except asyncio.CancelledError:
            self._supersede_all(slot.key)
            raise
        self._supersede_all(slot.key)
        valid_for = (parameters.valid_to - self._clock.now()) / timedelta(seconds=1)
        return _Entry(parameters=parameters, expires=self._clock.monotonic() + valid_for)

    def _supersede_all(self, key: KeyArn) -> None:
        if self._supersede:
            for entry in self._of(key):
                self._retire(entry)
