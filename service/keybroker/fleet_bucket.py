"""The account's one token bucket, shared by a fleet through its store."""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from keybroker.store_exchange import StoreAway

if TYPE_CHECKING:
    from keybroker.bucket import LocalBucket
    from keybroker.clock import Clock
    from keybroker.store import Store
    from keybroker.tasks import Tasks

_ALONE = 1.0
"""Seconds by which a token of the own share may be taken ahead: the fleet's may be had again by then."""


class FleetBucket:
    """The account's one token bucket, in the store; this replica's share of it while the store is away."""

    def __init__(
        self,
        *,
        store: Store,
        account: str,
        region: str,
        rate: float,
        share: LocalBucket,
        fleet_size: int,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        """A bucket that asks the store.

        Args:
            store: the store.
            account: 12 digits.
            region: its name.
            rate: tokens per second of the whole fleet.
            share: this replica's own bucket, for the time without the store.
            fleet_size: how many replicas there are, more or less.
            clock: monotonic time.
            tasks: tells the others of throttling.
        """
        self._store = store
        self._account = account
        self._region = region
        self._interval = 1 / rate
        self._share = share
        # Each replica holds one token at most, at half the rate after throttling, so that the next is never further off
        # than half of this; the other half is for replicas that a rolling update adds.
        self._plausible = 4 * (fleet_size + 1) * self._interval
        self._clock = clock
        self._tasks = tasks
        self._alone = False
        self._between = self._interval
        self._next = clock.monotonic()

    async def reserve(self, longest: float) -> tuple[float, bool]:
        guard = self._interval if self._alone else 0.0
        token = None
        with suppress(StoreAway):
            reserve = partial(
                self._store.reserve,
                self._account,
                self._region,
                interval=self._interval,
                guard=guard,
                longest=min(longest, self._plausible),
            )
            token = await self._store.insist(reserve)
        if token is None or token.wait > self._plausible:  # the store is away, or no replica has written that
            if not self._alone:
                self._alone = True
                # A phase of its own, so that the replicas, who all lose the store at once, do not all ask at once.
                self._share.pause(random.uniform(0, self._share.interval()))  # noqa: S311
            return await self._share.reserve(min(longest, _ALONE))
        self._alone = False
        self._between = token.interval * max(1, token.replicas)
        self._next = self._clock.monotonic() + token.wait + (token.interval if token.taken else 0.0)
        return token.wait, token.taken

    def give_back(self) -> None:
        """A token of the fleet that is not used at its time is lost: the next is another replica's."""
        if self._alone:
            self._share.give_back()

    def estimate(self) -> float:
        if self._alone:
            return self._share.estimate()
        return max(0.0, self._next - self._clock.monotonic())

    def interval(self) -> float:
        return self._share.interval() if self._alone else self._between

    def slow_down(self, seconds: float) -> float:
        self._share.slow_down(seconds)
        self._tasks.start(self._slow_fleet(seconds))
        return 2 * self._interval

    async def _slow_fleet(self, seconds: float) -> None:
        with suppress(StoreAway):
            await self._store.slow_down(self._account, self._region, self._interval, seconds)
