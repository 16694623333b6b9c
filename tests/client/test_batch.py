"""A batch gives each key its set or its refusal, checked like a single answer, and ends when its reader leaves."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keyimport import (
    BatchNews,
    BatchParameters,
    BatchProgress,
    BatchRefusal,
    CallerNotAuthorized,
    KeyImportClient,
    KeyImportError,
    KeyNotFound,
    KmsThrottled,
    QuotaWaitExceedsDeadline,
    WrappingAlgorithm,
    WrappingKeyRejected,
    WrappingKeySpec,
)
from keyimport.v1 import key_import_pb2 as pb
from tests.client.fake_broker import KEY_ID, Failure, FakeBroker, arn_of, refusal, try_later

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = "BatchGetParametersForImport"
KEYS = [KEY_ID, arn_of("22222222-12ab-34cd-56ef-1234567890ab"), "33333333-12ab-34cd-56ef-1234567890ab"]


async def _all(client: KeyImportClient, keys: list[str], **choices: Any) -> list[BatchNews]:
    return [news async for news in client.get_parameters_batch(keys, **choices)]


async def test_every_key_has_its_checked_set(broker: FakeBroker, client: KeyImportClient) -> None:
    """Keys come back under the name they were asked for, each with a set of its own."""
    news = await _all(client, KEYS)

    found = {one.key_id: one.parameters for one in news if isinstance(one, BatchParameters)}
    assert list(found) == KEYS
    assert [one.key_arn for one in found.values()] == [arn_of(key) for key in KEYS]
    assert {one.import_token for one in found.values()} == set(broker.sets)


async def test_the_request_is_what_was_asked(broker: FakeBroker, client: KeyImportClient) -> None:
    """All keys go in one request, with the choices of the caller and his time."""
    await _all(
        client,
        KEYS,
        wrapping_algorithm="RSA_AES_KEY_WRAP_SHA_256",
        wrapping_key_spec=WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072,
        min_remaining_validity=timedelta(hours=2),
        timeout=77,
    )

    (request,) = (pb.BatchGetParametersForImportRequest.FromString(one) for one in broker.received)
    assert list(request.key_ids) == KEYS
    assert request.wrapping_algorithm == WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256
    assert request.wrapping_key_spec == WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072
    assert request.min_remaining_validity.ToTimedelta() == timedelta(hours=2)
    assert 70 < broker.timeouts[0] < 80  # gRPC rounds it on its way


async def test_progress_is_told_before_the_answer(broker: FakeBroker, client: KeyImportClient) -> None:
    """Whoever waits sees how many are before him, and how long that takes."""
    broker.progress = [pb.ParametersProgress(position=position) for position in (2, 1)]
    for progress in broker.progress:
        progress.expected_wait.FromTimedelta(timedelta(seconds=4 * progress.position))

    *waiting, answer = await _all(client, [KEY_ID])

    assert waiting == [
        BatchProgress(key_id=KEY_ID, position=2, expected_wait=timedelta(seconds=8)),
        BatchProgress(key_id=KEY_ID, position=1, expected_wait=timedelta(seconds=4)),
    ]
    assert isinstance(answer, BatchParameters)


async def test_a_refused_key_leaves_the_others_alone(broker: FakeBroker, client: KeyImportClient) -> None:
    """A refusal is typed by its reason, with all that an error of a single call carries."""
    broker.batch_failures = {
        KEYS[0]: refusal(grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND", correlation_id="c-1"),
        KEYS[1]: try_later("QUOTA_WAIT_EXCEEDS_DEADLINE", timedelta(seconds=40)),
    }

    missing, late, answer = await _all(client, KEYS)

    assert isinstance(missing, BatchRefusal)
    assert type(missing.error) is KeyNotFound
    assert (missing.error.code, missing.error.correlation_id) == (grpc.StatusCode.NOT_FOUND, "c-1")
    assert missing.error.message == "A sentence for the caller."
    assert isinstance(late, BatchRefusal)
    assert type(late.error) is QuotaWaitExceedsDeadline
    assert late.error.retry_after == timedelta(seconds=40)
    assert isinstance(answer, BatchParameters)
    assert answer.key_id == KEYS[2]


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (lambda answer: setattr(answer.parameters, "key_arn", arn_of(KEYS[2])), "it is for .*33333333"),
        (lambda answer: setattr(answer.parameters, "public_key_sha256", bytes(32)), "SHA-256"),
        (lambda answer: setattr(answer.parameters, "wrapping_key_spec", 1), "not the wrapping key spec asked for"),
        (lambda answer: setattr(answer.parameters, "wrapping_algorithm", 2), "not the wrapping algorithm asked for"),
    ],
)
async def test_a_lying_set_is_no_set(
    lie: Callable[[Any], None], sentence: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """What a single call would have raised stands in the set's place."""
    broker.lie = lie

    (news,) = await _all(client, [KEY_ID], wrapping_algorithm="RSAES_OAEP_SHA_256", wrapping_key_spec="RSA_4096")

    assert isinstance(news, BatchRefusal)
    with pytest.raises(WrappingKeyRejected, match=sentence):
        raise news.error


@pytest.mark.parametrize("named", [KEYS[2], "", KEYS[0]])
async def test_an_answer_nobody_waits_for_ends_the_batch(
    named: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """A set for a key that was not asked for, or a second one for a key, shows that nothing here can be relied on."""
    broker.lie = lambda answer: setattr(answer, "key_id", named)

    with pytest.raises(WrappingKeyRejected, match="not a key that waits"):
        await _all(client, KEYS[:2])


async def test_a_key_without_an_answer_is_told(broker: FakeBroker, client: KeyImportClient) -> None:
    """A stream that ends early with a good status does not pass for a whole one."""
    broker.lie = lambda answer: answer.ClearField("parameters")

    with pytest.raises(KeyImportError, match=f"without an answer for '{KEYS[0]}' and 2 more"):
        await _all(client, KEYS)


async def test_news_of_a_newer_kind_are_passed_over(broker: FakeBroker, client: KeyImportClient) -> None:
    """A wait that is no time, and a message this library does not know, say nothing."""
    broker.progress = [pb.ParametersProgress(position=1), pb.ParametersProgress(position=1)]
    broker.progress[0].expected_wait.seconds = -4
    broker.progress[1].expected_wait.seconds = 2**62

    (news,) = await _all(client, [KEY_ID])

    assert isinstance(news, BatchParameters)


async def test_a_stream_that_breaks_off_raises(broker: FakeBroker, client: KeyImportClient) -> None:
    """What came before stands; then it is an error as of every other call, and nothing is asked again."""
    broker.broken_after = 1
    batch = client.get_parameters_batch(KEYS)

    first = await anext(batch)
    with pytest.raises(KeyImportError) as raised:
        await anext(batch)

    assert first.key_id == KEYS[0]
    assert (raised.value.reason, raised.value.code) == ("", grpc.StatusCode.UNAVAILABLE)
    assert broker.calls == [BATCH]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (refusal(grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED"), CallerNotAuthorized),
        (try_later("KMS_THROTTLED", timedelta(milliseconds=10)), KmsThrottled),
        (Failure(code=grpc.StatusCode.UNAVAILABLE, trailer=None), KeyImportError),
        (Failure(code=grpc.StatusCode.CANCELLED, trailer=None), KeyImportError),
    ],
)
async def test_a_refused_batch_is_not_tried_again(
    failure: Failure, expected: type[KeyImportError], broker: FakeBroker, client: KeyImportClient
) -> None:
    """Whoever reads a batch decides himself when to ask for the rest."""
    broker.fail(BATCH, failure)

    with pytest.raises(KeyImportError) as raised:
        await _all(client, KEYS)

    assert type(raised.value) is expected
    assert broker.calls == [BATCH]


async def test_leaving_the_generator_cancels_the_call(broker: FakeBroker, client: KeyImportClient) -> None:
    """The broker learns that nobody waits any more."""
    broker.stalled = {BATCH}

    async with aclosing(client.get_parameters_batch(KEYS)) as batch:
        async for _ in batch:
            break

    async with asyncio.timeout(5):
        while broker.cancelled != [BATCH]:
            await asyncio.sleep(0.01)
