"""Seal keys are exchanged replica by replica while the fleet works: nothing fails, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fleet.harness import fleet
from tests.fleet.load import load
from tests.redis_server import redis_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fleet.harness import Fleet
    from tests.fleet.load import Load

REPLICAS = 2
ROUNDS = 5  # in each of which a replica asks KMS once for a key at most


async def _roll_out(brokers: Fleet, callers: Load, seal_keys: list[str], old: list[str]) -> list[str]:
    """Restarts the replicas one by one with these keys; where each then has the old keys' sets from."""
    sources = []
    for replica in brokers.replicas:
        await callers.leave(replica)
        await replica.stop()
        brokers.configure(replica, seal_keys)
        await replica.start()
        sources += [(await brokers.get(replica, arn)).source for arn in old]
        callers.join(replica)
    return sources


@pytest.mark.timeout(240)
async def test_a_rotation_under_load(tmp_path: Path) -> None:
    """[a] to [a, b] to [b, a] to [b]: no call fails, and until a is gone each entry it sealed opens."""
    async with redis_server() as redis, fleet(tmp_path, stores=[redis.url] * REPLICAS) as brokers:
        (a,) = brokers.seal_keys
        b = brokers.new_seal_key("second.key")
        sealed_by_a = [brokers.double.add_key() for _ in range(4)]
        tokens = {arn: (await brokers.get(brokers.replicas[0], arn)).token for arn in sealed_by_a}
        warm = [brokers.double.add_key() for _ in range(8)]
        for arn in warm:
            await brokers.get(brokers.replicas[0], arn)
        async with load(brokers, warm, cold_per_second=5) as callers:
            learned = await _roll_out(brokers, callers, [a, b], sealed_by_a)
            sealing = await _roll_out(brokers, callers, [b, a], sealed_by_a)
            still = {arn: {answer.token for answer in await brokers.get_everywhere(arn)} for arn in sealed_by_a}
            calls_for_old = [len(brokers.callers_of(arn)) for arn in sealed_by_a]
            sealed_by_b = [brokers.double.add_key() for _ in range(4)]
            for arn in sealed_by_b:
                await brokers.get(brokers.replicas[0], arn)
            forgotten = await _roll_out(brokers, callers, [b], sealed_by_b)
            renewed = [await brokers.get_everywhere(arn) for arn in sealed_by_a]
        calls_for_new = [len(brokers.callers_of(arn)) for arn in sealed_by_b]

    print(f"three roll-outs over {REPLICAS} replicas: {callers.summary()}")
    assert callers.failed == []
    assert brokers.ledger.wrong == []
    assert callers.unready == []
    assert learned == sealing == ["STORE"] * REPLICAS * len(sealed_by_a)
    assert {arn: {token} for arn, token in tokens.items()} == still
    assert calls_for_old == [1] * len(sealed_by_a)
    assert forgotten == ["STORE"] * REPLICAS * len(sealed_by_b)
    assert calls_for_new == [1] * len(sealed_by_b)
    assert all(len({answer.token for answer in everywhere}) == 1 for everywhere in renewed)


async def test_replicas_with_foreign_keys_do_each_others_sets_no_harm(tmp_path: Path) -> None:
    """One replica was given another seal key by mistake: all go on answering, with sets that KMS issued, and log it."""
    async with redis_server() as redis, fleet(tmp_path, stores=[redis.url] * REPLICAS) as brokers:
        odd = brokers.replicas[-1]
        await odd.stop()
        brokers.configure(odd, [brokers.new_seal_key("foreign.key")])
        await odd.start()
        warm = [brokers.double.add_key() for _ in range(4)]
        for _ in range(ROUNDS):
            for arn in warm:
                await brokers.get_everywhere(arn, each=2)
        calls, warnings = brokers.count(), [len(replica.warnings()) for replica in brokers.replicas]

    print(f"a replica with another seal key: {calls} calls for {len(warm)} keys, {warnings} warnings")
    assert min(warnings) > 0
    assert calls <= REPLICAS * ROUNDS * len(warm)
