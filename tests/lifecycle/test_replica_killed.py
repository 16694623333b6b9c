"""A broker dies without a word under load: the published retries cover whatever changes no key."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keyimport.v1 import key_import_pb2 as pb
from tests.fleet.harness import times
from tests.lifecycle.callers import PATIENCE, Callers, calling, get, import_request
from tests.lifecycle.replicas import Replica, replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.lifecycle.replicas import Replicas

CALLERS = 24
KILLS = times(2, campaign=20)
LOAD_SECONDS = 1.0  # of load on both, between a start and the next kill
PUBLISHED = json.loads(Path(__file__).parents[2].joinpath("clients", "service_config.json").read_text())


class _Callers(Callers):
    async def discard(self, stub: Any, number: int) -> None:
        """Reports sets that the broker does not know, which is answered all the same."""
        for number_of_set in itertools.count():
            if self._stopping.is_set():
                return
            arn = self._warm[number % len(self._warm)]
            request = pb.DiscardParametersRequest(key_id=arn, import_token=b"set %d" % number_of_set)
            await self.ask("DiscardParameters", stub.DiscardParameters(request, timeout=PATIENCE))
            await asyncio.sleep(0.05)

    async def look(self, stub: Any, number: int) -> None:
        """Asks how a key is."""
        while not self._stopping.is_set():
            request = pb.GetKeyImportStatusRequest(key_id=self._warm[number % len(self._warm)])
            await self.ask("GetKeyImportStatus", stub.GetKeyImportStatus(request, timeout=PATIENCE))
            await asyncio.sleep(0.05)

    async def do_import(self, stub: Any, _: int) -> None:
        """Gives new keys their key material; whatever becomes of an import, it is not tried again."""
        while not self._stopping.is_set():
            answer = await self.ask("GetParametersForImport", stub.GetParametersForImport(get(self._add_key())))
            if answer:
                call = stub.ImportKeyMaterial(import_request(answer), timeout=PATIENCE)
                await self.ask("ImportKeyMaterial", call)


@pytest.mark.timeout(90 + 15 * KILLS)
async def test_the_published_retries_cover_what_changes_no_key(tmp_path: Path) -> None:
    """Kill -9: no get, discard or status fails. An import may, and then nobody, gRPC included, has sent it twice."""
    async with replicas(tmp_path) as brokers:
        callers = await _call_while(brokers, json.dumps(PUBLISHED), Replica.kill)
        sent = Counter(call.key_id for call in brokers.double.calls if call.operation == "ImportKeyMaterial")

    assert {rpc for rpc, _ in callers.refusals} <= {"ImportKeyMaterial"}, callers.failed
    assert {reason for _, reason in callers.refusals} <= {"UNAVAILABLE"}
    assert set(sent.values()) == {1}


@pytest.mark.timeout(90 + 15 * KILLS)
async def test_a_stop_costs_those_who_watch_no_health_one_more_try(tmp_path: Path) -> None:
    """SIGTERM: gRPC ends calls that meet its stop with CANCELLED, https://github.com/grpc/grpc/issues/41785."""
    async with replicas(tmp_path) as brokers:
        callers = await _call_while(brokers, json.dumps(PUBLISHED), Replica.stop)
        sent = Counter(call.key_id for call in brokers.double.calls if call.operation == "ImportKeyMaterial")

    assert {rpc for rpc, _ in callers.refusals} <= {"ImportKeyMaterial"}, callers.failed
    assert {reason for _, reason in callers.refusals} <= {"UNAVAILABLE", "CANCELLED"}
    assert set(sent.values()) == {1}


async def _call_while(
    brokers: Replicas, service_config: str, end: Callable[[Replica], Coroutine[Any, Any, object]]
) -> Callers:
    """Ends the brokers by turns, and starts each again, while plain stubs call."""
    callers = _Callers(brokers.double.add_key, [brokers.double.add_key() for _ in range(16)])
    # A channel asks one broker, and once that one is gone the next in its list: half of them begin with the other.
    channels = [brokers.channel(f"caller-{n}", service_config, first=n // 8 % 2) for n in range(CALLERS)]
    work = [callers.read, callers.read, callers.discard, callers.discard, callers.look, callers.look]
    async with calling(callers, channels, *work, callers.do_import, callers.do_import):
        for replica in (brokers.all * KILLS)[:KILLS]:
            await asyncio.sleep(LOAD_SECONDS)
            await end(replica)
            await replica.start()
        await asyncio.sleep(LOAD_SECONDS)
    print(f"{KILLS} times {end.__name__}, {CALLERS} callers: {callers.summary()}; {dict(callers.refusals)}")
    return callers
