"""The cache: one unexpired parameter set for each slot, fetched once however many ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from keybroker import errors
from keybroker.fetches import Fetch, require_in_time
from keybroker.in_hands import InHands
from keybroker.issuing import Issuing
from keybroker.lru import Lru
from keybroker.model import Source

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.fetches import Ask, Entry
    from keybroker.fleet import Fleet
    from keybroker.keys import Keys
    from keybroker.kms import Kms
    from keybroker.metrics import Metrics
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.quota import Quota
    from keybroker.tasks import Tasks


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
        self._quota = quota
        self._keys = keys
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._fleet = fleet
        self._in_hands = InHands(supersede=supersede, clock=clock)
        self._under_way: Counter[KeyArn] = Counter()
        self._entries: Lru[Slot, Entry] = Lru(max_entries)
        self._fetches: dict[Slot, Fetch] = {}
        self._issuing = Issuing(
            kms=kms,
            quota=quota,
            keys=keys,
            clock=clock,
            tasks=tasks,
            fleet=fleet,
            supersede=self._supersede_all if supersede else None,
        )

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
            if entry and entry.remaining(self._clock) >= ask.min_remaining:
                if not await self._ended(entry):
                    if not ask.warming:
                        self._in_hands.note(entry)
                    return entry.parameters, Source.CACHE
                continue
            self._keys.require_not_refused(slot.key)
            fetch = self._fetches.get(slot)
            joining = fetch is not None and not fetch.task.done()
            if fetch is None or not joining:
                fetch = self._fetches[slot] = self._start(slot, ask)
                fetch.task.add_done_callback(partial(self._finished, fetch))
            else:
                self._metrics.joined.inc()
                self._join(fetch, ask)
            entry = await self._wait_for(fetch, ask)
            ask = replace(ask, described=False)
            enough = entry.remaining(self._clock) >= ask.min_remaining
            enough |= ask.warming and entry.source is Source.STORE
            # What another replica ended before this caller asked may be news that the fetch did not wait for.
            if enough and joining and await self._ended(entry):
                continue
            if enough and not entry.retired:  # else imported or superseded by another caller before this one woke
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
        if entry.remaining(self._clock) < ask.min_remaining:
            raise errors.KmsBadResponse("the new set is valid for less than the caller needs")
        return entry.parameters

    def prefetched(self, key: KeyArn) -> None:
        """The key is one of those that wants_warming is asked about."""
        self._in_hands.follow(key)

    async def wants_warming(self, slot: Slot, min_remaining: float) -> bool:
        """Whether the slot is without a usable set, and a new one would end none that may be in callers' hands."""
        if self._under_way[slot.key] or self._in_hands.any_ended_by_one_for(slot):
            return False
        entry = self._entries.get(slot)
        if entry and entry.remaining(self._clock) >= min_remaining:
            return False
        return self._fleet is None or not await self._fleet.may_hold(slot)

    def find(self, key: KeyArn, import_token: bytes) -> ParameterSet | None:
        """The cached set of this key with this token."""
        return next((entry.parameters for entry in self._with_token(key, import_token)), None)

    async def forget(self, key: KeyArn, import_token: bytes) -> None:
        """Never hands out the set with this token again, nor does any other replica once this has returned."""
        known = self._with_token(key, import_token)
        for entry in known:
            self._retire(entry)
        self._in_hands.forget(key, [entry.parameters.slot for entry in known], import_token)
        if self._fleet:
            await self._fleet.end(key, import_token)

    def _of(self, key: KeyArn) -> list[Entry]:
        return [entry for slot, entry in self._entries.items() if slot.key == key]

    def _with_token(self, key: KeyArn, import_token: bytes) -> list[Entry]:
        return [entry for entry in self._of(key) if entry.parameters.import_token == import_token]

    async def _ended(self, entry: Entry) -> bool:
        """Whether a cached set has been ended, here or by another replica."""
        if self._fleet and await self._fleet.ended(entry.parameters):
            self._retire(entry)
        if not entry.retired and entry.parameters.slot in self._entries:
            self._entries.move_to_end(entry.parameters.slot)
        return entry.retired

    def _retire(self, entry: Entry) -> None:
        entry.retired = True
        if self._entries.get(entry.parameters.slot) is entry:
            del self._entries[entry.parameters.slot]

    def _start(self, slot: Slot, ask: Ask, *, exclusive: bool = False) -> Fetch:
        require_in_time(self._quota.expected_wait(ask.caller), ask.deadline, self._clock)
        self._quota.require_room(ask.caller)
        if not ask.described:
            self._keys.charge(ask.caller)
        lined_up = asyncio.get_running_loop().create_future()
        fetch = Fetch(
            slot=slot,
            caller=ask.caller,
            patience=ask.deadline,
            described=ask.described,
            # To be prefetched, another replica's set is good while it is valid: it may be in its callers' hands.
            min_remaining=0.0 if ask.warming else ask.min_remaining,
            warming=ask.warming,
            lined_up=lined_up,
        )
        fetch.task = self._tasks.start(
            self._fetch_exclusive(fetch) if exclusive else self._fetch(fetch), for_request=True
        )
        self._under_way[slot.key] += 1
        fetch.task.add_done_callback(partial(self._no_longer_under_way, slot.key))
        return fetch

    def _no_longer_under_way(self, key: KeyArn, _: object) -> None:
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]

    def _join(self, fetch: Fetch, ask: Ask) -> None:
        """Brings the fetch forward where the caller's own turn would come sooner: no one waits for another's greed."""
        fetch.warming &= ask.warming
        if fetch.place:
            self._quota.rehome(fetch.place, ask.caller)
        elif self._quota.expected_wait(ask.caller) < self._quota.expected_wait(fetch.caller):
            fetch.caller = ask.caller

    async def _wait_for(self, fetch: Fetch, ask: Ask) -> Entry:
        """The fetch's result. The caller's cancel or deadline ends the waiting, not the fetch."""
        fetch.waiters += 1
        fetch.kept |= ask.waiting is None
        try:
            with ask.waiting.at(partial(fetch.outlook, self._quota)) if ask.waiting else nullcontext():
                return await self._result_of(fetch, ask.deadline)
        finally:
            fetch.waiters -= 1
            begun = fetch.place and fetch.place.turned.done()
            if not (fetch.waiters or fetch.kept or begun or fetch.task.done()):
                self._finished(fetch, None)
                fetch.task.cancel()

    async def _result_of(self, fetch: Fetch, deadline: float) -> Entry:
        fetch.patience = max(fetch.patience, deadline)
        if fetch.place:
            fetch.place.patience = fetch.patience
        while not fetch.task.done():
            require_in_time(fetch.expected_wait(self._quota), deadline, self._clock)
            awaited: set[asyncio.Future[Any]] = {fetch.task}
            if not fetch.lined_up.done():
                awaited.add(fetch.lined_up)
            left = max(0.0, deadline - self._clock.monotonic())
            done, _ = await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                require_in_time(fetch.place.expected_wait() if fetch.place else fetch.other_wait, deadline, self._clock)
                raise TimeoutError
        try:
            return fetch.task.result()
        except errors.BrokerError as error:
            raise error.with_traceback(None)  # noqa: B904 -- one exception for all: each waiter would lengthen its traceback

    def _finished(self, fetch: Fetch, _: object) -> None:
        if self._fetches.get(fetch.slot) is fetch:
            del self._fetches[fetch.slot]

    async def _fetch(self, fetch: Fetch) -> Entry:
        async with self._issuing.one_at_a_time(fetch.slot.key):
            entry = await self._issuing.shared(fetch)
            if self._fleet or not fetch.warming:  # the others hand out what is in the store
                self._in_hands.note(entry)
            if self._fetches.get(fetch.slot) is fetch:
                self._entries[fetch.slot] = entry
            return entry

    async def _fetch_exclusive(self, fetch: Fetch) -> Entry:
        async with self._issuing.one_at_a_time(fetch.slot.key):
            entry = await self._issuing.exclusive(fetch)
            self._in_hands.note(entry)
            return entry

    def _supersede_all(self, key: KeyArn) -> None:
        for entry in self._of(key):
            self._retire(entry)
