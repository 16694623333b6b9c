"""Many keys in one stream: every key is answered, nobody else waits longer for it, and a cancel stops the rest."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from google.rpc.status_pb2 import Status

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

GET = "GetParametersForImport"
SPEC = pb.WRAPPING_KEY_SPEC_RSA_2048


def _batch(key_ids: Iterable[str]) -> pb.BatchGetParametersForImportRequest:
    return pb.BatchGetParametersForImportRequest(key_ids=key_ids, wrapping_key_spec=SPEC)


def _one(key_id: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=key_id, wrapping_key_spec=SPEC)


async def _all(stream: Any) -> list[Any]:
    return [message async for message in stream]


def _answers(messages: list[Any]) -> dict[str, Any]:
    """By key id; fails where one is answered twice."""
    answers = [message for message in messages if message.WhichOneof("result") != "progress"]
    assert [] == [key_id for key_id, count in Counter(answer.key_id for answer in answers).items() if count > 1]
    return {answer.key_id: answer for answer in answers}


def _reason(status: Status) -> str:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


async def test_each_key_is_answered_as_if_asked_alone(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """With its set or its refusal, and each of them is on record beside the whole."""
    arns = [double.add_key() for _ in range(6)]
    unknown = "00000000-0000-0000-0000-000000000000"
    refused = {
        "alias/root": "ALIAS_NOT_ALLOWED",
        "arn:aws:kms:us-east-1:999988887777:key/" + unknown: "FOREIGN_ACCOUNT",
        unknown: "KEY_NOT_FOUND",
        double.add_key(origin="AWS_KMS"): "KEY_NOT_EXTERNAL",
        double.add_key("RSA_2048"): "",
    }
    async with run_broker(audit={"file": str(tmp_path / "audit.log")}) as broker:
        cached = await broker.stub.GetParametersForImport(_one(arns[0]))
        messages = await _all(broker.stub.BatchGetParametersForImport(_batch([*arns, *refused])))
        alone = [await broker.stub.GetParametersForImport(_one(arn)) for arn in arns]

    answers = _answers(messages)
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    parts = {line["key_arn"]: line for line in lines if "Batch" in line["rpc"] and line.get("key_arn") in arns}
    assert set(answers) == {*arns, *refused}
    assert [answers[arn].parameters.import_token for arn in arns] == [answer.import_token for answer in alone]
    assert answers[arns[0]].parameters.source == pb.PARAMETERS_SOURCE_CACHE
    assert answers[arns[0]].parameters.import_token == cached.import_token
    assert {key_id: _reason(answers[key_id].error) for key_id, reason in refused.items() if reason} == {
        key_id: reason for key_id, reason in refused.items() if reason
    }
    assert [parts[arn]["public_key_sha256"] for arn in arns] == [answer.public_key_sha256.hex() for answer in alone]
    whole = [
        line for line in lines if line["rpc"].startswith("Batch") and "key_arn" not in line and "reason" not in line
    ]
    assert [line["code"] for line in whole] == ["OK"]
    assert {line["correlation_id"] for line in parts.values()} == {whole[0]["correlation_id"]}


async def test_an_unsuitable_wrapping_is_refused_with_what_would_suit(run_broker: RunBroker, double: KmsDouble) -> None:
    """The error in the stream carries the details that the unary call's would."""
    arn = double.add_key("RSA_2048")
    request = _batch([arn])
    request.wrapping_algorithm = pb.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256
    async with run_broker() as broker:
        (message,) = await _all(broker.stub.BatchGetParametersForImport(request))
        alone = _one(arn)
        alone.wrapping_algorithm = request.wrapping_algorithm
        refusal = await refusal_of(broker.stub.GetParametersForImport(alone))

    info = ErrorInfo()
    assert message.error.details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == (refusal.reason, refusal.metadata)
    assert (message.error.code, message.error.message) == (refusal.code.value[0], refusal.message)


async def test_those_who_wait_are_told_how_far_they_are(run_broker: RunBroker, double: KmsDouble) -> None:
    """Each has a position of its own, and its wait is that of the quota."""
    arns = [double.add_key() for _ in range(10)]
    async with run_broker(kms={"requests_per_second": 5.0}) as broker:
        messages = await _all(broker.stub.BatchGetParametersForImport(_batch(arns)))

    progress = [message for message in messages if message.WhichOneof("result") == "progress"]
    positions = sorted(message.progress.position for message in progress)
    waits = sorted(message.progress.expected_wait.ToMilliseconds() for message in progress)
    assert positions == list(range(len(progress)))
    assert len(progress) >= 5
    assert all(later - earlier == pytest.approx(200, abs=20) for earlier, later in itertools.pairwise(waits))
    assert {key_id for key_id, answer in _answers(messages).items() if answer.HasField("parameters")} == set(arns)
    assert double.count(GET) == 10


async def test_a_cancel_stops_what_is_not_begun(run_broker: RunBroker, double: KmsDouble) -> None:
    """KMS hears of no more than the one whose token was spent, and the line is free for others."""
    arns = [double.add_key() for _ in range(30)]
    async with run_broker(kms={"requests_per_second": 4.0}) as broker:
        stream = broker.stub.BatchGetParametersForImport(_batch(arns))
        async for message in stream:
            if message.HasField("parameters"):
                break
        begun = double.count(GET)
        stream.cancel()
        await broker.stub.GetParametersForImport(_one(double.add_key()), timeout=1.5)
        asked = double.count(GET)

    assert asked <= begun + 2


async def test_a_cancel_leaves_those_who_joined_their_sets(run_broker: RunBroker, double: KmsDouble) -> None:
    """A key of the batch that another caller asks for too is fetched for him."""
    arns = [double.add_key() for _ in range(4)]
    async with run_broker(kms={"requests_per_second": 4.0}) as broker:
        stream = broker.stub.BatchGetParametersForImport(_batch(arns))
        await anext(aiter(stream))
        joined = asyncio.ensure_future(broker.stub.GetParametersForImport(_one(arns[3])))
        await asyncio.sleep(0.1)
        stream.cancel()
        answer = await joined

    assert answer.key_arn == arns[3]


async def test_what_is_past_the_deadlines_reach_is_refused_at_once(run_broker: RunBroker, double: KmsDouble) -> None:
    """With the wait in RetryInfo, before the first wait is over; the others come in time."""
    arns = [double.add_key() for _ in range(12)]
    async with run_broker(kms={"requests_per_second": 2.0}) as broker:
        messages = await _all(broker.stub.BatchGetParametersForImport(_batch(arns), timeout=3))

    kinds = [message.WhichOneof("result") for message in messages if message.WhichOneof("result") != "progress"]
    refusals = [message.error for message in messages if message.HasField("error")]
    retry = RetryInfo()
    assert refusals[-1].details[1].Unpack(retry)
    assert {_reason(status) for status in refusals} == {"QUOTA_WAIT_EXCEEDS_DEADLINE"}
    assert retry.retry_delay.ToMilliseconds() > 2000
    assert len(kinds) == 12
    assert 2 <= kinds.count("parameters") <= 7  # the quota gives 7; a machine that stalls takes fewer
    before_the_last_refusal = kinds[: len(kinds) - kinds[::-1].index("error")]
    assert before_the_last_refusal.count("parameters") <= 1  # that had nothing to wait for
    assert double.count(GET) == kinds.count("parameters")


async def test_another_callers_one_key_does_not_wait_for_the_batch(
    run_broker: RunBroker, double: KmsDouble, tmp_path: Path
) -> None:
    """The line takes turns: the second or third token is his."""
    arns, wanted = [double.add_key() for _ in range(20)], double.add_key()
    listeners = [{"address": f"unix:{tmp_path}/{name}.sock", "caller": name} for name in ("broker", "other")]
    async with (
        run_broker(listeners=listeners, kms={"requests_per_second": 4.0}) as broker,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/other.sock") as channel,
    ):
        other: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
        stream = broker.stub.BatchGetParametersForImport(_batch(arns))
        await anext(aiter(stream))
        await other.GetParametersForImport(_one(wanted))
        stream.cancel()

    asked = [call.key_id for call in double.calls if call.operation == GET]
    assert asked.index(wanted) <= 3


@pytest.mark.parametrize(
    "sections",
    [
        {"kms": {"queue": 3, "requests_per_second": 20.0}},
        {"limits": {"requests_per_second": 4.0}},
        {"limits": {"lookups_per_second": 0.4}},
    ],
)
async def test_a_batch_is_slowed_down_rather_than_refused(
    run_broker: RunBroker, double: KmsDouble, sections: dict[str, Any]
) -> None:
    """By a short line, by the caller's rate of requests, and by that of keys new to the broker."""
    arns = [double.add_key() for _ in range(10)]
    async with run_broker(**sections) as broker:
        messages = await _all(broker.stub.BatchGetParametersForImport(_batch(arns)))

    assert {key_id: answer.WhichOneof("result") for key_id, answer in _answers(messages).items()} == dict.fromkeys(
        arns, "parameters"
    )


@pytest.mark.parametrize("key_ids", [[], ["a"] * 2, [str(n) for n in range(501)]])
async def test_a_batch_names_1_to_500_keys_once(run_broker: RunBroker, key_ids: list[str]) -> None:
    """Anything else is refused as a whole, by the field's name."""
    async with run_broker() as broker:
        refusal = await refusal_of(_all(broker.stub.BatchGetParametersForImport(_batch(key_ids))))

    assert (refusal.reason, refusal.field) == ("REQUEST_MALFORMED", "key_ids")


async def test_five_hundred_arns_fit_a_request(run_broker: RunBroker, double: KmsDouble) -> None:
    """And are all answered, cached or not."""
    arns = [double.add_key() for _ in range(500)]
    async with run_broker() as broker:
        cold = await _all(broker.stub.BatchGetParametersForImport(_batch(arns)))
        started = time.monotonic()
        warm = await _all(broker.stub.BatchGetParametersForImport(_batch(arns)))
        print(f"500 cached sets in {time.monotonic() - started:.2f} s")

    tokens = {key_id: answer.parameters.import_token for key_id, answer in _answers(cold).items()}
    assert set(tokens) == set(arns)
    assert {key_id: answer.parameters.import_token for key_id, answer in _answers(warm).items()} == tokens
    assert double.count(GET) == 500
