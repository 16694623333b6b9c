"""KMS that does not answer is left alone for a while, and tried by one request at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keybroker import errors
from keybroker.guarded_kms import AWAY, FAILURES, GuardedKms
from keybroker.metrics import Metrics
from keybroker.tracing import Untraced
from tests.clock import FakeClock, settle
from tests.fake_kms import FakeKms, key_arn

if TYPE_CHECKING:
    from keybroker.model import KeyArn

KEY = key_arn()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A guarded KMS, and what is behind it."""

    clock: FakeClock
    kms: FakeKms
    metrics: Metrics
    guarded: GuardedKms

    def count(self, outcome: str) -> float:
        """Requests to KMS that ended so."""
        labels = {"operation": "DescribeKey", "outcome": outcome}
        return self.metrics.registry.get_sample_value("keybroker_kms_requests_total", labels) or 0

    def away(self) -> float | None:
        """The gauge."""
        return self.metrics.registry.get_sample_value("keybroker_kms_away", {"region": "us-east-1"})

    async def fails(
        self, error: type[errors.BrokerError] = errors.KmsUnavailable, key: KeyArn = KEY
    ) -> errors.BrokerError:
        """A request that ends in an error; the error."""
        with pytest.raises(error) as raised:
            await self.guarded.describe_key(key)
        return raised.value

    async def is_answered_with_trouble(self, key: KeyArn) -> None:
        """A request that KMS answers with an internal error."""
        self.kms.fail("describe_key", errors.KmsUnavailable(retry_after=1.0, answered=True))
        await self.fails(key=key)


@pytest.fixture
def bench(clock: FakeClock) -> Bench:
    """One whose KMS answers."""
    kms, metrics = FakeKms(clock), Metrics()
    guarded = GuardedKms(kms, region="us-east-1", clock=clock, metrics=metrics, tracer=Untraced())
    return Bench(clock=clock, kms=kms, metrics=metrics, guarded=guarded)


async def _down(bench: Bench, times: int = FAILURES) -> None:
    bench.kms.fail("describe_key", *[errors.KmsUnavailable(retry_after=1.0) for _ in range(times)])
    for _ in range(times):
        await bench.fails()


async def test_after_some_failures_nothing_is_asked(bench: Bench) -> None:
    """Callers are told at once, and when to come back."""
    await _down(bench)
    asked = len(bench.kms.described)

    refusal = await bench.fails()

    assert isinstance(refusal, errors.KmsUnavailable)
    assert (len(bench.kms.described), refusal.retry_after) == (asked, AWAY)
    assert not refusal.unanswered
    assert (bench.count("KMS_UNAVAILABLE"), bench.away()) == (FAILURES, 1)


async def test_an_answer_in_between_is_enough(bench: Bench) -> None:
    """Failures count only in a row; a refusal is an answer."""
    await _down(bench, FAILURES - 1)
    bench.kms.fail("describe_key", errors.KeyNotFound())
    await bench.fails(errors.KeyNotFound)
    await _down(bench, FAILURES - 1)

    description = await bench.guarded.describe_key(KEY)

    assert (description.key, bench.away()) == (KEY, 0)


async def test_kms_that_is_back_is_asked_by_all(bench: Bench) -> None:
    """The first answer ends it."""
    await _down(bench)
    await bench.clock.advance(AWAY)

    first, second = await bench.guarded.describe_key(KEY), await bench.guarded.describe_key(KEY)

    assert (first.key, second.key, bench.away()) == (KEY, KEY, 0)


async def test_others_wait_for_the_one_that_tries(bench: Bench) -> None:
    """A second request beside it is refused without asking."""
    await _down(bench)
    await bench.clock.advance(AWAY)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(_: object) -> object:
        await answer
        raise errors.KmsUnavailable(retry_after=1.0)

    trying = asyncio.ensure_future(bench.guarded._ask("DescribeKey", KEY, lambda: slow(None)))
    await settle()
    beside = await bench.fails()
    answer.set_result(None)
    with pytest.raises(errors.KmsUnavailable):
        await trying
    after = await bench.fails()

    assert isinstance(beside, errors.KmsUnavailable)
    assert isinstance(after, errors.KmsUnavailable)
    assert (beside.retry_after, after.retry_after) == (1.0, AWAY)


async def test_an_import_without_answer_counts_and_a_bad_answer_does_not(bench: Bench) -> None:
    """KMS that answers nonsense is there; one that does not is not."""
    for cause in (errors.KmsBadResponse(), errors.KmsUnavailable(retry_after=1.0)):
        for _ in range(FAILURES):
            unknown = errors.OutcomeUnknown()
            unknown.__cause__ = cause
            bench.kms.fail("delete_imported_key_material", unknown)
            with pytest.raises(errors.OutcomeUnknown):
                await bench.guarded.delete_imported_key_material(KEY, None)
        if isinstance(cause, errors.KmsBadResponse):
            assert bench.away() == 0

    assert bench.away() == 1


async def test_one_that_is_cancelled_while_it_tries_lets_another_try(bench: Bench) -> None:
    """Nobody is kept out by a caller who has left."""
    await _down(bench)
    await bench.clock.advance(AWAY)
    trying = asyncio.ensure_future(bench.guarded._ask("DescribeKey", KEY, asyncio.Event().wait))
    await settle()
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)

    assert (await bench.guarded.describe_key(KEY)).key == KEY
    assert bench.count("cancelled") == 1


async def test_a_key_that_kms_has_trouble_with_counts_once(bench: Bench) -> None:
    """However often it is asked for, the others are served; as many keys as make a failure are an outage."""
    for _ in range(5 * FAILURES):
        await bench.is_answered_with_trouble(KEY)
    assert (await bench.guarded.describe_key(key_arn(2))).key == key_arn(2)

    for number in range(FAILURES):
        await bench.is_answered_with_trouble(key_arn(number))

    assert bench.away() == 1
    assert isinstance(await bench.fails(), errors.KmsUnavailable)


async def test_silence_counts_whatever_the_key(bench: Bench) -> None:
    """Nobody has seen the key who did not answer; beside one key's trouble it is the rest of what it takes."""
    await bench.is_answered_with_trouble(KEY)
    await _down(bench, FAILURES - 1)

    assert bench.away() == 1


async def test_an_operation_that_fails_leaves_the_others(bench: Bench) -> None:
    """The gauge is 1 as long as any is left alone."""
    await _down(bench)

    change = await bench.guarded.delete_imported_key_material(KEY, None)

    assert (change.key, bench.away()) == (KEY, 1)
    assert isinstance(await bench.fails(), errors.KmsUnavailable)


async def test_a_failure_begun_before_does_not_put_off_the_next_try(bench: Bench) -> None:
    """What was sent before KMS was left alone says nothing of KMS now; an answer does."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    late = [asyncio.ensure_future(bench.guarded._ask("DescribeKey", KEY, lambda: asyncio.shield(answer)))]
    await settle()
    await _down(bench)
    await bench.clock.advance(AWAY - 1)
    answer.set_exception(errors.KmsUnavailable(retry_after=1.0, unanswered=True))
    await asyncio.gather(*late, return_exceptions=True)
    await bench.clock.advance(1)

    assert (await bench.guarded.describe_key(KEY)).key == KEY
