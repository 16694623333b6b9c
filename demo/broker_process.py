"""A broker of one's own: a real `keybroker serve` process, for as long as it is needed."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.embedded_kms import ACCOUNT, aws_environment

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


class BrokerProcessError(Exception):
    """The broker did not come up; the message is what it wrote."""


@asynccontextmanager
async def broker_process(
    config: Path, target: str, *, log: Path, account: str = ACCOUNT
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `keybroker serve --config FILE` until the context is left, and give its process once it is SERVING.

    Args:
        config: The settings file.
        target: A listener of the settings, as a gRPC target.
        log: The file that takes what the process writes.
        account: The AWS account whose credentials it has.

    Raises:
        BrokerProcessError: it ended, or was not SERVING in time.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "keybroker", "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment | aws_environment(account),
        )
    try:
        await _until_serving(process, target, log)
        yield process
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> int:
    """Ask a process to end, insist after a while, and give its exit code."""
    for stop in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                return await process.wait()
    raise BrokerProcessError(f"process {process.pid} survived SIGKILL")


async def _until_serving(process: asyncio.subprocess.Process, target: str, log: Path) -> None:
    request = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while process.returncode is None:
                    with suppress(grpc.aio.AioRpcError):
                        answer = await health.Check(request, wait_for_ready=True, timeout=1)
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return
                    await asyncio.sleep(0.05)
    raise BrokerProcessError(log.read_text(errors="replace"))
