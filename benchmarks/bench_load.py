"""Calls made over and over by so many callers: how many a second, how long each took, and whose CPU time it was."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

GET = "/keyimport.v1.KeyImportService/GetParametersForImport"
PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        pid: the server's process.
        call: calls it once, and says whether that ended as it should.
    """

    pid: int
    call: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What came of some seconds of calls.

    Attributes:
        calls: how many were made.
        errors: how many of them did not end as they should.
        per_second: how many ended in a second.
        p50: the median of their latencies, in seconds.
        p99: the 99th percentile.
        server: the server's CPU time in each second.
        generator: that of this process.
    """

    calls: int
    errors: int
    per_second: float
    p50: float
    p99: float
    server: float
    generator: float

    @property
    def cpu(self) -> float:
        """The server's CPU time for each call, in seconds."""
        return self.server / self.per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One thing measured relative to another, side by side, once in each round."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float], to: Sequence[float]) -> Ratio:
        """Of what the rounds brought, each with its own round's."""
        ratios = [value / other for value, other in zip(values, to, strict=True)]
        return cls(median=median(ratios), least=min(ratios), most=max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


def caller(
    channel: grpc.aio.Channel, request: bytes, expected: bytes | grpc.StatusCode
) -> Callable[[], Awaitable[bool]]:
    """Makes one call with this request, and says whether it ended with this answer or this code.

    Messages stay bytes: what the callers save is left to the servers.
    """
    get: Any = channel.unary_unary(GET)

    async def call() -> bool:
        try:
            outcome: bytes | grpc.StatusCode = await get(request, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            outcome = error.code()
        return outcome == expected

    return call


async def measure(subject: Subject, *, in_flight: int, seconds: float) -> Sample:
    """Has so many callers call, each again as soon as it has its answer, for so long."""
    latencies: list[float] = []
    good = 0
    began, server, generator = time.perf_counter(), cpu_seconds(subject.pid), time.process_time()

    async def go_on() -> None:
        nonlocal good
        while (asked := time.perf_counter()) < began + seconds:
            if await subject.call():
                good += 1
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(go_on() for _ in range(in_flight)))
    passed = time.perf_counter() - began
    server, generator = cpu_seconds(subject.pid) - server, time.process_time() - generator
    latencies.sort()
    return Sample(
        calls=len(latencies),
        errors=len(latencies) - good,
        per_second=len(latencies) / passed,
        p50=median(latencies),
        p99=latencies[len(latencies) * 99 // 100],
        server=server / passed,
        generator=generator / passed,
    )


class Neighbours:
    """What other processes take of the machine, from now on."""

    def __init__(self) -> None:
        self._before = self._times()

    def share(self) -> float:
        """Of all CPUs' time; this process and those it started and saw end are not counted."""
        total, idle, own = (after - before for after, before in zip(self._times(), self._before, strict=True))
        return max(0.0, (total - idle - own) / total)  # the two are not read at one moment

    def _times(self) -> tuple[float, float, float]:
        first, _ = Path("/proc/stat").read_text().split("\n", 1)
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in first.split()[1:9]]  # guests' are among the others
        return sum(ticks), ticks[3] + ticks[4], sum(os.times()[:4])


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process so far, as user and as system."""
    # What clock_getcpuclockid(3) does, for which Python has no name. The ticks of /proc/PID/stat, 10 ms, are too coarse
    # for a short run.
    return time.clock_gettime((~pid << 3) | 2)
