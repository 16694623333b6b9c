"""The cache: one unexpired parameter set for each slot, fetched once however many ask."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from keybroker import errors
from keybroker.lru import Lru
from keybroker.model import Outlook, Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from keybroker.clock import Clock
    from keybroker.fleet import Fleet
    from keybroker.keys import Keys
    from keybroker.kms import Kms
    from keybroker.metrics import Metrics
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.quota import Place, Quota
    from keybroker.tasks import Tasks


class Waiting:
    """Where it can be seen how far one key of many is."""

    def __init__(self) -> None:
        self._look: Callable[[], Outlook] | None = None

    @contextmanager
    def at(self, look: Callable[[], Outlook]) -> Iterator[None]:
        """While it waits in the line."""
        self._look = look
        try:
            yield
        finally:
            self._look = None

    def outlook(self) -> Outlook | None:
        """None unless it waits in the line."""
        return self._look() if self._look else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a caller needs of a set.

    Attributes:
        caller: whose share of the line a new fetch uses.
        min_remaining: seconds the set is still valid at least.
        deadline: monotonic; an expected wait beyond it is refused at once.
        described: whether KMS has just been asked whether the key takes imports.
        warming: whether the set is for the cache, and not for a caller's hands.
        waiting: for one key of many, where it can be seen how far it is. If such callers alone wait for a fetch and all
            leave, it is given up, unless its token is spent.
    """

    caller: str
    min_remaining: float
    deadline: float
    described: bool
    warming: bool = False
    waiting: Waiting | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    """A set in the cache. `expires` is monotonic, so that no jump of the wall clock makes an expired set look fresh."""

    parameters: ParameterSet
    expires: float
    source: Source
    handed_out: bool = False
    retired: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Fetch:
    """A fetch under way. It belongs to the broker: callers join it and leave it, and it goes on.

    Attributes:
        caller: whose share of the line it uses: of those who joined, the one whose turn comes first.
        patience: the latest deadline among those who joined; nobody could use the answer after it.
        described: whether KMS has just been asked about the key.
        min_remaining: what the caller who started it needs.
        lined_up: done when the wait is known.
        other_wait: seconds that another replica expects to take, which is fetching the same.
        waiters: how many wait for it.
        kept: whether it goes on if they all leave.
    """

    slot: Slot
    caller: str
    patience: float
    described: bool
    min_remaining: float
    lined_up: asyncio.Future[None]
    place: Place | None = None
    other_wait: float = 0.0
    waiters: int = 0
    kept: bool = False
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
        metrics: Metrics,
        max_entries: int,
        supersede: bool,
        fleet: Fleet | None = None,
    ) -> None:
        """An empty cache.

        Args:
            kms: the Region's KMS.
            quota: spent one token for each set.
            keys: asked before a token is spent.
            clock: wall and monotonic time.
            tasks: runs the fetches.
            metrics: counts those who join a fetch.
            max_entries: sets kept; the least recently used goes first.
            supersede: whether a newer set for a key ends the older ones of that key.
            fleet: the other replicas, if there are any.
        """
        self._kms = kms
        self._quota = quota
        self._keys = keys
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._supersede = supersede
        self._fleet = fleet
        self._entries: Lru[Slot, _Entry] = Lru(max_entries)
        self._fetches: dict[Slot, _Fetch] = {}
        self._issuing: WeakValueDictionary[KeyArn, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        """Sets in the cache."""
        return len(self._entries)

    async def shared(self, slot: Slot, ask: Ask) -> tuple[ParameterSet, Source]:
        """The slot's set: cached, of a fetch under way, or of a new one.

        Raises:
            QuotaWaitExceedsDeadline, QuotaQueueFull, CallerRateExceeded, TimeoutError, or what the fetch failed with
        """
        while True:
            entry = self._entries.get(slot)
            if entry and self._remaining(entry) >= ask.min_remaining:
                if not await self._ended(entry):
                    entry.handed_out |= not ask.warming
                    return entry.parameters, Source.CACHE
                continue
            self._keys.require_not_refused(slot.key)
            fetch = self._fetches.get(slot)
            if fetch is None or fetch.task.done():
                fetch = self._fetches[slot] = self._start(slot, ask)
                fetch.task.add_done_callback(partial(self._finished, fetch))
            else:
                self._metrics.joined.inc()
                self._join(fetch, ask.caller)
            entry = await self._wait_for(fetch, ask)
            ask = replace(ask, described=False)
            enough = self._remaining(entry) >= ask.min_remaining
            if enough and not entry.retired:  # else imported or superseded by another caller before this one woke
                entry.handed_out |= not ask.warming
                return entry.parameters, entry.source
            if entry.source is Source.KMS and not entry.retired:
                raise errors.KmsBadResponse("the new set is valid for less than the caller needs")

    async def exclusive(self, slot: Slot, ask: Ask) -> ParameterSet:
        """A set that no one else was or will be given; raises as shared."""
        self._keys.require_not_refused(slot.key)
        fetch = self._start(slot, ask, exclusive=True)
        try:
            entry = await self._wait_for(fetch, ask)
        finally:
            fetch.task.cancel()  # nobody else could use it
        if self._remaining(entry) < ask.min_remaining:
            raise errors.KmsBadResponse("the new set is valid for less than the caller needs")
        return entry.parameters

    def wants_warming(self, slot: Slot, min_remaining: float) -> bool:
        """Whether the slot is without a usable set, and without one that may be in callers' hands."""
        entry = self._entries.get(slot)
        if entry is None:
            return True
        # What came from the store may have been handed out by others.
        held = entry.handed_out or entry.source is Source.STORE
        return self._remaining(entry) < (0 if held else min_remaining)

    def find(self, key: KeyArn, import_token: bytes) -> ParameterSet | None:
        """The cached set of this key with this token."""
        return next((entry.parameters for entry in self._with_token(key, import_token)), None)

    async def forget(self, key: KeyArn, import_token: bytes) -> None:
        """Never hands out the set with this token again, nor does any other replica once this has returned."""
        for entry in self._with_token(key, import_token):
            self._retire(entry)
        if self._fleet:
            await self._fleet.end(key, import_token)

    def _of(self, key: KeyArn) -> list[_Entry]:
        return [entry for slot, entry in self._entries.items() if slot.key == key]

    def _with_token(self, key: KeyArn, import_token: bytes) -> list[_Entry]:
        return [entry for entry in self._of(key) if entry.parameters.import_token == import_token]

    async def _ended(self, entry: _Entry) -> bool:
        """Whether a cached set has been ended, here or by another replica."""
        if self._fleet and await self._fleet.ended(entry.parameters):
            self._retire(entry)
        if not entry.retired and entry.parameters.slot in self._entries:
            self._entries.move_to_end(entry.parameters.slot)
        return entry.retired

    def _retire(self, entry: _Entry) -> None:
        entry.retired = True
        if self._entries.get(entry.parameters.slot) is entry:
            del self._entries[entry.parameters.slot]

    def _remaining(self, entry: _Entry) -> float:
        by_wall_clock = (entry.parameters.valid_to - self._clock.now()) / timedelta(seconds=1)
        return min(by_wall_clock, entry.expires - self._clock.monotonic())

    def _start(self, slot: Slot, ask: Ask, *, exclusive: bool = False) -> _Fetch:
        self._require_in_time(self._quota.expected_wait(ask.caller), ask.deadline)
        self._quota.require_room(ask.caller)
        if not ask.described:
            self._keys.charge(ask.caller)
        lined_up = asyncio.get_running_loop().create_future()
        fetch = _Fetch(
            slot=slot,
            caller=ask.caller,
            patience=ask.deadline,
            described=ask.described,
            min_remaining=ask.min_remaining,
            lined_up=lined_up,
        )
        fetch.task = self._tasks.start(self._fetch_exclusive(fetch) if exclusive else self._fetch(fetch))
        return fetch

    def _join(self, fetch: _Fetch, caller: str) -> None:
        """Brings the fetch forward where the caller's own turn would come sooner: no one waits for another's greed."""
        if fetch.place:
            self._quota.rehome(fetch.place, caller)
        elif self._quota.expected_wait(caller) < self._quota.expected_wait(fetch.caller):
            fetch.caller = caller

    async def _wait_for(self, fetch: _Fetch, ask: Ask) -> _Entry:
        """The fetch's result. The caller's cancel or deadline ends the waiting, not the fetch."""
        fetch.waiters += 1
        fetch.kept |= ask.waiting is None
        try:
            with ask.waiting.at(partial(self._outlook, fetch)) if ask.waiting else nullcontext():
                return await self._result_of(fetch, ask.deadline)
        finally:
            fetch.waiters -= 1
            begun = fetch.place and fetch.place.turned.done()
            if not (fetch.waiters or fetch.kept or begun or fetch.task.done()):
                self._finished(fetch, None)
                fetch.task.cancel()

    def _outlook(self, fetch: _Fetch) -> Outlook:
        return Outlook(position=fetch.place.ahead() if fetch.place else 0, wait=self._expected_wait(fetch))

    async def _result_of(self, fetch: _Fetch, deadline: float) -> _Entry:
        fetch.patience = max(fetch.patience, deadline)
        if fetch.place:
            fetch.place.patience = fetch.patience
        while not fetch.task.done():
            self._require_in_time(self._expected_wait(fetch), deadline)
            awaited: set[asyncio.Future[Any]] = {fetch.task}
            if not fetch.lined_up.done():
                awaited.add(fetch.lined_up)
            left = max(0.0, deadline - self._clock.monotonic())
            done, _ = await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self._require_in_time(fetch.place.expected_wait() if fetch.place else fetch.other_wait, deadline)
                raise TimeoutError
        try:
            return fetch.task.result()
        except errors.BrokerError as error:
            raise error.with_traceback(None)  # noqa: B904 -- one exception for all: each waiter would lengthen its traceback

    def _finished(self, fetch: _Fetch, _: object) -> None:
        if self._fetches.get(fetch.slot) is fetch:
            del self._fetches[fetch.slot]

    def _require_in_time(self, wait: float, deadline: float) -> None:
        if wait > max(0.0, deadline - self._clock.monotonic()):
            raise errors.QuotaWaitExceedsDeadline(retry_after=wait)

    def _expected_wait(self, fetch: _Fetch) -> float:
        if fetch.place:
            return fetch.place.expected_wait()
        return fetch.other_wait or self._quota.expected_wait(fetch.caller)

    async def _fetch(self, fetch: _Fetch) -> _Entry:
        """The slot's new set: from another replica, or from KMS."""
        async with self._issuing_one(fetch.slot.key):
            entry = await self._from_fleet(fetch)
            if entry is None:
                entry = await self._from_kms(fetch)
                if self._fleet:
                    await self._fleet.keep(entry.parameters, supersede=self._supersede)
            if self._fetches.get(fetch.slot) is fetch:
                self._entries[fetch.slot] = entry
            return entry

    async def _fetch_exclusive(self, fetch: _Fetch) -> _Entry:
        """A set from KMS that is kept nowhere."""
        async with self._issuing_one(fetch.slot.key):
            await self._from_fleet(fetch, exclusive=True)
            entry = await self._from_kms(fetch)
            if self._fleet and self._supersede:
                await self._fleet.supersede(fetch.slot.key, entry.parameters)
            return entry

    @asynccontextmanager
    async def _issuing_one(self, key: KeyArn) -> AsyncIterator[None]:
        """KMS may end a key's older sets when it issues a newer one: one at a time, so that the newer one is known."""
        lock = self._issuing.setdefault(key, asyncio.Lock())
        async with lock:
            try:
                yield
            finally:
                if self._fleet:
                    await self._fleet.release(key)

    async def _from_fleet(self, fetch: _Fetch, *, exclusive: bool = False) -> _Entry | None:
        """Another replica's set, unless it must be one of our own; None if the key is now this replica's to ask for."""
        if self._fleet is None:
            return None

        def told(wait: float) -> None:
            fetch.other_wait = wait
            if not fetch.lined_up.done():
                fetch.lined_up.set_result(None)

        def usable(parameters: ParameterSet) -> bool:
            enough = self._remaining(self._entry(parameters, Source.STORE)) >= fetch.min_remaining
            return enough and not exclusive

        found = await self._fleet.look(
            fetch.slot, usable=usable, told=told, expected=lambda: self._expected_wait(fetch)
        )
        fetch.other_wait = 0.0
        return self._entry(found, Source.STORE) if found else None

    async def _from_kms(self, fetch: _Fetch) -> _Entry:
        if not fetch.described:
            await self._keys.require_importable(fetch.slot.key)
        fetch.place = self._quota.join(fetch.caller, fetch.patience)
        try:
            await fetch.place.lined_up()
            self._require_in_time(fetch.place.expected_wait(), fetch.patience)
            if not fetch.lined_up.done():
                fetch.lined_up.set_result(None)
            await fetch.place.turn()
        finally:
            self._quota.leave(fetch.place)
        return await self._issue(fetch.slot)

    async def _issue(self, slot: Slot) -> _Entry:
        """A new set from KMS, the token spent. What it may have superseded is retired, unless KMS plainly refused."""
        try:
            parameters = await self._kms.get_parameters_for_import(slot)
        except errors.KmsThrottled as error:
            self._quota.slow_down()
            raise errors.KmsThrottled(retry_after=self._quota.expected_wait("")) from error
        except errors.BrokerError as error:
            if error.unanswered:
                await self._supersede_all_everywhere(slot.key)
            if isinstance(error, errors.KeyNotExternal) and self._keys.known(slot.key):
                raise errors.WrappingUnsuitable from error  # KMS's code is for both; the origin is known to be right
            self._keys.remember_refusal(slot.key, error)
            raise
        except asyncio.CancelledError:
            self._supersede_all(slot.key)
            self._tasks.start(self._supersede_all_everywhere(slot.key))
            raise
        self._supersede_all(slot.key)
        return self._entry(parameters, Source.KMS)

    def _entry(self, parameters: ParameterSet, source: Source) -> _Entry:
        valid_for = (parameters.valid_to - self._clock.now()) / timedelta(seconds=1)
        return _Entry(parameters=parameters, expires=self._clock.monotonic() + valid_for, source=source)

    async def _supersede_all_everywhere(self, key: KeyArn) -> None:
        self._supersede_all(key)
        if self._fleet and self._supersede:
            await self._fleet.supersede(key, None)

    def _supersede_all(self, key: KeyArn) -> None:
        if self._supersede:
            for entry in self._of(key):
                self._retire(entry)
