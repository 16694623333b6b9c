"""New sets: from another replica, or from KMS with a token of the quota; one at a time for each key."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from keybroker import errors
from keybroker.fetches import Entry, require_in_time
from keybroker.model import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from keybroker.clock import Clock
    from keybroker.fetches import Fetch
    from keybroker.fleet import Fleet
    from keybroker.keys import Keys
    from keybroker.kms import Kms
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.quota import Quota
    from keybroker.tasks import Tasks


_HEAD_START = 4
_HEAD_START_AT_LEAST = 2.0
"""Turns, and seconds, by which another replica may come later than twice this one's wait, before this one asks too."""


class Issuing:
    """Where one Region's new sets come from."""

    def __init__(
        self,
        *,
        kms: Kms,
        quota: Quota,
        keys: Keys,
        clock: Clock,
        tasks: Tasks,
        fleet: Fleet | None,
        supersede: Callable[[KeyArn], None] | None,
    ) -> None:
        """Nothing under way.

        Args:
            kms: the Region's KMS.
            quota: spent one token for each set.
            keys: asked before a token is spent.
            clock: wall and monotonic time.
            tasks: tells the others what the broker's end would interrupt.
            fleet: the other replicas, if there are any.
            supersede: hears of each key whose older sets a newer one may have ended; None if none does.
        """
        self._kms = kms
        self._quota = quota
        self._keys = keys
        self._clock = clock
        self._tasks = tasks
        self._fleet = fleet
        self._supersede = supersede
        self._issuing: WeakValueDictionary[KeyArn, asyncio.Lock] = WeakValueDictionary()

    async def shared(self, fetch: Fetch) -> Entry:
        """A set for all: another replica's, or a new one that the others are given. To be called `one_at_a_time`."""
        entry = await self._from_fleet(fetch)
        if entry:
            return entry
        await self._turn(fetch)
        entry = await self._from_fleet_again(fetch)
        if entry:
            self._quota.pass_on()
            return entry
        entry = await self._issue(fetch.slot)
        if self._fleet:
            await self._fleet.keep(entry.parameters)
        return entry

    async def exclusive(self, fetch: Fetch) -> Entry:
        """A set from KMS that is kept nowhere. To be called `one_at_a_time`."""
        await self._from_fleet(fetch, exclusive=True)
        await self._turn(fetch)
        entry = await self._issue(fetch.slot)
        if self._fleet and self._supersede:
            await self._fleet.supersede(fetch.slot.key, entry.parameters)
        return entry

    @asynccontextmanager
    async def one_at_a_time(self, key: KeyArn) -> AsyncIterator[None]:
        """KMS may end a key's older sets when it issues a newer one: one at a time, so that the newer one is known."""
        lock = self._issuing.setdefault(key, asyncio.Lock())
        async with lock:
            try:
                yield
            finally:
                if self._fleet:
                    await self._fleet.release(key)

    async def _from_fleet(self, fetch: Fetch, *, exclusive: bool = False) -> Entry | None:
        """Another replica's set, unless it must be one of our own; None if the key is now this replica's to ask for."""
        if self._fleet is None:
            return None

        def told(wait: float) -> None:
            fetch.other_wait = wait
            fetch.note_lined_up()

        def sooner(wait: float) -> bool:
            own, patience = self._quota.expected_wait(fetch.caller), fetch.patience - self._clock.monotonic()
            head_start = max(_HEAD_START * self._quota.interval(), _HEAD_START_AT_LEAST)
            return own <= patience < wait or wait > 2 * own + head_start

        found = await self._fleet.look(
            fetch.slot,
            usable=lambda parameters: not exclusive and self._lasts(parameters, fetch),
            told=told,
            sooner=sooner,
            expected=lambda: fetch.expected_wait(self._quota),
        )
        fetch.other_wait = 0.0
        return Entry.of(found, Source.STORE, self._clock) if found else None

    async def _from_fleet_again(self, fetch: Fetch) -> Entry | None:
        """A set that another replica has got while this one stood in the line: a call is saved, or many."""
        if self._fleet is None:
            return None
        found = await self._fleet.look_again(fetch.slot, usable=lambda parameters: self._lasts(parameters, fetch))
        return Entry.of(found, Source.STORE, self._clock) if found else None

    def _lasts(self, parameters: ParameterSet, fetch: Fetch) -> bool:
        return Entry.of(parameters, Source.STORE, self._clock).remaining(self._clock) >= fetch.min_remaining

    async def _turn(self, fetch: Fetch) -> None:
        """Waits in the line until a token is this fetch's."""
        if not fetch.described:
            await self._keys.require_importable(fetch.slot.key)
        fetch.place = self._quota.join(fetch.caller, fetch.patience)
        try:
            await fetch.place.lined_up()
            require_in_time(fetch.place.expected_wait(), fetch.patience, self._clock)
            fetch.note_lined_up()
            await fetch.place.turn()
        finally:
            self._quota.leave(fetch.place)

    async def _issue(self, slot: Slot) -> Entry:
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
            self._tell_superseded(slot.key)
            self._tasks.start(self._supersede_all_everywhere(slot.key))
            raise
        self._tell_superseded(slot.key)
        return Entry.of(parameters, Source.KMS, self._clock)

    def _tell_superseded(self, key: KeyArn) -> None:
        if self._supersede:
            self._supersede(key)

    async def _supersede_all_everywhere(self, key: KeyArn) -> None:
        self._tell_superseded(key)
        if self._fleet and self._supersede:
            await self._fleet.supersede(key, None)
