"""A broker's long life in short: mixed traffic, faults and reloads on a real process, and what of it grows.

    python -m benchmarks.soak --minutes 20 --out docs/soak.svg --csv soak.csv

Once a second it is noted what the process holds. A straight line goes through what comes after the first minutes, in
which caches fill: its slope is how much the process grows in an hour. Traffic and KMS are in this process, not in the
broker's.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import re
import socket
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ClientSession

from benchmarks.chart import Curve, svg
from benchmarks.soak_traffic import Traffic
from benchmarks.trend import HOUR, trend
from demo.broker_process import broker_process
from tests.certificates import Authority, TlsFiles
from tests.kms_double import kms_double
from tests.kms_wrapping import next_wrapping_key

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence

    from benchmarks.trend import Trend

WARM_UP = 0.3
"""The share of the time that no line goes through: caches fill, and the interpreter takes what memory it needs."""

LAST = 0.75
"""The share of the time after which a second line begins: what has settled by then is level."""

_SETTINGS = """
[[listeners]]
address = "unix:{directory}/broker.sock"
caller = "local"

[[listeners]]
address = "tcp:127.0.0.1:{port}"
tls = {{ certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }}

[kms]
endpoint = "{endpoint}"
regions = ["us-east-1"]
requests_per_second = 50

[parameters]
max_entries = 300

[limits]
lookups_per_second = 200

[audit]
file = "{directory}/audit.log"

[ops]
address = "127.0.0.1:{ops_port}"

[[callers]]
id = "local"
keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]
operations = ["GetParametersForImport", "ImportKeyMaterial", "GetKeyImportStatus"]

[[callers]]
id = "spiffe://corp.example/ns/{namespace}/sa/*"
keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]
operations = ["GetParametersForImport"]
"""
_METRIC = re.compile(r"(?m)^(\w+)(?:\{[^}]*\})? (\S+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The broker at one moment; `calls`, `lag_sum` and `lag_count` count from its start."""

    seconds: float
    rss_mib: float
    descriptors: int
    threads: int
    tasks: float
    cached_sets: float
    calls: float
    lag_sum: float
    lag_count: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What came of it.

    Attributes:
        samples: one for each second.
        outcomes: how often each kind of request had which outcome.
        reloads: how many signals were sent.
        exit_code: of the broker.
        errors: the lines of its log that speak of a fault of its own.
    """

    samples: list[Sample]
    outcomes: Counter[tuple[str, str]]
    reloads: int
    exit_code: int | None
    errors: list[str]

    def settled(self, after: float = WARM_UP) -> list[Sample]:
        """The samples after this share of the time."""
        until = after * self.samples[-1].seconds
        return [sample for sample in self.samples if sample.seconds >= until]

    def trends(self, after: float = WARM_UP) -> dict[str, Trend]:
        """How each thing that could leak has grown since."""
        settled = self.settled(after)
        seconds = [sample.seconds for sample in settled]
        return {
            name: trend(seconds, [getattr(sample, name) for sample in settled])
            for name in ("rss_mib", "tasks", "descriptors", "threads", "cached_sets")
        }


async def soak(directory: Path, seconds: float) -> Soak:
    """Runs a broker in this directory, which has a short path, for so long."""
    server_ca, client_ca = Authority("server CA"), Authority("client CA")
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(kms_double())
        await next_wrapping_key(2048)
        port, ops_port = _free_ports()
        TlsFiles.write(directory, server_ca.server(), client_ca)
        given = {"directory": directory, "endpoint": double.endpoint, "port": port, "ops_port": ops_port}
        for name, namespace in (("even", "*"), ("odd", "a"), ("keybroker", "*")):
            (directory / f"{name}.toml").write_text(_SETTINGS.format(**given, namespace=namespace))
        (directory / "bad.toml").write_text("[[listeners")
        log, target = directory / "broker.log", f"unix:{directory}/broker.sock"
        session = await stack.enter_async_context(ClientSession())
        async with broker_process(directory / "keybroker.toml", target, log=log) as process:
            traffic = Traffic(
                double=double,
                process=process,
                directory=directory,
                target=target,
                port=port,
                server_ca=server_ca,
                client_ca=client_ca,
            )
            running = asyncio.create_task(traffic.run())
            sampling = asyncio.create_task(_sample(process.pid, ops_port, session, seconds))
            try:
                await asyncio.wait({running, sampling}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                samples = await sampling
            finally:
                for task in (running, sampling):
                    task.cancel()
                await asyncio.gather(running, sampling, return_exceptions=True)
        text = log.read_text(errors="replace").splitlines()
    return Soak(
        samples=samples,
        outcomes=traffic.outcomes,
        reloads=traffic.reloads,
        exit_code=process.returncode,
        errors=[line for line in text if "unhandled exception" in line or "Traceback" in line],
    )


async def _sample(pid: int, ops_port: int, session: ClientSession, seconds: float) -> list[Sample]:
    began, samples = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds:
        async with session.get(f"http://127.0.0.1:{ops_port}/metrics") as answer:
            samples.append(_read(pid, now, await answer.text()))
        await asyncio.sleep(max(0.0, began + len(samples) - time.monotonic()))
    return samples


def _read(pid: int, now: float, metrics: str) -> Sample:
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    numbers: dict[str, float] = {}
    for name, value in _METRIC.findall(metrics):
        numbers[name] = numbers.get(name, 0.0) + float(value)
    return Sample(
        seconds=now,
        rss_mib=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=len(list((proc / "fd").iterdir())),
        threads=int(status["Threads"]),
        tasks=numbers["keybroker_tasks"],
        cached_sets=numbers["keybroker_cached_sets"],
        calls=numbers.get("grpc_server_handled_total", 0.0),
        lag_sum=numbers["keybroker_event_loop_lag_seconds_sum"],
        lag_count=numbers["keybroker_event_loop_lag_seconds_count"],
    )


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def report(made: Soak) -> Iterable[str]:
    """The figures as markdown."""
    last, settled = made.samples[-1], made.settled()
    minutes = f"{last.seconds / 60:.0f} minutes"
    yield f"{minutes}, {last.calls:,.0f} calls, {made.reloads} reloads, exit code {made.exit_code}."
    yield ""
    since, quarter = settled[0].seconds / 60, (last.seconds - made.settled(LAST)[0].seconds) / 60
    yield f"| after minute {since:.0f} | mean | least | most | growth in an hour | in the last {quarter:.0f} minutes |"
    yield "|---|---|---|---|---|---|"
    names = {
        "rss_mib": "memory (RSS), MiB",
        "tasks": "asyncio tasks",
        "descriptors": "file descriptors",
        "threads": "threads",
        "cached_sets": "sets in the cache",
    }
    levels = made.trends(LAST)
    for name, line in made.trends().items():
        values = [getattr(sample, name) for sample in settled]
        yield (
            f"| {names[name]} | {line.mean:.1f} | {min(values):.0f} | {max(values):.0f} |"
            f" {line.per_hour:+.2f} ± {line.error:.2f} | {levels[name].per_hour:+.2f} ± {levels[name].error:.2f} |"
        )
    lags = _lags(settled)
    yield f"| event loop's lag, ms | {sum(lags) / len(lags):.2f} | {min(lags):.2f} | {max(lags):.2f} | | |"
    yield ""
    yield "| request | outcomes |"
    yield "|---|---|"
    kinds = sorted({kind for kind, _ in made.outcomes})
    for kind in kinds:
        outcomes = [f"{reason} {count:,}" for (one, reason), count in made.outcomes.most_common() if one == kind]
        yield f"| {kind} | {', '.join(outcomes)} |"


def picture(made: Soak) -> str:
    """The curves as SVG, each with its line."""
    samples, settled, lines = made.samples, made.settled(), made.trends()
    first, last = settled[0].seconds, settled[-1].seconds

    def curve(title: str, name: str) -> Curve:
        line = lines[name]
        half = line.per_hour * (last - first) / HOUR / 2
        ends = ((first / 60, line.mean - half), (last / 60, line.mean + half))
        return Curve(title=title, values=[getattr(sample, name) for sample in samples], line=ends)

    calls = [(b.calls - a.calls) / (b.seconds - a.seconds) for a, b in pairwise(samples)]
    return svg(
        "A soak of keybroker: memory, tasks, descriptors, threads, cached sets, calls and lag over time",
        [sample.seconds / 60 for sample in samples],
        [
            curve("Memory (RSS), MiB", "rss_mib"),
            curve("Tasks of the event loop", "tasks"),
            curve("File descriptors", "descriptors"),
            curve("Threads", "threads"),
            curve("Sets in the cache (300 at most)", "cached_sets"),
            Curve(title="Calls per second", values=[calls[0], *calls]),
            Curve(title="Lag of the event loop, mean of each second, ms", values=_lags(samples)),
        ],
    )


def _lags(samples: Sequence[Sample]) -> list[float]:
    """Milliseconds, for each second; the last one's where none was measured in it."""
    lags = [0.0]
    for before, after in pairwise(samples):
        measured = after.lag_count - before.lag_count
        lags.append(1000 * (after.lag_sum - before.lag_sum) / measured if measured else lags[-1])
    return lags


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    """The samples, for whoever wants to look closer."""
    with path.open("w", newline="", encoding="ascii") as file:
        rows = csv.writer(file)
        rows.writerow(field.name for field in fields(Sample))
        rows.writerows([round(value, 3) for value in astuple(sample)] for sample in samples)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (%(default)g)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the picture goes, as SVG")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="where the samples go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        made = asyncio.run(soak(Path(directory), arguments.minutes * 60))
    if arguments.out:
        arguments.out.write_text(picture(made))
    if arguments.csv:
        write_csv(arguments.csv, made.samples)
    for line in report(made):
        print(line)
    for line in made.errors[:10]:
        print(line)


if __name__ == "__main__":
    main()
