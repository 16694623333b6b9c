"""Brokers are replaced one by one under load: whoever obeys their health loses no call, and tries none again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.fleet.harness import times
from tests.lifecycle.callers import Callers, calling
from tests.lifecycle.replicas import replicas

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lifecycle.replicas import Replica

CALLERS = 64
ROUNDS = times(1, campaign=10)
BACK_SECONDS = 30.0  # in which all callers have found a broker that is there again; generous

# What a load balancer does, done by gRPC in the caller: a broker is asked only while its health is SERVING.
BY_HEALTH = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "keyimport.v1.KeyImportService"},
    }
)


@pytest.mark.timeout(90 + 30 * ROUNDS)
async def test_a_rolling_restart_fails_no_call(tmp_path: Path) -> None:
    """64 callers, gRPC's retries off: every call is answered, every answer is on record, every exit code is 0."""
    codes = []
    async with replicas(tmp_path) as brokers:
        warm = [brokers.double.add_key() for _ in range(16)]
        callers = Callers(brokers.double.add_key, warm)
        channels = [brokers.channel(f"caller-{n}", BY_HEALTH, enable_retries=0) for n in range(CALLERS)]
        # Of eight callers, one imports and one asks for many keys at once.
        work = [callers.read, callers.read, callers.read, callers.perform, *[callers.read] * 3, callers.read_many]
        async with calling(callers, channels, *work):
            for replica in brokers.all:
                await _until_all_call(replica, since=0)
            for replica in brokers.all * ROUNDS:
                before = len(replica.audited())
                codes.append(await replica.stop())
                await replica.start()
                await _until_all_call(replica, since=before)
        lines = [line for replica in brokers.all for line in replica.audited()]

    print(f"{ROUNDS} rounds, {len(codes)} restarts, {CALLERS} callers: {callers.summary()}")
    recorded = Counter(line["rpc"] for line in lines if line["code"] == "OK")
    assert callers.failed == []
    assert codes == [0] * 2 * ROUNDS
    for rpc in ("GetParametersForImport", "ImportKeyMaterial", "GetKeyImportStatus"):
        assert recorded[rpc] == callers.answered[rpc]


async def _until_all_call(replica: Replica, *, since: int) -> None:
    """Returns when every caller has been served by it, as an orchestrator waits between two replacements."""
    async with asyncio.timeout(BACK_SECONDS):
        while len({line["caller"] for line in replica.audited()[since:]}) < CALLERS:
            await asyncio.sleep(0.1)
