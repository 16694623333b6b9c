"""Most of a minute of everything at once: nothing goes on growing, and nobody is told of a fault of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.chart import Curve, svg
from benchmarks.soak import picture, report, soak
from benchmarks.trend import trend
from tests.fleet.harness import times

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = float(times(45, campaign=20 * 60))

# Of the process after the warm-up, and documented in docs/soak.md: a minute says little of an hour, but a connection, a
# thread or a request that is left behind each time adds up to more than this.
MEMORY_MIB = 12.0
DESCRIPTORS = 12.0
THREADS = 2.0
TASKS = 15.0


@pytest.mark.timeout(60 + 2 * SECONDS)
async def test_nothing_grows_without_end(tmp_path: Path) -> None:
    """From the first third of the time to its end: memory, tasks, descriptors and threads stay within their bounds."""
    made = await soak(tmp_path, SECONDS)

    print("\n".join(report(made)))
    settled = made.settled()
    hours = (settled[-1].seconds - settled[0].seconds) / 3600
    grown = {name: line.per_hour * hours for name, line in made.trends().items()}
    reasons = {reason for _, reason in made.outcomes}
    assert grown["rss_mib"] < MEMORY_MIB
    assert grown["descriptors"] < DESCRIPTORS
    assert grown["threads"] < THREADS
    assert grown["tasks"] < TASKS
    assert (made.exit_code, made.errors) == (0, [])
    assert reasons.isdisjoint({"INTERNAL", "KMS_BAD_RESPONSE", "UNKNOWN"})
    assert {reason for kind, reason in made.outcomes if kind == "health"} == {"OK"}
    assert picture(made).startswith("<svg")


def test_a_line_is_found_with_its_error() -> None:
    """Where there is one without noise the error is nothing, and a flat one does not grow."""
    seconds = [float(n) for n in range(200)]

    rising = trend(seconds, [5 + one / 3600 for one in seconds])
    flat = trend(seconds, [7.0] * 200)

    assert (round(rising.per_hour, 6), round(rising.error, 6)) == (1, 0)
    assert (flat.mean, flat.per_hour, flat.error) == (7, 0, 0)


def test_too_few_samples_are_refused() -> None:
    """Two points always lie on a line."""
    with pytest.raises(ValueError, match="too few"):
        trend([0.0, 1.0], [1.0, 2.0])


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [-1.0, 0.0, 1e6]])
def test_a_picture_holds_every_point(values: list[float]) -> None:
    """Inside its frame, whatever the values are, and with its title escaped."""
    drawn = svg("all", [0.0, 1.0, 2.0], [Curve(title="a < b", values=values)])

    points = drawn.partition('points="')[2].partition('"')[0].split()
    heights = [float(point.partition(",")[2]) for point in points]
    assert len(points) == 3
    assert all(30 <= height <= 150 for height in heights)
    assert "a &lt; b" in drawn
