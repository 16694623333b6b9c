"""The token bucket and its line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keybroker.bucket import LocalBucket
from keybroker.errors import QuotaQueueFull
from keybroker.metrics import Metrics
from keybroker.quota import SLOW_DOWN, Quota
from tests.clock import settle

if TYPE_CHECKING:
    from keybroker.quota import Place
    from keybroker.tasks import Tasks
    from tests.clock import FakeClock


class Line:
    """Requests that note when they had their turn."""

    def __init__(self, clock: FakeClock, tasks: Tasks, *, rate: float = 1.0, limit: int = 1000) -> None:
        self.quota = Quota(
            bucket=LocalBucket(rate=rate, clock=clock), limit=limit, clock=clock, tasks=tasks, metrics=Metrics()
        )
        self.turns: list[tuple[str, float]] = []
        self._clock = clock
        self._start = clock.monotonic()

    def join(self, caller: str, times: int = 1) -> list[asyncio.Task[None]]:
        """Joins the line in the caller's name."""
        return [asyncio.ensure_future(self._wait(caller, self.quota.join(caller, float("inf")))) for _ in range(times)]

    async def _wait(self, caller: str, place: Place) -> None:
        await place.turn()
        self.turns.append((caller, self._clock.monotonic() - self._start))


async def test_first_token_is_there_at_once_and_the_others_come_at_the_rate(clock: FakeClock, tasks: Tasks) -> None:
    """A bucket of one: no burst, then one token every 1/rate seconds."""
    line = Line(clock, tasks, rate=0.25)

    line.join("alice", 3)
    await clock.advance(20)

    assert [("alice", 0), ("alice", 4), ("alice", 8)] == line.turns


async def test_tokens_do_not_pile_up_while_nobody_waits(clock: FakeClock, tasks: Tasks) -> None:
    """After a quiet hour there is one token, not an hour's worth."""
    line = Line(clock, tasks)
    await clock.advance(3600)

    line.join("alice", 2)
    await clock.advance(5)

    assert [("alice", 3600), ("alice", 3601)] == line.turns


async def test_callers_take_turns(clock: FakeClock, tasks: Tasks) -> None:
    """A caller with one request waits for one of each other caller, however many those have."""
    line = Line(clock, tasks)

    line.join("alice", 1000)
    line.join("bob", 20)
    line.join("carol", 1)
    await clock.advance(4.5)

    assert ["alice", "bob", "carol", "alice", "bob"] == [caller for caller, _ in line.turns]


async def test_expected_wait_is_what_the_wait_turns_out_to_be(clock: FakeClock, tasks: Tasks) -> None:
    """The prediction made on joining comes true where nobody joins later."""
    line = Line(clock, tasks, rate=2.0)
    line.join("alice", 20)
    line.join("bob", 5)
    await settle()

    predicted = line.quota.expected_wait("carol")
    line.join("carol")
    await clock.advance(60)

    assert ("carol", predicted) in line.turns
    assert line.quota.expected_wait("carol") == 0


@pytest.mark.parametrize("crowd", [("alice",) * 7, ("alice", "bob") * 5, ("a", "b", "c", "a", "a", "d", "b")])
async def test_every_place_knows_its_wait(clock: FakeClock, tasks: Tasks, crowd: tuple[str, ...]) -> None:
    """For any crowd, each place's expected wait at the start equals the time of its turn."""
    quota = Quota(bucket=LocalBucket(rate=1.0, clock=clock), limit=100, clock=clock, tasks=tasks, metrics=Metrics())
    start = clock.monotonic()
    places = [quota.join(caller, float("inf")) for caller in crowd]
    expected = [place.expected_wait() for place in places]
    turns: dict[int, float] = {}

    async def wait(index: int) -> None:
        await places[index].turn()
        turns[index] = clock.monotonic() - start

    waiting = [asyncio.ensure_future(wait(index)) for index in range(len(places))]
    await clock.advance(len(places) + 1)
    await asyncio.gather(*waiting)

    assert expected == [turns[index] for index in range(len(places))]


async def test_a_place_given_up_moves_the_others_forward(clock: FakeClock, tasks: Tasks) -> None:
    """A cancelled request spends no token."""
    line = Line(clock, tasks)
    first, second, third = line.join("alice", 3)
    await clock.advance(0.5)

    second.cancel()
    await clock.advance(1)

    assert first.done()
    assert third.done()
    assert [("alice", 0), ("alice", 1)] == line.turns


@pytest.mark.parametrize("others", [0, 2])
async def test_a_place_given_up_waits_for_nothing(clock: FakeClock, tasks: Tasks, others: int) -> None:
    """Whoever still looks at it, between the end of its fetch and the news of that, is told 0."""
    line = Line(clock, tasks)
    line.join("alice", 1 + others)
    await settle()
    place = line.quota.join("bob" if others else "alice", float("inf"))
    before = place.expected_wait()
    line.quota.leave(place)
    line.quota.rehome(place, "carol")

    assert before > 0
    assert (place.expected_wait(), place.ahead()) == (0, 0)
    assert line.quota.waiting == others


async def test_a_token_is_spare_once_it_has_lain_unused(clock: FakeClock, tasks: Tasks) -> None:
    """For as long as the next takes to come; never while anybody waits."""
    line = Line(clock, tasks, rate=0.25)
    line.join("alice", 2)
    await clock.advance(1)
    while_one_waits = line.quota.spare_in()
    await clock.advance(3)
    told = []
    for _ in range(5):
        told.append(line.quota.spare_in())
        await clock.advance(2)
    line.quota.slow_down()

    assert while_one_waits > 0
    assert told == [8, 6, 4, 2, 0]
    assert line.quota.spare_in() == 8 + 8


async def test_throttling_halves_the_rate_for_a_while(clock: FakeClock, tasks: Tasks) -> None:
    """After a throttle the next token takes twice as long, and after a minute the rate is back."""
    line = Line(clock, tasks)
    line.join("alice")
    await clock.advance(1)

    line.quota.slow_down()
    line.join("alice", 40)
    await clock.advance(10)
    slow = len(line.turns)
    await clock.advance(SLOW_DOWN)
    line.turns.clear()
    line.join("alice", 10)
    await clock.advance(5)

    assert slow == 1 + 5
    assert len(line.turns) == 5


async def test_a_full_line_refuses_the_greedy_and_makes_room_for_the_modest(clock: FakeClock, tasks: Tasks) -> None:
    """One caller cannot keep the others out by filling the line: its own last place goes first."""
    line = Line(clock, tasks, limit=10)
    line.join("alice")
    await settle()  # the first has its turn at once and leaves the line
    greedy = line.join("alice", 10)
    await settle()

    with pytest.raises(QuotaQueueFull) as told:
        line.quota.join("alice", float("inf"))
    modest = line.join("bob")
    await clock.advance(2)

    assert told.value.retry_after > 0
    assert isinstance(greedy[-1].exception(), QuotaQueueFull)
    assert modest[0].done()
    assert modest[0].exception() is None
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
