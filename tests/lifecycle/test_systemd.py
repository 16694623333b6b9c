"""systemd is told READY=1 when the broker is SERVING and not before, and STOPPING=1 when it begins to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.broker_process import end
from demo.embedded_kms import aws_environment
from tests.keybroker_process import exit_of, settings_file, unix
from tests.kms_double import kms_double
from tests.kms_gate import Gate

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any

PATIENCE = 30.0  # seconds, on a busy machine
STS = "GetCallerIdentity"


@contextlib.asynccontextmanager
async def _serving(config: Path, notify_socket: str) -> AsyncIterator[Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keybroker", "serve", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment | aws_environment() | {"NOTIFY_SOCKET": notify_socket},
    )
    try:
        yield process
    finally:
        await end(process)


async def _heard(listener: socket.socket) -> str:
    async with asyncio.timeout(PATIENCE):
        return (await asyncio.get_running_loop().sock_recv(listener, 4096)).decode()


def _nothing_more(listener: socket.socket) -> bool:
    try:
        listener.recv(4096)
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
async def test_systemd_hears_of_start_and_stop(tmp_path: Path, abstract: bool) -> None:
    """On a socket in the file system or one with an abstract name; nothing before STS answers, and nothing twice."""
    path = f"{tmp_path}/notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + path if abstract else path)
        listener.settimeout(0)
        async with kms_double() as double:
            gate = Gate(double, STS)
            config = settings_file(tmp_path / "keybroker.toml", double.endpoint, unix(tmp_path / "broker.sock"))
            async with _serving(config, "@" + path if abstract else path) as process:
                async with grpc.aio.insecure_channel(f"unix:{tmp_path}/broker.sock") as channel:
                    before = await _health(channel)
                    early = _nothing_more(listener)
                    gate.open()
                    ready = await _heard(listener)
                    after = await _health(channel)
                process.send_signal(signal.SIGTERM)
                stopping = await _heard(listener)
                ended = await exit_of(process)
        quiet = _nothing_more(listener)

    assert (before, early) == (health_pb2.HealthCheckResponse.NOT_SERVING, True)
    assert (ready, after) == ("READY=1", health_pb2.HealthCheckResponse.SERVING)
    assert (stopping, quiet) == ("STOPPING=1", True)
    assert ended.code == 0


@pytest.mark.parametrize("notify_socket", ["/nowhere/notify.sock", "nonsense", ""])
async def test_a_socket_that_is_not_there_does_not_matter(tmp_path: Path, notify_socket: str) -> None:
    """The broker serves and stops as without systemd."""
    async with kms_double() as double:
        config = settings_file(tmp_path / "keybroker.toml", double.endpoint, unix(tmp_path / "broker.sock"))
        async with _serving(config, notify_socket) as process:
            async with (
                asyncio.timeout(PATIENCE),
                grpc.aio.insecure_channel(f"unix:{tmp_path}/broker.sock") as channel,
            ):
                while await _health(channel) != health_pb2.HealthCheckResponse.SERVING:
                    await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            ended = await exit_of(process)

    assert ended.code == 0
    assert ended.told == []


async def _health(channel: grpc.aio.Channel) -> int:
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE)
    return int(answer.status)
