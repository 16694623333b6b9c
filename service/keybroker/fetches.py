"""What callers ask for, and the fetches that bring it: one for all who ask for the same."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from keybroker import errors
from keybroker.model import Outlook

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from keybroker.clock import Clock
    from keybroker.model import ParameterSet, Slot, Source
    from keybroker.quota import Place, Quota


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
class Entry:
    """A set in the cache. `expires` is monotonic, so that no jump of the wall clock makes an expired set look fresh."""

    parameters: ParameterSet
    expires: float
    source: Source
    retired: bool = False

    @classmethod
    def of(cls, parameters: ParameterSet, source: Source, clock: Clock) -> Self:
        """One that has just come."""
        valid_for = (parameters.valid_to - clock.now()) / timedelta(seconds=1)
        return cls(parameters=parameters, expires=clock.monotonic() + valid_for, source=source)

    def remaining(self, clock: Clock) -> float:
        """Seconds it is still valid, by whichever of the two clocks says less."""
        by_wall_clock = (self.parameters.valid_to - clock.now()) / timedelta(seconds=1)
        return min(by_wall_clock, self.expires - clock.monotonic())


@dataclass(slots=True, kw_only=True, eq=False)
class Fetch:
    """A fetch under way. It belongs to the broker: callers join it and leave it, and it goes on.

    Attributes:
        caller: whose share of the line it uses: of those who joined, the one whose turn comes first.
        patience: the latest deadline among those who joined; nobody could use the answer after it.
        described: whether KMS has just been asked about the key.
        min_remaining: what the caller who started it needs.
        warming: whether it is for the cache alone, and none of those who joined wants it in his hands.
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
    warming: bool
    lined_up: asyncio.Future[None]
    place: Place | None = None
    other_wait: float = 0.0
    waiters: int = 0
    kept: bool = False
    task: asyncio.Task[Entry] = field(init=False)

    def expected_wait(self, quota: Quota) -> float:
        """Seconds until its token, or another replica's, as the line stands."""
        if self.place:
            return self.place.expected_wait()
        return self.other_wait or quota.expected_wait(self.caller)

    def outlook(self, quota: Quota) -> Outlook:
        """How far it is."""
        return Outlook(position=self.place.ahead() if self.place else 0, wait=self.expected_wait(quota))

    def note_lined_up(self) -> None:
        """The wait is known."""
        if not self.lined_up.done():
            self.lined_up.set_result(None)


def require_in_time(wait: float, deadline: float, clock: Clock) -> None:
    """Refuses a wait of so many seconds that would end after the deadline.

    Raises:
        QuotaWaitExceedsDeadline
    """
    if wait > max(0.0, deadline - clock.monotonic()):
        raise errors.QuotaWaitExceedsDeadline(retry_after=wait)
