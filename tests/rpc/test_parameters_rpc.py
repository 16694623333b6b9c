"""GetParametersForImport as a client sees it, over a socket and before a KMS that counts."""

from __future__ import annotations

import asyncio
import hashlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

GET = "GetParametersForImport"
SERVICE_CONFIG = Path(__file__).parents[2].joinpath("clients", "service_config.json").read_text()


def _request(key_id: str, **fields: Any) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=key_id, **fields)


async def test_an_answer_is_complete_and_consistent(run_broker: RunBroker, double: KmsDouble) -> None:
    """Every field of the contract is filled, and the fingerprint is the key's."""
    arn = double.add_key()
    async with run_broker() as broker:
        answer = await broker.stub.GetParametersForImport(_request(arn))

    valid_to = answer.parameters_valid_to.ToDatetime(tzinfo=UTC)
    assert answer.key_arn == arn
    assert hashlib.sha256(answer.public_key).digest() == answer.public_key_sha256
    assert len(answer.import_token) > 0
    assert timedelta(hours=23) < valid_to - datetime.now(UTC) <= timedelta(hours=24, minutes=1)
    assert answer.wrapping_algorithm == pb.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256
    assert answer.wrapping_key_spec == pb.WRAPPING_KEY_SPEC_RSA_4096
    assert answer.source == pb.PARAMETERS_SOURCE_KMS


async def test_a_bare_id_and_its_arn_share_a_set(run_broker: RunBroker, double: KmsDouble) -> None:
    """Two spellings of a key are one slot."""
    arn = double.add_key()
    async with run_broker() as broker:
        by_arn = await broker.stub.GetParametersForImport(_request(arn))
        by_id = await broker.stub.GetParametersForImport(_request(arn.rpartition("/")[2]))

    assert by_arn.import_token == by_id.import_token
    assert by_id.source == pb.PARAMETERS_SOURCE_CACHE
    assert double.count(GET) == 1


async def test_regions_have_their_own_client_and_cache(run_broker: RunBroker, double: KmsDouble) -> None:
    """A multi-Region key's replicas share an id, not a set; each is asked for in its own Region."""
    first = double.add_key(multi_region=True)
    second = double.keys.replicate(first, "eu-west-1")
    async with run_broker(kms={"regions": ["us-east-1", "eu-west-1"]}) as broker:
        here = await broker.stub.GetParametersForImport(_request(first))
        there = await broker.stub.GetParametersForImport(_request(second))

    assert here.import_token != there.import_token
    assert (first, second) == (here.key_arn, there.key_arn)
    assert ["us-east-1", "eu-west-1"] == [call.region for call in double.calls if call.operation == GET]


async def test_a_callers_short_deadline_is_answered_with_the_wait(run_broker: RunBroker, double: KmsDouble) -> None:
    """The refusal comes from the broker, not from the deadline, and says when to come back in both places."""
    first, second = double.add_key(), double.add_key()
    async with run_broker(kms={"requests_per_second": 0.25}) as broker:
        await broker.stub.GetParametersForImport(_request(first))
        refused = await refusal_of(broker.stub.GetParametersForImport(_request(second), timeout=2))

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.reason == "QUOTA_WAIT_EXCEEDS_DEADLINE"
    assert refused.retry_after is not None
    assert refused.retry_after == pytest.approx(4, abs=0.9)
    assert refused.pushback == str(round(refused.retry_after * 1000))
    assert double.count(GET) == 1


async def test_a_raw_stub_with_our_service_config_comes_back_when_it_is_told_to(
    run_broker: RunBroker, double: KmsDouble
) -> None:
    """The retry of gRPC itself waits the second of RetryInfo, and not its own first backoff, which is shorter."""
    arn = double.add_key()
    double.lie(GET, "error:KMSInternalException", 1)
    options = [("grpc.service_config", SERVICE_CONFIG)]
    async with run_broker() as broker, grpc.aio.insecure_channel(broker.target, options=options) as channel:
        stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
        started = time.monotonic()
        answer = await stub.GetParametersForImport(_request(arn), timeout=30)
        took = time.monotonic() - started

    assert answer.key_arn == arn
    assert double.count(GET) == 2
    assert took >= 1


async def test_without_a_deadline_the_servers_maximum_holds(run_broker: RunBroker, double: KmsDouble) -> None:
    """A caller that would wait forever is told when the wait passes a minute."""
    keys = [double.add_key() for _ in range(3)]
    async with run_broker(kms={"requests_per_second": 0.011}) as broker:
        await broker.stub.GetParametersForImport(_request(keys[0]))
        refused = await refusal_of(broker.stub.GetParametersForImport(_request(keys[1])))

    assert refused.reason == "QUOTA_WAIT_EXCEEDS_DEADLINE"
    assert refused.retry_after is not None
    assert refused.retry_after > 60


async def test_the_first_callers_deadline_fails_nobody_else(run_broker: RunBroker, double: KmsDouble) -> None:
    """KMS is slow; the first caller's deadline passes, a cancelled one leaves, the others get the one set."""
    arn = double.add_key()
    double.latency["GetParametersForImport"] = 0.8
    async with run_broker() as broker:
        first = asyncio.ensure_future(refusal_of(broker.stub.GetParametersForImport(_request(arn), timeout=0.3)))
        await double.reached(GET, 1)
        others = [asyncio.ensure_future(_get(broker, arn)) for _ in range(50)]
        leaving = broker.stub.GetParametersForImport(_request(arn))
        await asyncio.sleep(0.05)
        leaving.cancel()
        answers = await asyncio.gather(*others)

    assert (await first).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len({answer.import_token for answer in answers}) == 1
    assert double.count(GET) == 1


async def _get(broker: RunningBroker, arn: str) -> pb.GetParametersForImportResponse:
    answer: pb.GetParametersForImportResponse = await broker.stub.GetParametersForImport(_request(arn))
    return answer
