"""What one caller may take: a token bucket each, so that none crowds out the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keybroker.errors import CallerRateExceeded
from keybroker.lru import Lru

if TYPE_CHECKING:
    from keybroker.clock import Clock

_CALLERS = 10_000


class RateLimit:
    """A token bucket for each caller, as the time at which it would be full again (GCRA)."""

    def __init__(self, *, rate: float, burst: float, clock: Clock) -> None:
        """Full buckets.

        Args:
            rate: tokens per second.
            burst: tokens a full bucket holds.
            clock: monotonic time.
        """
        self._interval = 1 / rate
        self._capacity = burst / rate
        self._clock = clock
        self._full_at: Lru[str, float] = Lru(_CALLERS)

    def spend(self, caller: str) -> None:
        """Takes a token from the caller's bucket.

        Raises:
            CallerRateExceeded: it is empty.
        """
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(caller, now), now) + self._interval
        if full_at - now > self._capacity:
            raise CallerRateExceeded(retry_after=full_at - now - self._capacity)
        self._full_at[caller] = full_at
