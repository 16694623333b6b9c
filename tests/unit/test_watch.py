"""Imported material that expires is seen coming."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from keybroker import errors
from keybroker.metrics import Metrics
from keybroker.model import KeyFacts
from keybroker.watch import AGAIN, INTERVAL, Watch
from tests.clock import settle
from tests.fake_kms import HOME, key_arn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import Bench, BenchMaker

KEY = key_arn()
DAY = 86400.0


@asynccontextmanager
async def watching(bench: Bench) -> AsyncIterator[Metrics]:
    """Watches one key by the name of root."""
    metrics = Metrics()
    watch = Watch(
        {"root": str(KEY)}, warn_before=30 * DAY, broker=bench.broker, home=HOME, clock=bench.clock, metrics=metrics
    )
    running = asyncio.ensure_future(watch.run())
    try:
        await settle()
        yield metrics
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _left(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("keybroker_watched_material_seconds", {"name": "root"})


@pytest.mark.parametrize(
    ("state", "valid_for", "seconds", "told"),
    [
        ("Enabled", 90 * DAY, 90 * DAY, ""),
        ("Enabled", 10 * DAY, 10 * DAY, "a watched key's material expires"),
        ("Disabled", 10 * DAY, 10 * DAY, "a watched key's material expires"),
        ("Enabled", -60.0, 0.0, "a watched key holds no key material"),
        ("Enabled", None, math.inf, ""),
        ("PendingImport", None, 0.0, "a watched key holds no key material"),
        ("PendingDeletion", 90 * DAY, 0.0, "a watched key is in an unexpected state"),
        ("Unavailable", 90 * DAY, 90 * DAY, "a watched key is in an unexpected state"),
    ],
)
async def test_each_state_has_its_gauge_and_its_line(  # noqa: PLR0917 -- fixtures, and a row of the table
    make_bench: BenchMaker,
    caplog: pytest.LogCaptureFixture,
    state: str,
    valid_for: float | None,
    seconds: float,
    told: str,
) -> None:
    """No line for a key that is well."""
    bench = make_bench()
    bench.kms.states[KEY] = state
    if valid_for is not None:
        bench.kms.material_valid_to[KEY] = bench.clock.now() + timedelta(seconds=valid_for)

    async with watching(bench) as metrics:
        left = _left(metrics)

    assert left == seconds
    assert [record.getMessage() for record in caplog.records] == ([told] if told else [])


async def test_it_looks_again_every_hour_or_so(make_bench: BenchMaker) -> None:
    """One DescribeKey each time."""
    bench = make_bench()
    async with watching(bench):
        await bench.clock.advance(INTERVAL)
        looks = len(bench.kms.described)

    assert looks == 2


async def test_a_key_whose_material_was_not_imported_is_told(
    make_bench: BenchMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody meant another key."""
    bench = make_bench()
    bench.kms.states[KEY] = "Enabled"
    bench.kms.facts[KEY] = KeyFacts(external=False, key_spec="SYMMETRIC_DEFAULT")

    async with watching(bench) as metrics:
        left = _left(metrics)

    assert left == math.inf
    told = [record.getMessage() for record in caplog.records]
    assert told == ["a watched key's material was not imported, and does not expire"]


async def test_time_goes_on_while_looks_fail(make_bench: BenchMaker) -> None:
    """The gauge is of the moment it is read."""
    bench = make_bench()
    bench.kms.states[KEY] = "Enabled"
    bench.kms.material_valid_to[KEY] = bench.clock.now() + timedelta(seconds=10 * DAY)
    async with watching(bench) as metrics:
        bench.kms.fail("describe_key", *(errors.KmsDeniedBroker() for _ in range(10_000)))
        await bench.clock.advance(4 * DAY)
        left = _left(metrics)

    assert left == pytest.approx(6 * DAY, abs=1)


async def test_what_nobody_foresaw_ends_no_watch(make_bench: BenchMaker) -> None:
    """It is logged, and looked at again."""
    bench = make_bench()
    bench.kms.fail("describe_key", RuntimeError())
    async with watching(bench) as metrics:
        before = _left(metrics)
        await bench.clock.advance(AGAIN)

        assert (before, _left(metrics)) == (None, 0)


async def test_a_look_that_fails_is_counted_and_made_again_soon(make_bench: BenchMaker) -> None:
    """The gauge goes on from what was seen last."""
    bench = make_bench()
    bench.kms.states[KEY] = "Enabled"
    async with watching(bench) as metrics:
        bench.kms.fail("describe_key", errors.KmsUnavailable(retry_after=1.0))
        await bench.clock.advance(INTERVAL)
        failures = metrics.registry.get_sample_value("keybroker_watch_failures_total", {"name": "root"})
        while_failing = _left(metrics)
        await bench.clock.advance(AGAIN)
        looks = len(bench.kms.described)

    assert (failures, while_failing, looks) == (1, math.inf, 3)
