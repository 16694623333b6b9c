"""Within its timeout a call is made again where that can help and can do no harm, and nowhere else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from keyimport import KeyImportClient, KeyImportError, KmsThrottled, OutcomeUnknown, QuotaQueueFull
from keyimport.retry import delay_before_retry
from keyimport.v1 import key_import_pb2_grpc
from tests.client.fake_broker import KEY_ID, Failure, details, try_later

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.client.fake_broker import FakeBroker

CALLS: dict[str, Callable[[KeyImportClient], Awaitable[object]]] = {
    "GetParametersForImport": lambda client: client.get_parameters(KEY_ID),
    "DiscardParameters": lambda client: client.discard(KEY_ID, b"token"),
    "GetKeyImportStatus": lambda client: client.status(KEY_ID),
    "ImportKeyMaterial": lambda client: client.import_key_material(KEY_ID, bytes(32), never_expires=True),
    "DeleteImportedKeyMaterial": lambda client: client.delete_imported_key_material(KEY_ID),
}
CHANGES = ["ImportKeyMaterial", "DeleteImportedKeyMaterial"]
QUESTIONS = [rpc for rpc in CALLS if rpc not in CHANGES]
SOON = timedelta(milliseconds=150)
RESTARTING = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED]


def _now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("rpc", CALLS)
async def test_a_refusal_that_says_when_is_asked_again_then(
    rpc: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """The broker's word that the same request can succeed is good for imports, too, and not before its time."""
    broker.fail(rpc, try_later("KMS_THROTTLED", SOON), try_later("KMS_UNAVAILABLE", SOON))
    started = _now()

    await CALLS[rpc](client)

    assert broker.calls.count(rpc) == 3
    assert _now() - started >= 2 * SOON.total_seconds()


@pytest.mark.parametrize("rpc", CALLS)
async def test_a_delay_longer_than_the_time_left_is_told_at_once(
    rpc: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """Nobody waits for a time at which he will have given up."""
    broker.fail(rpc, try_later("QUOTA_QUEUE_FULL", timedelta(seconds=11)))
    started = _now()

    with pytest.raises(QuotaQueueFull) as raised:
        await CALLS[rpc](client)

    assert raised.value.retry_after == timedelta(seconds=11)
    assert broker.calls.count(rpc) == 1
    assert _now() - started < 5


@pytest.mark.parametrize("seconds", [0, -1, 0.00001])
@pytest.mark.parametrize("rpc", CALLS)
async def test_nothing_is_sent_once_the_time_is_over(
    rpc: str, seconds: float, broker: FakeBroker, address: str
) -> None:
    """A change that was never sent has no unknown outcome."""
    async with KeyImportClient(address, timeout=seconds) as client:
        with pytest.raises(KeyImportError) as raised:
            await CALLS[rpc](client)
        with pytest.raises(KeyImportError) as wrapped:
            await client.import_wrapped(KEY_ID, b"wrapped", b"token", never_expires=True)

    for error in (raised.value, wrapped.value):
        assert (type(error), error.code) == (KeyImportError, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert broker.calls == []


@pytest.mark.parametrize("code", RESTARTING)
@pytest.mark.parametrize("rpc", QUESTIONS)
async def test_a_broker_away_for_a_moment_is_asked_again(
    rpc: str, code: grpc.StatusCode, broker: FakeBroker, client: KeyImportClient
) -> None:
    """A restart of the broker is not seen by whoever changes no key."""
    broker.fail(rpc, Failure(code=code, trailer=None), Failure(code=code, trailer=None))
    started = _now()

    await CALLS[rpc](client)

    assert broker.calls.count(rpc) == 3
    assert _now() - started >= 0.3


@pytest.mark.parametrize("rpc", CALLS)
async def test_a_cancelled_task_ends_its_call_for_good(rpc: str, broker: FakeBroker, client: KeyImportClient) -> None:
    """The caller's own cancellation is no status of the broker's, and nothing is asked after it."""
    broker.stalled = {rpc}
    asking = asyncio.ensure_future(CALLS[rpc](client))
    await _until_asked(broker, rpc)

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert broker.calls.count(rpc) == 1


@pytest.mark.parametrize("code", RESTARTING)
async def test_a_task_cancelled_while_the_broker_restarts_asks_no_more(
    code: grpc.StatusCode, broker: FakeBroker, client: KeyImportClient
) -> None:
    """Whoever waits for a broker that restarts can leave."""
    broker.fail("GetKeyImportStatus", *(Failure(code=code, trailer=None) for _ in range(9)))
    asking = asyncio.ensure_future(client.status(KEY_ID))
    await _until_asked(broker, "GetKeyImportStatus", times=2)

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("code", RESTARTING)
@pytest.mark.parametrize("rpc", CHANGES)
async def test_a_change_that_broke_off_is_never_made_again(
    rpc: str, code: grpc.StatusCode, broker: FakeBroker, client: KeyImportClient
) -> None:
    """Nobody knows whether the first was made."""
    broker.fail(rpc, Failure(code=code, trailer=None))

    with pytest.raises(OutcomeUnknown):
        await CALLS[rpc](client)

    assert broker.calls.count(rpc) == 1


@pytest.mark.parametrize("rpc", CHANGES)
async def test_only_the_brokers_own_word_repeats_a_change(
    rpc: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """RetryInfo from somewhere on the way, without a reason of the broker's, says nothing of the change."""
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1_000_000))
    broker.fail(rpc, Failure(code=grpc.StatusCode.UNAVAILABLE, trailer=details(retry)))

    with pytest.raises(OutcomeUnknown):
        await CALLS[rpc](client)

    assert broker.calls.count(rpc) == 1


async def test_an_unknown_outcome_is_final_whatever_it_says(broker: FakeBroker, client: KeyImportClient) -> None:
    """OUTCOME_UNKNOWN is not tried again even if somebody put a delay to it."""
    broker.fail("ImportKeyMaterial", try_later("OUTCOME_UNKNOWN", SOON, code=grpc.StatusCode.UNKNOWN))

    with pytest.raises(OutcomeUnknown):
        await client.import_key_material(KEY_ID, bytes(32), never_expires=True)

    assert broker.calls.count("ImportKeyMaterial") == 1


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, *RESTARTING)])
async def test_no_other_bare_status_is_asked_again(
    code: grpc.StatusCode, broker: FakeBroker, client: KeyImportClient
) -> None:
    """A question that failed for another cause fails the same way again."""
    broker.fail("GetParametersForImport", Failure(code=code, trailer=None))

    with pytest.raises(KeyImportError):
        await client.get_parameters(KEY_ID)

    assert broker.calls == ["GetParametersForImport"]


async def test_the_last_error_is_raised_when_the_time_is_up(broker: FakeBroker, client: KeyImportClient) -> None:
    """A throttled caller learns that, and not only that his time was up."""
    broker.fail("GetParametersForImport", *(try_later("KMS_THROTTLED", SOON) for _ in range(9)))

    with pytest.raises(KmsThrottled):
        await client.get_parameters(KEY_ID, timeout=1.0)

    assert 2 <= len(broker.calls) <= 7


async def test_each_call_is_told_what_is_left_of_the_time(broker: FakeBroker, client: KeyImportClient) -> None:
    """The waiting between two calls is part of the one timeout."""
    broker.fail("GetParametersForImport", try_later("KMS_THROTTLED", timedelta(milliseconds=400)))

    await client.get_parameters(KEY_ID, timeout=9)

    first, second = broker.timeouts
    assert second < first - 0.35


async def test_a_broker_that_comes_back_is_found(broker: FakeBroker, socket: str) -> None:
    """A client that asked nobody at first gets its answer once the broker listens."""
    async with KeyImportClient(socket, timeout=20) as client:
        asking = asyncio.ensure_future(client.get_parameters(KEY_ID))
        await asyncio.sleep(0.5)
        async with _listening(broker, socket):
            parameters = await asking

    assert parameters.import_token in broker.sets


@pytest.mark.parametrize("code", RESTARTING)
def test_delays_double_up_to_two_seconds(code: grpc.StatusCode) -> None:
    """Each is lengthened by a fifth at most, and never shortened."""
    bare = KeyImportError("away", code=code)
    shortest = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]

    for attempt, least in enumerate(shortest, start=1):
        delays = [delay_before_retry(bare, attempt=attempt, changes_key=False) for _ in range(50)]
        assert all(delay is not None and least <= delay <= 1.2 * least for delay in delays)
        assert len(set(delays)) > 40
    assert delay_before_retry(bare, attempt=10**9, changes_key=False) is not None


def test_no_delay_at_all_is_no_endless_loop() -> None:
    """A broker that says "at once" is still given a moment."""
    error = KmsThrottled("now", reason="KMS_THROTTLED", retry_after=timedelta(0))

    assert (delay_before_retry(error, attempt=1, changes_key=False) or 0) >= 0.1


async def _until_asked(broker: FakeBroker, rpc: str, *, times: int = 1) -> None:
    async with asyncio.timeout(10):
        while broker.calls.count(rpc) < times:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _listening(broker: FakeBroker, socket: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(broker, server)
    server.add_insecure_port(socket)
    await server.start()
    yield
    await server.stop(None)
