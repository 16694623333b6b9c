"""Sets are fetched before anyone asks: with quota nobody waits for, and never in the place of one in callers' hands."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from keybroker import errors
from keybroker.model import Caller, Sharing, Source, WrappingAlgorithm, WrappingChoice, WrappingKeySpec
from keybroker.prefetch import Prefetch
from tests.clock import settle
from tests.fake_kms import HOME, key_arn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import Bench, BenchMaker

KEY, OTHER = key_arn(1), key_arn(2)
ANY = WrappingChoice()
OTHER_WRAPPING = WrappingChoice(key_spec=WrappingKeySpec.RSA_3072)
ALICE = Caller(name="alice", listener="unix:/x")
ROUND, HOUR, DAY = 45.0, 3600.0, 86400.0


@asynccontextmanager
async def prefetching(bench: Bench, *keys: object) -> AsyncIterator[None]:
    """Prefetches for these keys."""
    prefetch = Prefetch(
        [(str(key), ANY) for key in keys], broker=bench.broker, home=HOME, clock=bench.clock, min_remaining=HOUR
    )
    running = asyncio.ensure_future(prefetch.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_first_caller_finds_a_set(make_bench: BenchMaker) -> None:
    """Of each key, without a wait."""
    bench = make_bench(rate=0.25)
    async with prefetching(bench, KEY, OTHER):
        await bench.clock.advance(60)
        answers = [await bench.get(key) for key in (KEY, OTHER)]

    assert [source for _, source in answers] == [Source.CACHE] * 2
    assert {each.slot.key for each in bench.kms.issued} == {KEY, OTHER}


async def test_a_set_nobody_has_is_renewed(make_bench: BenchMaker) -> None:
    """Before it is too old to be handed out."""
    bench = make_bench()
    async with prefetching(bench, KEY):
        await bench.clock.advance(DAY - HOUR / 2)
        first, second = bench.kms.issued
        answer, source = await bench.get(KEY)

    assert (answer, source) == (second, Source.CACHE)
    assert first != second


async def test_a_set_in_callers_hands_is_left_alone_until_it_expires(make_bench: BenchMaker) -> None:
    """A newer one might end it while they wrap."""
    bench = make_bench()
    async with prefetching(bench, KEY):
        await bench.clock.advance(ROUND)
        await bench.get(KEY)
        await bench.clock.advance(DAY - HOUR / 2)
        while_held = len(bench.kms.issued)
        await bench.clock.advance(HOUR)

    assert while_held == 1
    assert len(bench.kms.issued) == 2


@pytest.mark.parametrize(
    "how", [{"wrapping": OTHER_WRAPPING}, {"sharing": Sharing.EXCLUSIVE}, {"wrapping": OTHER_WRAPPING, "patience": 0.0}]
)
async def test_a_set_that_a_newer_one_would_end_is_left_alone(make_bench: BenchMaker, how: dict[str, Any]) -> None:
    """Whatever it is of the key that a caller holds, or may hold: another wrapping's, or one that none other has."""
    bench = make_bench()
    async with prefetching(bench, KEY):
        await bench.clock.advance(ROUND)
        with suppress(TimeoutError):  # of one who left before he had it
            await bench.get(KEY, **how)
        await bench.clock.advance(DAY - HOUR / 2)
        while_held = len(bench.kms.issued)
        await bench.clock.advance(HOUR)

    assert while_held == 2
    assert len(bench.kms.issued) == 3


async def test_a_set_that_is_used_up_is_replaced(make_bench: BenchMaker) -> None:
    """Nobody can want it any more; nor is it forgotten that a newer one is out."""
    bench = make_bench()
    async with prefetching(bench, KEY):
        await bench.clock.advance(ROUND)
        older, _ = await bench.get(KEY)
        newer, _ = await bench.get(KEY, sharing=Sharing.EXCLUSIVE)
        await bench.broker.discard(ALICE, str(KEY), older.import_token)
        await bench.clock.advance(HOUR)
        with_newer_out = len(bench.kms.issued)
        await bench.broker.discard(ALICE, str(KEY), newer.import_token)
        await bench.clock.advance(HOUR)

    assert with_newer_out == 2
    assert len(bench.kms.issued) == 3


async def test_a_set_on_its_way_to_a_caller_is_left_alone(make_bench: BenchMaker) -> None:
    """What is prefetched after it would end it just as it arrives."""
    bench = make_bench()
    bench.kms.gate.clear()
    asking = asyncio.ensure_future(bench.get(KEY, sharing=Sharing.EXCLUSIVE, patience=300.0))
    async with prefetching(bench, KEY):
        await bench.clock.advance(120)
        bench.kms.gate.set()
        mine, _ = await asking
        await bench.clock.advance(120)

    assert bench.kms.issued == [mine]


async def test_callers_in_the_line_go_first(make_bench: BenchMaker) -> None:
    """Nothing is prefetched while anyone waits."""
    bench = make_bench(rate=0.25)
    waiting = [asyncio.ensure_future(bench.get(key_arn(10 + n))) for n in range(5)]
    await settle()
    async with prefetching(bench, KEY):
        await bench.clock.advance(30)

    await asyncio.gather(*waiting)
    assert [each.slot.key for each in bench.kms.issued] == [*(key_arn(10 + n) for n in range(5)), KEY]


async def test_a_token_has_lain_unused_before_one_is_prefetched_with_it(make_bench: BenchMaker) -> None:
    """For as long as the next takes to come: whoever asks right after a prefetch waits for one interval at most."""
    bench = make_bench(rate=0.25)
    keys = [key_arn(100 + n) for n in range(50)]
    waits = []
    async with prefetching(bench, *keys):
        await bench.clock.advance(ROUND)
        begun, before = bench.clock.monotonic(), len(bench.kms.issued)
        await bench.clock.advance(80)
        spent, lasted = len(bench.kms.issued) - before, bench.clock.monotonic() - begun
        for number in range(20):
            await bench.clock.advance(3.7)
            waits.append(bench.quota.expected_wait("alice"))
            await asyncio.gather(bench.get(key_arn(500 + number)), bench.clock.advance(4))

    assert 8 <= spent <= 10  # of the 20 tokens of 80 s
    assert lasted == 80
    assert max(waits) <= 4


async def test_the_first_round_begins_after_a_random_part_of_a_pause(make_bench: BenchMaker) -> None:
    """Brokers that are all started at once do not all ask at once."""
    begun = set()
    for _ in range(5):
        bench = make_bench()
        start = bench.clock.monotonic()
        async with prefetching(bench, KEY):
            while not bench.kms.issued:
                await bench.clock.advance(1)
        begun.add(bench.clock.monotonic() - start)

    assert len(begun) > 1
    assert max(begun) <= 31


async def test_a_key_that_cannot_be_had_does_not_keep_the_others_from_theirs(make_bench: BenchMaker) -> None:
    """It is logged, and tried again in the next round."""
    bench = make_bench()
    bench.kms.fail("describe_key", errors.KeyNotFound())
    async with prefetching(bench, KEY, OTHER):
        await bench.clock.advance(120)

    assert {each.slot.key for each in bench.kms.issued} == {KEY, OTHER}


@pytest.mark.parametrize(
    ("key_id", "choice", "error"),
    [
        ("alias/root", ANY, errors.AliasNotAllowed),
        ("arn:aws:kms:us-east-1:999988887777:key/1234abcd-12ab-34cd-56ef-1234567890ab", ANY, errors.ForeignAccount),
        (str(KEY), WrappingChoice(algorithm=WrappingAlgorithm.SM2PKE), errors.WrappingAlgorithmNotAllowed),
    ],
)
def test_what_could_never_be_had_is_refused_at_start(
    make_bench: BenchMaker, key_id: str, choice: WrappingChoice, error: type[errors.BrokerError]
) -> None:
    """By its reason."""
    bench = make_bench()

    with pytest.raises(error):
        Prefetch([(key_id, choice)], broker=bench.broker, home=HOME, clock=bench.clock, min_remaining=HOUR)


async def test_nothing_is_kept_of_keys_that_are_not_prefetched(make_bench: BenchMaker) -> None:
    """Callers ask for as many keys as they like; only of those that are prefetched does anyone ask who holds a set."""
    bench = make_bench()
    parameters = bench.broker.regions[KEY.region].parameters
    async with prefetching(bench, KEY):
        for number in range(100, 120):
            await bench.get(key_arn(number))
        await bench.get(KEY)

        assert list(parameters._in_hands._held) == [KEY]
