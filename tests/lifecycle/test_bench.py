"""The benchmark in short: all tables are there, all calls end as they should, and a crowd costs one KMS call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.bench import bench
from benchmarks.bench_chart import svg
from benchmarks.bench_load import Ratio
from benchmarks.bench_report import picture, report

if TYPE_CHECKING:
    from pathlib import Path

TITLES = ("CPUs", "cached reads and refusals", "ratio", "a crowd", "a start")
KINDS = (
    *("bare, Unix socket", "broker, Unix socket", "broker, refusal", "broker, with a store"),
    *("bare, mTLS", "broker, mTLS"),
)


@pytest.mark.timeout(120)
async def test_every_figure_is_printed_and_drawn(tmp_path: Path) -> None:
    """Without an error, and with one KMS call for 200 callers of a key; how long it takes is not judged."""
    made = await bench(tmp_path, seconds=0.05, rounds=1, callers=200)

    printed, drawn = list(report(made)), picture(made)
    print("\n".join(printed))
    assert [sum(line.startswith(f"| {title} |") for line in printed) for title in TITLES] == [1] * len(TITLES)
    assert sorted(made.reads) == sorted((kind, in_flight) for kind in KINDS for in_flight in (1, 8, 64))
    assert all(sample.calls for samples in made.reads.values() for sample in samples)
    assert made.errors == 0
    assert [one.kms_calls for one in made.crowds] == [1]
    assert drawn.startswith("<svg")
    assert drawn.count("<circle") == len([*made.ratios("cpu")]) * 2 + 4


def test_a_ratio_is_of_each_round_by_itself() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    same = Ratio.of([2.0, 4.0, 2.0], to=[1.0, 2.0, 1.0])
    spread = Ratio.of([1.0, 2.0, 6.0], to=[2.0, 2.0, 2.0])

    assert (same.least, same.median, same.most) == (2, 2, 2)
    assert (spread.least, spread.median, spread.most) == (0.5, 1, 3)


def test_a_picture_holds_every_ratio() -> None:
    """On its scale, however far apart they are, and with names escaped."""
    ratios = [Ratio.of([value], to=[1.0]) for value in (0.001, 1.0, 700.0)]

    drawn = svg("all", {"panel": [("a < b", ratio) for ratio in ratios]})

    places = [float(part.partition('"')[0]) for part in drawn.split(' cx="')[1:]]
    assert len(places) == 3
    assert 300 <= places[0] < places[1] < places[2] <= 710
    assert "a &lt; b" in drawn
