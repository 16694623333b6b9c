"""KMS's request quota as a token bucket of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keybroker.clock import Clock


class Bucket(Protocol):
    """Where tokens come from."""

    async def reserve(self, longest: float) -> tuple[float, bool]:
        """Takes the next token, unless it is due in more than so many seconds.

        Returns:
            Seconds until it may be spent, and whether it is taken.
        """

    def give_back(self) -> None:
        """Returns the token just reserved, if that can be."""

    def estimate(self) -> float:
        """Seconds until a token that would be reserved now, as far as that is known."""

    def interval(self) -> float:
        """Seconds between two tokens, as far as that is known."""

    def slow_down(self, seconds: float) -> float:
        """Halves the rate for so many seconds; seconds of the pause it begins with."""


class LocalBucket:
    """A token bucket of one, of this process alone."""

    def __init__(self, *, rate: float, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._next = clock.monotonic()
        self._slow_until = self._next

    async def reserve(self, longest: float) -> tuple[float, bool]:
        now = self._clock.monotonic()
        at = max(now, self._next)
        taken = at - now <= longest
        if taken:
            self._next = at + self.interval()
        return at - now, taken

    def give_back(self) -> None:
        self._next -= self.interval()

    def estimate(self) -> float:
        return max(0.0, self._next - self._clock.monotonic())

    def interval(self) -> float:
        slow = self._clock.monotonic() < self._slow_until
        return (2 if slow else 1) / self._rate

    def slow_down(self, seconds: float) -> float:
        self._slow_until = self._clock.monotonic() + seconds
        self.pause(self.interval())
        return self.interval()

    def pause(self, seconds: float) -> None:
        """Gives no token for so many seconds."""
        self._next = max(self._next, self._clock.monotonic() + seconds)
