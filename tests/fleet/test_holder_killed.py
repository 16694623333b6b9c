"""The replica that is calling KMS for all of them dies: the others answer every caller."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.fleet.harness import fleet, times
from tests.redis_server import redis_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fleet.harness import Fleet, Replica

REPLICAS = 3
CALLERS = 20  # on each replica
IN_LINE_SECONDS = 0.5  # in which all the others line up behind the holder
KILLS = times(2, campaign=20)


@pytest.mark.timeout(60 + 30 * KILLS)
async def test_survivors_answer_every_caller(tmp_path: Path) -> None:
    """SIGKILL in mid-call: every caller of a survivor gets the one same set, for at most one more call."""
    waits, extra = [], []
    async with (
        redis_server() as redis,
        fleet(tmp_path, stores=[redis.url] * REPLICAS) as brokers,
    ):
        for _ in range(KILLS):
            arn = brokers.double.add_key()
            brokers.ledger.hold()
            asked = {
                replica: [asyncio.ensure_future(brokers.get(replica, arn)) for _ in range(CALLERS)]
                for replica in brokers.replicas
            }
            holder = await _holder(brokers, arn)
            await asyncio.sleep(IN_LINE_SECONDS)
            killed = time.monotonic()
            await holder.kill()
            brokers.ledger.resume()
            lost = await asyncio.gather(*asked.pop(holder), return_exceptions=True)
            answers = [answer for calls in asked.values() for answer in await asyncio.gather(*calls)]
            waits.append(time.monotonic() - killed)
            extra.append(len(brokers.callers_of(arn)) - 1)
            await holder.start()
            healed = await brokers.get_everywhere(arn)

            assert all(isinstance(outcome, BaseException) for outcome in lost)
            assert len(answers) == CALLERS * (REPLICAS - 1)
            assert {answer.token for answer in (*answers, *healed)} == {answers[0].token}

    print(f"{KILLS} kills: {sum(extra)} calls more than keys, at most {max(extra)} for one kill")
    print(f"survivors' callers waited {sum(waits) / KILLS:.2f} s after the kill, {max(waits):.2f} s at most")
    assert max(extra) <= 1


async def _holder(brokers: Fleet, arn: str) -> Replica:
    """The replica that calls KMS for this key, once it does."""
    async with asyncio.timeout(30):
        while not (numbers := brokers.callers_of(arn)):
            await asyncio.sleep(0.005)
    return brokers.replicas[numbers[0]]
