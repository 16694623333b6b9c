"""A whole broker in the test's own process: real sockets on one side, a KMS double on the other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.embedded_kms import aws_environment
from keybroker import settings as settings_file
from keybroker.app import App
from keybroker.clock import SystemClock
from keyimport.v1 import key_import_pb2_grpc
from tests.kms_double import kms_double
from tests.kms_wrapping import next_wrapping_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.kms_double import KmsDouble


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBroker:
    """A broker that serves, and a channel to its Unix socket."""

    app: App
    target: str
    channel: grpc.aio.Channel
    stub: Any  # the stub's types tell sync from aio by the channel, which Any spares every test


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error as a client reads it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    field: str | None
    retry_after: float | None
    pushback: str | None


async def refusal_of(call: Awaitable[Any]) -> Refusal:
    """The error a call ends with; fails if it does not."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return read_refusal(raised.value)


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """An error's parts."""
    trailing = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailing.get("grpc-status-details-bin", b""))
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in status.details:
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    if status.details:
        assert info.domain == "keyimport"
        assert status.code == error.code().value[0]
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        field=bad.field_violations[0].field if bad.field_violations else None,
        retry_after=retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None,
        pushback=str(trailing["grpc-retry-pushback-ms"]) if "grpc-retry-pushback-ms" in trailing else None,
    )


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process that acts in the account 111122223333, and nothing else of AWS's."""
    import os  # noqa: PLC0415 -- this fixture alone looks at the environment

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in aws_environment("111122223333").items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def double() -> AsyncIterator[KmsDouble]:
    """An honest KMS that can be told to lie."""
    for size in (2048, 3072, 4096):
        await next_wrapping_key(size)  # the first of each takes seconds, longer on a loaded machine than a call may
    async with kms_double() as double:
        yield double


def settings_for(tmp_path: Path, endpoint: str, **sections: Any) -> settings_file.Settings:
    """Settings of a broker on a Unix socket; sections are merged over the defaults of the tests."""
    raw: dict[str, Any] = {
        "listeners": [{"address": f"unix:{tmp_path}/broker.sock", "caller": "local"}],
        "kms": {"regions": ["us-east-1"], "endpoint": endpoint, "requests_per_second": 1000.0},
    }
    for name, section in sections.items():
        raw[name] = raw.get(name, {}) | section if isinstance(section, dict) else section
    return settings_file.parse(raw)


@asynccontextmanager
async def running(
    settings: settings_file.Settings, *, call_limit: float = 5.0, ready: bool = True
) -> AsyncIterator[RunningBroker]:
    """A broker in this process until the block ends."""
    app = App(settings, SystemClock(), call_limit=call_limit)
    serving = asyncio.ensure_future(app.serve())
    target = next(listener.address for listener in settings.listeners if listener.socket_path)
    channel = grpc.aio.insecure_channel(target)
    try:
        if ready:
            await until_serving(channel, serving)
        yield RunningBroker(
            app=app, target=target, channel=channel, stub=key_import_pb2_grpc.KeyImportServiceStub(channel)
        )
    finally:
        await channel.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("keybroker.front.NEWS", 0.0)  # there is nobody left to hear of it
            app.stop()
            await serving


async def until_serving(channel: grpc.aio.Channel, serving: asyncio.Future[None] | None = None) -> None:
    """Returns when health says SERVING; raises what the broker ended with, if it does."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(30):
        while True:
            if serving is not None and serving.done():
                serving.result()
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=1)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def run_broker(
    aws_credentials: None, tmp_path: Path, double: KmsDouble
) -> Callable[..., AbstractAsyncContextManager[RunningBroker]]:
    """Runs a broker in front of the double, with sections of settings of the test's own."""
    _ = aws_credentials

    def run(
        *, call_limit: float = 5.0, ready: bool = True, **sections: Any
    ) -> AbstractAsyncContextManager[RunningBroker]:
        return running(settings_for(tmp_path, double.endpoint, **sections), call_limit=call_limit, ready=ready)

    return run
