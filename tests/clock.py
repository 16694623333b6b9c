"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


async def settle() -> None:
    """Lets every task run as far as it can."""
    for _ in range(100):
        await asyncio.sleep(0)


class FakeClock:
    """Wall and monotonic time, moved by hand; sleepers wake in order."""

    def __init__(self) -> None:
        self._now = START
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Moves both clocks, stopping at every sleeper on the way."""
        await settle()
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            until, _, woken = heapq.heappop(self._sleepers)
            self._move(max(0.0, until - self._monotonic))
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._move(end - self._monotonic)
        await settle()

    def jump(self, seconds: float) -> None:
        """Moves the wall clock alone, as an operator or a bad NTP server does."""
        self._now += timedelta(seconds=seconds)

    def _move(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)
