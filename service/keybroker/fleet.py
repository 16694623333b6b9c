"""One replica among others: what it asks of them and tells them through the store, and how it does without."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from keybroker.lru import Lru
from keybroker.seal import expiry
from keybroker.store import LEASE
from keybroker.store_exchange import StoreAway
from keybroker.store_names import ID_LENGTH, set_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from keybroker.clock import Clock
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.store import Store
    from keybroker.tasks import Tasks


_LONGEST_SILENCE = 30.0
"""Seconds to wait for another replica's fetch beyond what it expects."""

_TELL_AGAIN = 1.0
_TELL_FOR = 25 * 3600.0
"""Seconds between two attempts to tell what the store must know, and for how long: until every set has expired."""

_VALIDITY = 24 * 3600 * 1000
"""Milliseconds for which KMS's sets are valid."""

_UNTOLD = 10_000
"""What is kept to be told; callers can report as many tokens as they like."""


class Telling(Protocol):
    """Tells the store something; `late` if that was to be told some time ago."""

    async def __call__(self, *, late: bool = False) -> None: ...


class Fleet:
    """The other replicas."""

    def __init__(self, *, store: Store, clock: Clock, tasks: Tasks) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._renewals: dict[KeyArn, asyncio.Task[None]] = {}
        self._untold: Lru[tuple[KeyArn, str], tuple[Telling, float]] = Lru(_UNTOLD)
        self._telling = False

    async def look(
        self,
        slot: Slot,
        *,
        usable: Callable[[ParameterSet], bool],
        told: Callable[[float], None],
        sooner: Callable[[float], bool],
        expected: Callable[[], float],
    ) -> ParameterSet | None:
        """The slot's set from another replica, waiting for one that is fetching it; None if it is this one's to fetch.

        The lease is the key's and not the slot's, as a set for one slot may end that of another. The others wait until
        `release`.

        Args:
            slot: the slot.
            usable: whether a set will do.
            told: hears how many seconds the other replica expects to take.
            sooner: whether this replica would rather ask for itself than wait for so many seconds.
            expected: how many seconds this one expects to take, for the others.
        """
        give_up = self._clock.monotonic() + _LONGEST_SILENCE
        try:
            while True:
                news = self._store.news(slot.key)
                found = await self._store.insist(partial(self._store.find, slot))
                if found and usable(found):
                    return found
                held = await self._store.insist(partial(self._store.take_lease, slot.key))
                if held is None:
                    break
                if held.expected_wait:
                    give_up = max(give_up, self._clock.monotonic() + held.expected_wait + _LONGEST_SILENCE)
                if self._clock.monotonic() > give_up or sooner(held.expected_wait):
                    return None  # the lease saves a call; nobody is kept from his set by it
                told(held.expected_wait)
                with suppress(TimeoutError):
                    async with asyncio.timeout(held.expires_in + 0.05):
                        await news.wait()
            self._renewals[slot.key] = self._tasks.start(self._renew(slot.key, expected))
            found = await self._store.insist(partial(self._store.find, slot))  # it may have come just before the lease
        except StoreAway:
            return None
        return found if found and usable(found) else None

    async def look_again(self, slot: Slot, *, usable: Callable[[ParameterSet], bool]) -> ParameterSet | None:
        """Another replica's set that has come since `look`, lease or not."""
        with suppress(StoreAway):
            found = await self._store.find(slot)
            return found if found and usable(found) else None
        return None

    async def release(self, key: KeyArn) -> None:
        """Lets the others go on; to be called after `look` however it ended."""
        if renewal := self._renewals.pop(key, None):
            renewal.cancel()
            with suppress(StoreAway):
                await self._store.release_lease(key)

    async def ended(self, parameters: ParameterSet) -> bool:
        """Whether any replica has ended a set; as far as this one has heard, while the store is away."""
        try:
            return await self._store.insist(partial(self._store.endings.asked, parameters))
        except StoreAway:
            return self._store.endings.known(parameters)

    async def may_hold(self, slot: Slot) -> bool:
        """Whether others' callers may hold a set that one for the slot would end; without a store nobody knows."""
        try:
            return await self._store.insist(partial(self._store.endings.any_ended_by_one_for, slot))
        except StoreAway:
            return True

    async def keep(self, parameters: ParameterSet) -> None:
        """Gives a new set to the others."""
        self._store.endings.note_newest(parameters)
        await self._tell((parameters.slot.key, "newest"), partial(self._store.keep, parameters))

    async def supersede(self, key: KeyArn, newest: ParameterSet | None) -> None:
        """Ends all of a key's sets but the newest, which is this replica's own; None if it is unknown which that is."""
        if newest:
            self._store.endings.note_newest(newest)
            identifier, expires = set_id(newest.import_token), expiry(newest)
        else:
            self._store.endings.note_superseded(key)
            # As if issued now, whenever it is told: what is issued after this is newer.
            identifier, expires = (
                secrets.token_hex(ID_LENGTH // 2),
                int(self._clock.now().timestamp() * 1000) + _VALIDITY,
            )
        await self._tell((key, "newest"), partial(self._store.supersede, key, identifier, expires))

    async def end(self, key: KeyArn, import_token: bytes) -> None:
        """Ends a set for all replicas."""
        identifier = set_id(import_token)

        async def end(*, late: bool = False) -> None:
            del late  # an end is an end
            await self._store.end(key, identifier)

        await self._tell((key, identifier), end)

    async def _tell(self, what: tuple[KeyArn, str], telling: Telling) -> None:
        """Tells it now, or as soon as the store takes it; the newest set of a key takes the place of older news."""
        self._untold.pop(what, None)
        try:
            await self._store.insist(telling)
        except StoreAway:
            self._untold[what] = (telling, self._clock.monotonic() + _TELL_FOR)
            if not self._telling:
                self._telling = True
                self._tasks.start(self._tell_later())

    async def _tell_later(self) -> None:
        try:
            while self._untold:
                await self._clock.sleep(_TELL_AGAIN * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads the replicas
                for what, news in list(self._untold.items()):
                    telling, until = news
                    try:
                        if self._clock.monotonic() < until:
                            await telling(late=True)
                    except StoreAway:
                        self._untold.move_to_end(what)  # a full store takes some and refuses others
                        break
                    if self._untold.get(what) is news:
                        del self._untold[what]
        finally:
            self._telling = False

    async def _renew(self, key: KeyArn, expected: Callable[[], float]) -> None:
        while True:
            with suppress(StoreAway):
                await self._store.renew_lease(key, expected())
            await self._clock.sleep(LEASE / 3)
