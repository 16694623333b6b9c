"""The figures of a benchmark: as markdown tables and as a picture."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.bench_chart import svg
from benchmarks.bench_load import Ratio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.bench_crowd import Crowd
    from benchmarks.bench_load import Sample
    from benchmarks.bench_servers import Start

BARE_UNIX, UNIX = "bare, Unix socket", "broker, Unix socket"
BARE_TLS, TLS = "bare, mTLS", "broker, mTLS"
REFUSAL, STORE = "broker, refusal", "broker, with a store"

_COMPARISONS = {
    "broker / bare, Unix socket": (UNIX, BARE_UNIX),
    "broker / bare, mTLS": (TLS, BARE_TLS),
    "refusal / cached read": (REFUSAL, UNIX),
    "with a store / without": (STORE, UNIX),
}
_METRICS = {"calls/s": "per_second", "p50": "p50", "p99": "p99", "server's CPU per call": "cpu"}


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured, each list with one entry for each round.

    Attributes:
        reads: by what was called and how many calls were in flight.
        crowds: many callers of one key.
        brokers: how brokers came up.
        bare: how bare servers did, in turns with them.
        others: the share of the machine's CPU time that was taken by what is no part of this, from 0 to 1.
    """

    reads: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    crowds: list[Crowd] = field(default_factory=list)
    brokers: list[Start] = field(default_factory=list)
    bare: list[Start] = field(default_factory=list)
    others: float = 0.0

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(one.calls for one in self._all())

    @property
    def errors(self) -> int:
        """How many of them did not end as they should."""
        return sum(one.errors for one in self._all())

    def _all(self) -> list[Sample | Crowd]:
        return [*chain.from_iterable(self.reads.values()), *self.crowds]

    def ratios(self, metric: str) -> dict[tuple[str, int], Ratio]:
        """By what is compared and how many calls were in flight; `metric` is an attribute of samples."""
        return {
            (title, in_flight): Ratio.of(_each(samples, metric), _each(self.reads[other, in_flight], metric))
            for title, (one, other) in _COMPARISONS.items()
            for (name, in_flight), samples in self.reads.items()
            if name == one
        }

    def starts(self) -> dict[str, tuple[float, float, Ratio]]:
        """What is compared at a start: the broker's median, the bare server's, and the ratio."""
        rows = {}
        for title, name in (("start to SERVING, s", "seconds"), ("memory (RSS) at rest, MiB", "mib")):
            one, other = _each(self.brokers, name), _each(self.bare, name)
            rows[title] = median(one), median(other), Ratio.of(one, other)
        return rows

    def crowd_ratios(self) -> dict[str, Ratio]:
        """How long a crowd of a cold key takes, relative to less."""
        cold = _each(self.crowds, "cold")
        return {
            "crowd of a cold key / one caller of one": Ratio.of(cold, _each(self.crowds, "alone")),
            "crowd of a cold key / crowd of a cached key": Ratio.of(cold, _each(self.crowds, "cached")),
        }


def report(made: Figures) -> Iterable[str]:
    """All tables."""
    rounds = len(made.crowds)
    yield f"{made.calls:,} calls, {made.errors} errors. Rounds: {rounds}; medians, in brackets the least and the most."
    for table in (_circumstances(made), _reads(made), _ratios(made), _crowds(made), _starts(made)):
        yield ""
        yield from table


def picture(made: Figures) -> str:
    """All ratios, as SVG."""
    panels = {
        title: [(f"{what}, {in_flight} in flight", ratio) for (what, in_flight), ratio in made.ratios(metric).items()]
        for title, metric in (
            ("Calls per second (more is better)", "per_second"),
            ("Server's CPU time per call (less is better)", "cpu"),
        )
    }
    starts = [(f"{title.partition(',')[0]}: broker / bare", ratio) for title, (_, _, ratio) in made.starts().items()]
    panels["Time and memory (less is better)"] = [*made.crowd_ratios().items(), *starts]
    return svg("What keybroker costs, relative to what it is compared with", panels)


def _circumstances(made: Figures) -> Iterable[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("grpcio", "cryptography", "aiobotocore")
    yield from _head("CPUs", "memory", "taken by others", "python", *packages, "commit")
    yield _row(
        *(os.cpu_count(), f"{memory:.1f} GiB", f"{100 * made.others:.0f}% of the CPUs", platform.python_version()),
        *map(version, packages),
        _commit(),
    )


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        changes = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "--short", "HEAD") + (" and changes" if changes else "")
    return "unknown"


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    here = Path(__file__).parent
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=here).stdout.strip()  # noqa: S603 -- ours


def _reads(made: Figures) -> Iterable[str]:
    yield from _head(
        "cached reads and refusals",
        "in flight",
        "calls/s",
        "p50, ms",
        "p99, ms",
        "server, % of a CPU",
        "callers, % of a CPU",
        "errors",
    )
    for (name, in_flight), samples in made.reads.items():
        yield _row(
            *(name, in_flight, f"{median(_each(samples, 'per_second')):,.0f}"),
            *(f"{1000 * median(_each(samples, metric)):.2f}" for metric in ("p50", "p99")),
            *(f"{100 * median(_each(samples, metric)):.0f}" for metric in ("server", "generator")),
            sum(sample.errors for sample in samples),
        )


def _ratios(made: Figures) -> Iterable[str]:
    yield from _head("ratio", "in flight", *_METRICS)
    metrics = [made.ratios(metric) for metric in _METRICS.values()]
    for title, in_flight in metrics[0]:
        yield _row(title, in_flight, *(ratios[title, in_flight] for ratios in metrics))


def _crowds(made: Figures) -> Iterable[str]:
    yield from _head("a crowd", "KMS calls", "waited for KMS", "errors", "all served, s", *made.crowd_ratios())
    yield _row(
        f"{made.crowds[0].callers:,} callers",
        ", ".join(str(one.kms_calls) for one in made.crowds),
        ", ".join(f"{one.joined:,}" for one in made.crowds),
        sum(one.errors for one in made.crowds),
        f"{median(one.cold for one in made.crowds):.2f}",
        *made.crowd_ratios().values(),
    )


def _starts(made: Figures) -> Iterable[str]:
    yield from _head("a start", "broker", "bare", "ratio")
    for title, (one, other, ratio) in made.starts().items():
        yield _row(title, f"{one:.2f}", f"{other:.2f}", ratio)


def _each(measured: Iterable[object], name: str) -> list[float]:
    return [getattr(one, name) for one in measured]


def _head(*titles: str) -> Iterable[str]:
    yield _row(*titles)
    yield _row(*("---" for _ in titles)).replace(" ", "")


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
