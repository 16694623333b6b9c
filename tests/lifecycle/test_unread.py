"""Standard output and standard error are pipes, and whoever reads them may stop: the broker must not stop with them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.broker_process import end
from demo.embedded_kms import aws_environment
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of, until_serving
from tests.keybroker_process import ENDS_WITHIN, settings_file, unix
from tests.kms_double import kms_double

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

REFUSED = pb.DiscardParametersRequest(key_id="alias/none", import_token=bytes(16))
WHOLE_PROCESS = health_pb2.HealthCheckRequest()
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A broker whose audit and log go to pipes that this test reads when it likes."""

    process: Process
    stub: Any
    health: Any
    audit: int
    log: int

    async def reason(self) -> str:
        """Of the refusal of a request that is refused."""
        return (await refusal_of(self.stub.DiscardParameters(REFUSED))).reason

    async def ended(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(ENDS_WITHIN):
            return await self.process.wait()


@asynccontextmanager
async def _lab(directory: Path) -> AsyncIterator[Lab]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    (audit, output), (log, errors) = pipes = os.pipe(), os.pipe()
    try:
        for reading in (audit, log):
            os.set_blocking(reading, False)
        async with kms_double() as double:
            config = settings_file(directory / "keybroker.toml", double.endpoint, unix(directory / "broker.sock"))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "keybroker", "serve", "--config", str(config)),
                stdout=output,
                stderr=errors,
                env=environment | aws_environment(),
            )
            try:
                async with grpc.aio.insecure_channel(f"unix:{directory}/broker.sock") as channel:
                    await until_serving(channel)
                    stub = key_import_pb2_grpc.KeyImportServiceStub(channel)
                    yield Lab(
                        process=process, stub=stub, health=health_pb2_grpc.HealthStub(channel), audit=audit, log=log
                    )
            finally:
                await end(process)
    finally:
        for descriptor in (*pipes[0], *pipes[1]):
            os.close(descriptor)


def _unread(pipe: int) -> int:
    """Bytes that are in it."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _read(pipe: int) -> list[dict[str, Any]]:
    """What is in it."""
    pieces = []
    try:
        while piece := os.read(pipe, 1 << 20):
            pieces.append(piece)
    except BlockingIOError:
        pass
    return [json.loads(line) for line in b"".join(pieces).splitlines() if line.startswith(b"{")]


async def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    """With INTERNAL, while the broker lives on and hears signals; where someone reads again, it goes on and says so."""
    async with _lab(tmp_path) as lab:
        while (full := await lab.reason()) == "ALIAS_NOT_ALLOWED":
            pass  # until there is no room for another line
        alive = await lab.health.Check(WHOLE_PROCESS)
        _read(lab.audit)
        after = await lab.reason()
        recorded = [line["reason"] for line in _read(lab.audit)]
        while await lab.reason() != "INTERNAL":
            pass
        code = await lab.ended()

    assert full == "INTERNAL"
    assert alive.status == SERVING
    assert after == "ALIAS_NOT_ALLOWED"
    assert recorded == ["RESUMED", "ALIAS_NOT_ALLOWED"]
    assert code == 0


async def test_a_log_that_nobody_reads_is_lost_and_counted(tmp_path: Path) -> None:
    """The broker serves on; the first line that somebody hears again tells how many nobody heard."""
    async with _lab(tmp_path) as lab:
        written = 0
        while (used := _unread(lab.log)) > written or not used:  # until there is no room for another line
            written = used
            for _ in range(100):
                lab.process.send_signal(signal.SIGHUP)  # of which the log tells
                alive = await lab.health.Check(WHOLE_PROCESS)
        _read(lab.log)
        lab.process.send_signal(signal.SIGHUP)
        while not (told := _read(lab.log)):
            await asyncio.sleep(0.01)
        code = await lab.ended()

    assert alive.status == SERVING
    assert told[0]["lost_before"] > 0
    assert code == 0
