"""How long the machine stood still: on a loaded one, what was sent at its time is noted late."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TICK = 0.02  # seconds


class Stalls:
    """When this process stood still, and for how long."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, float]] = []

    async def note(self) -> None:
        """Notes them for as long as it runs."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_TICK)
            self._noted.append((began, time.monotonic() - began - _TICK))

    def total(self, since: float = 0.0) -> float:
        """Seconds, of all of them from a moment of the monotonic clock on."""
        return sum(seconds for began, seconds in self._noted if began >= since)

    def longest(self, since: float = 0.0) -> float:
        """Seconds, of those from a moment of the monotonic clock on."""
        return max((seconds for began, seconds in self._noted if began >= since), default=0.0)


@asynccontextmanager
async def stalls() -> AsyncIterator[Stalls]:
    """Notes stalls until the context is left."""
    made = Stalls()
    noting = asyncio.create_task(made.note())
    try:
        yield made
    finally:
        noting.cancel()
