"""What one caller may take from the others: nothing."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

import grpc

from demo.broker_process import broker_process
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import read_refusal, refusal_of
from tests.kms_double import kms_double

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

GET = "GetParametersForImport"
SPEC = pb.WRAPPING_KEY_SPEC_RSA_2048
LOOKUPS = 50.0


def _request(key_id: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=key_id, wrapping_key_spec=SPEC)


def _stub(channel: grpc.aio.Channel) -> Any:
    return key_import_pb2_grpc.KeyImportServiceStub(channel)


async def test_a_flood_of_unknown_keys_is_bounded_and_hurts_nobody_else(tmp_path: Path) -> None:
    """1,000 unknown ids a second for 10 s: KMS sees what the settings let through, the other caller is served."""
    flood_rate, seconds = 1000, 10
    config = tmp_path / "keybroker.toml"
    async with kms_double() as double:
        config.write_text(
            f"""
            listeners = [{{ address = "unix:{tmp_path}/mallory.sock", caller = "mallory" }},
                         {{ address = "unix:{tmp_path}/alice.sock", caller = "alice" }}]
            kms = {{ regions = ["us-east-1"], endpoint = "{double.endpoint}", requests_per_second = 2 }}
            limits = {{ lookups_per_second = {LOOKUPS} }}
            audit = {{ file = "{tmp_path}/audit.log" }}
            """
        )
        target = f"unix:{tmp_path}/alice.sock"
        async with (
            broker_process(config, target, log=tmp_path / "keybroker.log"),
            grpc.aio.insecure_channel(f"unix:{tmp_path}/mallory.sock") as mallory,
            grpc.aio.insecure_channel(target) as alice,
        ):
            cached, new = double.add_key(), double.add_key()
            await _stub(alice).GetParametersForImport(_request(cached))
            before = double.count("DescribeKey")
            started = time.monotonic()
            flood = asyncio.ensure_future(_flood(_stub(mallory), flood_rate, seconds))
            await asyncio.sleep(seconds / 2)
            fresh = await _stub(alice).GetParametersForImport(_request(new), timeout=30)
            reads = [await _stub(alice).GetParametersForImport(_request(cached), timeout=30) for _ in range(200)]
            reasons = await flood
            elapsed = time.monotonic() - started
            described = double.count("DescribeKey") - before - 1
            fetched = double.count(GET)

    allowed = 20 * LOOKUPS + LOOKUPS * elapsed
    print(f"{sum(reasons.values())} requests in {elapsed:.1f} s: {reasons}")
    print(f"KMS saw {described} DescribeKey ({allowed:.0f} allowed) and {fetched} GetParametersForImport")
    assert sum(reasons.values()) == flood_rate * seconds
    assert set(reasons) == {"KEY_NOT_FOUND", "CALLER_RATE_EXCEEDED"}
    assert described <= allowed + 1
    assert fetched == 2
    assert fresh.source == pb.PARAMETERS_SOURCE_KMS
    assert {pb.PARAMETERS_SOURCE_CACHE} == {read.source for read in reads}


async def _flood(stub: Any, rate: int, seconds: int) -> dict[str, int]:
    reasons: dict[str, int] = {}

    async def one() -> None:
        try:
            await stub.GetParametersForImport(_request(str(uuid.uuid4())))
        except grpc.aio.AioRpcError as error:
            reason = read_refusal(error).reason
            reasons[reason] = reasons.get(reason, 0) + 1

    calls = []
    for _ in range(seconds * 10):
        calls += [asyncio.ensure_future(one()) for _ in range(rate // 10)]
        await asyncio.sleep(0.1)
    await asyncio.gather(*calls)
    return reasons


async def test_a_callers_rate_is_its_own(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """Over its rate a caller is refused with the time to come back; another caller is not."""
    arn = double.add_key()
    listeners = [{"address": f"unix:{tmp_path}/{name}.sock", "caller": name} for name in ("alice", "bob")]
    async with run_broker(listeners=listeners, limits={"requests_per_second": 1.0}) as broker:
        for _ in range(2):
            await broker.stub.GetParametersForImport(_request(arn))
        refused = await refusal_of(broker.stub.GetParametersForImport(_request(arn)))
        async with grpc.aio.insecure_channel(listeners[1]["address"]) as bob:
            other = await _stub(bob).GetParametersForImport(_request(arn))

    assert refused.reason == "CALLER_RATE_EXCEEDED"
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 1
    assert refused.pushback
    assert other.source == pb.PARAMETERS_SOURCE_CACHE


async def test_a_joiner_is_not_held_back_by_a_greedy_starter(
    tmp_path: Path, run_broker: RunBroker, double: KmsDouble
) -> None:
    """Mallory's last key in line is Alice's only one: it comes when Alice's own request would."""
    listeners = [{"address": f"unix:{tmp_path}/{name}.sock", "caller": name} for name in ("mallory", "alice")]
    async with run_broker(listeners=listeners, kms={"requests_per_second": 2.0}) as broker:
        arns = [double.add_key() for _ in range(30)]
        greedy = [asyncio.ensure_future(refusal_or_set(broker.stub, arn)) for arn in arns]
        await double.reached("DescribeKey", 30)
        async with grpc.aio.insecure_channel(listeners[1]["address"]) as alice:
            wanted = await _stub(alice).GetParametersForImport(_request(arns[-1]), timeout=10)
        fetched = [call.key_id for call in double.calls if call.operation == GET]
        for call in greedy:
            call.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)

    assert wanted.key_arn == arns[-1]
    assert fetched.index(arns[-1]) <= 4


async def refusal_or_set(stub: Any, arn: str) -> Any:
    """Whatever comes of a request."""
    try:
        return await stub.GetParametersForImport(_request(arn))
    except grpc.aio.AioRpcError as error:
        return error
