"""SIGTERM in the middle of everything: each call ends with an answer or is told to come again, and all is on record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from aiohttp import ClientSession
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import Refusal, refusal_of, until_serving
from tests.keybroker_process import exit_of, keybroker, settings_file, unix
from tests.kms_double import kms_double
from tests.kms_gate import Gate
from tests.kms_wrapping import next_wrapping_key
from tests.lifecycle.callers import MATERIAL, SPEC, get, import_request

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.kms_double import KmsDouble

PATIENCE = 600.0  # seconds; of callers who would rather wait in the line than be refused
HANG_SECONDS = 60.0  # generous; whatever holds the process for so long holds it for ever
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STOPPING = (grpc.StatusCode.UNAVAILABLE, "", "The broker is stopping.")

# The first set is to be had at once, the next ones after minutes: what stands in the line stays there.
ONE_SET = "requests_per_second = 0.01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A broker process that serves."""

    process: Process
    double: KmsDouble
    channel: grpc.aio.Channel
    stub: Any
    health: Any
    directory: Path
    ops_port: int

    def audited(self) -> list[tuple[str, str, str | None]]:
        """The audit: RPC, code and reason of each line."""
        lines = [json.loads(line) for line in (self.directory / "audit.log").read_text().splitlines()]
        return [(line["rpc"], line["code"], line.get("reason")) for line in lines]


@asynccontextmanager
async def _lab(directory: Path, rate: str = "requests_per_second = 1000.0") -> AsyncIterator[Lab]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        ops_port: int = free.getsockname()[1]
    async with kms_double() as double:
        await next_wrapping_key(2048)
        config = settings_file(
            directory / "keybroker.toml",
            double.endpoint,
            unix(directory / "broker.sock"),
            kms=rate,
            more=f'[audit]\nfile = "{directory}/audit.log"\n[ops]\naddress = "127.0.0.1:{ops_port}"\n',
        )
        async with (
            keybroker("serve", "--config", config) as process,
            grpc.aio.insecure_channel(f"unix:{directory}/broker.sock", options=[("grpc.enable_retries", 0)]) as channel,
        ):
            await until_serving(channel)
            yield Lab(
                process=process,
                double=double,
                channel=channel,
                stub=key_import_pb2_grpc.KeyImportServiceStub(channel),
                health=health_pb2_grpc.HealthStub(channel),
                directory=directory,
                ops_port=ops_port,
            )


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def stuck(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    """A broker that stands still and has had its SIGTERM: it takes half a minute to end, in which the others run."""
    async with _lab(tmp_path_factory.mktemp("stuck")) as lab:
        config = lab.directory / "keybroker.toml"
        config.unlink()
        os.mkfifo(config)
        lab.process.send_signal(signal.SIGHUP)
        await _silence(lab)
        lab.process.send_signal(signal.SIGTERM)
        yield lab.process


async def _silence(lab: Lab) -> None:
    """Returns when it answers no more."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while True:
            await lab.health.Check(_whole_process(), timeout=2)


def _told(refusal: Refusal) -> tuple[grpc.StatusCode, str, str]:
    return refusal.code, refusal.reason, refusal.message


async def _statuses(watch: Any) -> tuple[list[int], grpc.StatusCode]:
    """What a health watch says, and how it ends."""
    seen = []
    try:
        async for answer in watch:
            seen.append(answer.status)  # noqa: PERF401 -- the end is an error, and would take the list with it
    except grpc.aio.AioRpcError as error:
        return seen, error.code()
    return seen, grpc.StatusCode.OK


async def test_whatever_is_open_ends_well(tmp_path: Path) -> None:
    """Work under way is finished; who stands in the line is told to come again, and never that he left."""
    async with _lab(tmp_path, ONE_SET) as lab:
        arn = lab.double.add_key()
        parameters = await lab.stub.GetParametersForImport(get(arn))
        gate = Gate(lab.double, "ImportKeyMaterial")
        watches = [asyncio.ensure_future(_statuses(lab.health.Watch(_whole_process()))) for _ in range(2)]
        importing = asyncio.ensure_future(lab.stub.ImportKeyMaterial(import_request(parameters)))
        in_line = asyncio.ensure_future(
            refusal_of(lab.stub.GetParametersForImport(get(lab.double.add_key()), timeout=PATIENCE))
        )
        request = pb.BatchGetParametersForImportRequest(key_ids=[arn, lab.double.add_key()], wrapping_key_spec=SPEC)
        stream = lab.stub.BatchGetParametersForImport(request, timeout=PATIENCE)
        first = await stream.read()
        await lab.double.reached("ImportKeyMaterial")

        lab.process.send_signal(signal.SIGTERM)
        lab.process.send_signal(signal.SIGTERM)
        gate.open()
        async with asyncio.timeout(HANG_SECONDS):
            imported = await importing
            alone, many = await in_line, await refusal_of(_to_its_end(stream))
            seen = await asyncio.gather(*watches)
            ended = await exit_of(lab.process)

    assert first.parameters.import_token == parameters.import_token
    assert imported.key_arn == arn
    assert lab.double.material(arn) == MATERIAL
    assert _told(alone) == STOPPING
    assert _told(many) == STOPPING
    assert seen == [([SERVING, NOT_SERVING], grpc.StatusCode.UNAVAILABLE)] * 2
    assert (ended.code, ended.told) == (0, [])
    assert "Traceback" not in ended.errors
    assert sorted(lab.audited(), key=str) == sorted(
        [
            ("BatchGetParametersForImport", "OK", None),
            ("BatchGetParametersForImport", "UNAVAILABLE", None),
            ("GetParametersForImport", "OK", None),
            ("GetParametersForImport", "UNAVAILABLE", None),
            ("ImportKeyMaterial", "OK", None),
        ],
        key=str,
    )


async def test_an_import_that_kms_does_not_finish_is_of_unknown_outcome(tmp_path: Path) -> None:
    """Whether its caller waits or has left; either is on record, and nobody is told that it is not done."""
    async with _lab(tmp_path) as lab:
        sets = [await lab.stub.GetParametersForImport(get(lab.double.add_key())) for _ in range(2)]
        lab.double.lie("ImportKeyMaterial", "slow_drip")
        waiting = asyncio.ensure_future(refusal_of(lab.stub.ImportKeyMaterial(import_request(sets[0]))))
        left = lab.stub.ImportKeyMaterial(import_request(sets[1]))
        await lab.double.reached("ImportKeyMaterial", 2)
        left.cancel()

        lab.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_SECONDS):
            refusal = await waiting
            ended = await exit_of(lab.process)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN")
    assert ended.code == 0
    assert sorted(lab.audited()[2:]) == [
        ("ImportKeyMaterial", "CANCELLED", "OUTCOME_UNKNOWN"),
        ("ImportKeyMaterial", "UNKNOWN", "OUTCOME_UNKNOWN"),
    ]


async def test_who_comes_before_the_news_is_served(tmp_path: Path) -> None:
    """Health and /readyz say so first; calls on their way are answered, and only then does the broker go."""
    async with _lab(tmp_path) as lab, ClientSession() as session:
        arn = lab.double.add_key()
        await lab.stub.GetParametersForImport(get(arn))
        watch = lab.health.Watch(_whole_process())
        seen = [(await watch.read()).status]
        lab.process.send_signal(signal.SIGTERM)
        seen.append((await watch.read()).status)
        async with session.get(f"http://127.0.0.1:{lab.ops_port}/readyz") as ready:
            status = ready.status
        late = await lab.stub.GetParametersForImport(get(arn))
        ended = await exit_of(lab.process)

    assert seen == [SERVING, NOT_SERVING]
    assert status == 503
    assert late.key_arn == arn
    assert ended.code == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nsome",
    ],
)
async def test_a_connection_to_the_operators_port_holds_up_nothing(tmp_path: Path, sent: bytes) -> None:
    """Idle, in the middle of a request, or with one that never ends."""
    async with _lab(tmp_path) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.ops_port)
        writer.write(sent)
        await writer.drain()
        lab.process.send_signal(signal.SIGTERM)
        ended = await exit_of(lab.process)
        writer.close()
        await reader.read()

    assert ended.code == 0


async def test_a_signal_too_many_is_no_failure(tmp_path: Path) -> None:
    """However often and until the last moment it comes, the exit code is 0."""
    async with _lab(tmp_path) as lab:
        ending = asyncio.ensure_future(exit_of(lab.process))
        while not ending.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(lab.process.pid, signal.SIGTERM)  # asyncio's own way would take its exit code from it
            await asyncio.sleep(0.001)
        ended = await ending

    assert (ended.code, ended.told) == (0, [])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_broker_that_is_stuck_ends_all_the_same(stuck: Process) -> None:
    """Its settings have become a pipe that nobody writes to: the loop stands still at SIGHUP, and hears no signal."""
    async with asyncio.timeout(HANG_SECONDS):
        code = await stuck.wait()

    assert code == -signal.SIGALRM


def _whole_process() -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest()


async def _to_its_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass
