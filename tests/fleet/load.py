"""Callers that never try again: some go on reading what is there, some ask every replica for keys nobody has yet."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from tests.conftest import read_refusal
from tests.fleet.ledger import WrongSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fleet.harness import Fleet, Replica
    from tests.fleet.ledger import Handout

_PAUSE = 0.01  # seconds between two requests of one reader
_READERS = 2  # for each replica


class Load:
    """The callers; `load(fleet)` starts them.

    Attributes:
        answers: how many were served.
        failed: what was not, in words.
        longest: the seconds of the answer that took longest.
        unready: replicas whose health was not SERVING, at every look at it.
    """

    def __init__(self, fleet: Fleet, warm: list[str], cold_per_second: float) -> None:
        self.answers = 0
        self.failed: list[str] = []
        self.longest = 0.0
        self.unready: list[int] = []
        self._fleet = fleet
        self._warm = warm
        self._cold_per_second = cold_per_second
        self._away: set[Replica] = set()
        self._under_way: dict[Replica, int] = {}
        self._stopping = asyncio.Event()
        self._begun = time.monotonic()

    async def leave(self, replica: Replica) -> None:
        """Asks this replica no more, as a load balancer would; returns when it has answered what it was asked."""
        self._away.add(replica)
        while self._under_way.get(replica, 0):
            await asyncio.sleep(0.01)

    def join(self, replica: Replica) -> None:
        """Asks it again."""
        self._away.discard(replica)

    def summary(self) -> str:
        """For the figures."""
        return f"{self.answers} answers, {len(self.failed)} failed, the longest took {self.longest:.2f} s"

    async def run(self) -> None:
        """Asks until it is stopped and all is answered."""
        readers = [self._read(replica, n) for replica in self._fleet.replicas for n in range(_READERS)]
        await asyncio.gather(*readers, self._ask_for_cold_keys(), self._look_at_health())

    def stop(self) -> None:
        """No new requests."""
        self._stopping.set()

    async def _read(self, replica: Replica, number: int) -> None:
        arns = itertools.cycle(self._warm[number:] + self._warm[:number])
        while not self._stopping.is_set():
            if replica not in self._away:
                await self._ask(replica, next(arns))
            await asyncio.sleep(_PAUSE)

    async def _ask_for_cold_keys(self) -> None:
        asked: list[asyncio.Task[Handout | None]] = []
        while not self._stopping.is_set() and self._cold_per_second:
            arn = self._fleet.double.add_key()
            asked += [
                asyncio.ensure_future(self._ask(each, arn)) for each in self._fleet.replicas if each not in self._away
            ]
            await asyncio.sleep(1 / self._cold_per_second)
        await asyncio.gather(*asked)

    async def _look_at_health(self) -> None:
        while not self._stopping.is_set():
            for replica in self._fleet.replicas:
                if replica not in self._away and not await replica.serves() and replica not in self._away:
                    self.unready.append(replica.number)
            await asyncio.sleep(0.1)

    async def _ask(self, replica: Replica, arn: str) -> Handout | None:
        self._under_way[replica] = self._under_way.get(replica, 0) + 1
        asked = time.monotonic()
        try:
            handout = await self._fleet.get(replica, arn)
        except grpc.aio.AioRpcError as error:
            refusal = read_refusal(error)
            what = refusal.reason or f"{refusal.code.name} {refusal.message}"
            self.failed.append(f"{asked - self._begun:.1f} s, replica {replica.number}: {what}")
        except WrongSet as error:
            self.failed.append(str(error))
        else:
            self.answers += 1
            self.longest = max(self.longest, handout.answered - handout.asked)
            return handout
        finally:
            self._under_way[replica] -= 1
        return None


@asynccontextmanager
async def load(fleet: Fleet, warm: list[str], *, cold_per_second: float = 0.0) -> AsyncIterator[Load]:
    """Have the fleet asked from all sides until the context is left; then every answer is in.

    Args:
        fleet: whose replicas are asked.
        warm: keys that are read again and again.
        cold_per_second: new keys asked for, each through every replica at once.
    """
    callers = Load(fleet, warm, cold_per_second)
    running = asyncio.ensure_future(callers.run())
    try:
        yield callers
        callers.stop()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
