"""The waiting line for KMS's request quota: one for all, and fair between callers."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from keybroker.errors import QuotaQueueFull

if TYPE_CHECKING:
    from keybroker.bucket import Bucket
    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.tasks import Tasks

SLOW_DOWN = 60.0
"""Seconds at half the rate after KMS has throttled."""


_TRY_AGAIN = 1.0
"""Seconds after which a token is asked for again that was due too late for everyone in the line."""


class Place:
    """One request's place in the line.

    Attributes:
        caller: in whose name it waits.
        patience: the monotonic time after which its turn is of no use.
        joined: the monotonic time at which it began to wait.
        turned: done when it has its turn.
    """

    def __init__(self, quota: Quota, caller: str, *, joined: float, patience: float) -> None:
        self._quota = quota
        self.caller = caller
        self.joined = joined
        self.patience = patience
        self.turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def lined_up(self) -> None:
        """Returns when the wait is known."""
        await self._quota.reserved.wait()

    async def turn(self) -> None:
        """Returns when a token is this request's to spend.

        Raises:
            QuotaQueueFull: the place was given to a caller with fewer.
        """
        try:
            await self.turned
        finally:
            self._quota.leave(self)

    def expected_wait(self) -> float:
        """Seconds until the turn, as the line stands; 0 once it has come, or the place is given up."""
        return self._quota.wait_of(self)

    def ahead(self) -> int:
        """How many have their turn before, as the line stands; 0 as above."""
        return self._quota.ahead_of(self)


class Quota:
    """The bucket and the line of one account and Region.

    The line takes turns between callers, first come first served within each: a caller waits for at most one request of
    every other caller for each of its own. When the line is full, a place is taken from the caller who holds the most.
    """

    def __init__(self, *, bucket: Bucket, limit: int, clock: Clock, tasks: Tasks, metrics: Metrics) -> None:
        """A full bucket and an empty line.

        Args:
            bucket: where tokens come from.
            limit: places in the line.
            clock: monotonic time and sleep.
            tasks: runs the line.
            metrics: measures the wait.
        """
        self._bucket = bucket
        self._limit = limit
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._lines: OrderedDict[str, deque[Place]] = OrderedDict()  # in the order of the next turns
        self.waiting = 0
        self._turn_at = clock.monotonic()
        self._paused_until = self._turn_at
        self.reserved = asyncio.Event()
        self._running = False

    def join(self, caller: str, patience: float) -> Place:
        """A place at the end of the caller's own line, of use until the monotonic time `patience`.

        Raises:
            QuotaQueueFull: the line is full and no caller holds more places than this one would.
        """
        self.require_room(caller)
        if self.waiting >= self._limit:
            self._make_room()
        place = Place(self, caller, joined=self._clock.monotonic(), patience=patience)
        self._append(place)
        if not self._running:
            self._running = True
            self._tasks.start(self._run())
        return place

    def require_room(self, caller: str) -> None:
        """Refuses what join would refuse.

        Raises:
            QuotaQueueFull
        """
        if self.waiting >= self._limit and self._is_greediest(caller):
            raise QuotaQueueFull(retry_after=self.expected_wait(caller))

    def rehome(self, place: Place, caller: str) -> None:
        """Moves a place to the end of another caller's line, where that is nearer its turn."""
        if self.expected_wait(caller) < self.wait_of(place):
            self.leave(place)
            place.caller = caller
            self._append(place)

    def leave(self, place: Place) -> None:
        """Gives up a place; nothing if it has had its turn."""
        line = self._lines.get(place.caller)
        if line and place in line:
            line.remove(place)
            self.waiting -= 1
            if not line:
                del self._lines[place.caller]

    def pass_on(self) -> None:
        """Gives the next in turn a token that one who had his turn does not need."""
        if not self._give_turn():
            self._bucket.give_back()

    def expected_wait(self, caller: str) -> float:
        """Seconds until the turn of a request that joined the line now."""
        return self._wait_at(caller, len(self._lines.get(caller, ())))

    def wait_of(self, place: Place) -> float:
        """Seconds until the turn of a place; 0 if it is in the line no more."""
        index = self._index(place)
        return 0.0 if index is None else self._wait_at(place.caller, index)

    def ahead_of(self, place: Place) -> int:
        """How many have their turn before a place; 0 if it is in the line no more."""
        index = self._index(place)
        return 0 if index is None else self._ahead_at(place.caller, index)

    def interval(self) -> float:
        """Seconds between two turns, as far as that is known."""
        return self._bucket.interval()

    def tokens(self) -> float:
        """How much of a token is to be had at once, 0 to 1."""
        if self.reserved.is_set():
            return 0.0
        return max(0.0, 1 - self._bucket.estimate() / self._bucket.interval())

    def spare_in(self) -> float:
        """Seconds until a token has lain unused for as long as the next takes to come, as far as is known; 0: it has.

        Whoever asks as often as the quota allows loses none to who waits for that, and whoever asks right after one was
        taken so waits for the next, and no longer.
        """
        interval = self._bucket.interval()
        if self.waiting or self.reserved.is_set():
            return interval
        if until_token := self._bucket.estimate():
            return until_token + interval
        return max(0.0, max(self._turn_at, self._paused_until) + 2 * interval - self._clock.monotonic())

    def slow_down(self) -> None:
        """KMS has throttled: half the rate for a minute, beginning with a pause."""
        pause = self._bucket.slow_down(SLOW_DOWN)
        self._paused_until = max(self._turn_at, self._clock.monotonic() + pause)

    def _index(self, place: Place) -> int | None:
        line = self._lines.get(place.caller, ())
        return next((index for index, each in enumerate(line) if each is place), None)

    def _ahead_at(self, caller: str, index: int) -> int:
        ahead = index
        before = True  # whether the line's turn comes before the caller's
        for other, line in self._lines.items():
            if other == caller:
                before = False
            else:
                ahead += min(len(line), index + before)
        return ahead

    def _wait_at(self, caller: str, index: int) -> float:
        until_turn = max(0.0, max(self._turn_at, self._paused_until) - self._clock.monotonic())
        first = until_turn if self.reserved.is_set() else max(until_turn, self._bucket.estimate())
        return first + self._ahead_at(caller, index) * self._bucket.interval()

    def _append(self, place: Place) -> None:
        self._lines.setdefault(place.caller, deque()).append(place)
        self.waiting += 1

    def _greediest(self) -> str:
        return max(self._lines, key=lambda caller: len(self._lines[caller]))

    def _is_greediest(self, caller: str) -> bool:
        """Whether no one would hold more places than this caller with one more."""
        return len(self._lines[self._greediest()]) <= len(self._lines.get(caller, ())) + 1

    def _make_room(self) -> None:
        place = self._lines[self._greediest()][-1]
        refusal = QuotaQueueFull(retry_after=place.expected_wait())
        self.leave(place)
        place.turned.set_exception(refusal)

    async def _run(self) -> None:
        """Hands tokens to the line until it is empty."""
        try:
            while self._lines:
                wait, taken = await self._bucket.reserve(self._longest_of_use())
                self._turn_at = self._clock.monotonic() + wait
                self.reserved.set()
                if taken:
                    await self._sleep_until_turn()
                    self.pass_on()
                else:
                    await self._clock.sleep(min(wait, _TRY_AGAIN))  # those who hear of the wait leave meanwhile
                self.reserved.clear()
        finally:
            self.reserved.clear()
            self._running = False

    def _longest_of_use(self) -> float:
        """Seconds that someone in the line can wait. What nobody waits for any more has all the time there is."""
        patience = max(place.patience for line in self._lines.values() for place in line)
        left = patience - self._clock.monotonic()
        return left if left > 0 else math.inf

    async def _sleep_until_turn(self) -> None:
        while (wait := max(self._turn_at, self._paused_until) - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)

    def _give_turn(self) -> bool:
        """Gives the token to the next in turn; False if nobody is left."""
        while self._lines:
            caller, line = self._lines.popitem(last=False)
            place = line.popleft()
            self.waiting -= 1
            if line:
                self._lines[caller] = line  # to the end: the others' turn first
            if not place.turned.done():  # one that is being cancelled spends no token
                place.turned.set_result(None)
                self._metrics.quota_wait_seconds.observe(self._clock.monotonic() - place.joined)
                return True
        return False
