"""KMS is gone for a while, in every way it can be: cached sets are served, and all else is refused at once."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import pytest
from aiohttp import ClientSession, web

from demo.broker_process import broker_process
from keybroker.aws import CONNECT_LIMIT, READ_LIMIT
from keybroker.guarded_kms import AWAY, FAILURES
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of
from tests.fleet.harness import times
from tests.keybroker_process import settings_file, unix
from tests.kms_double import kms_double
from tests.kms_wrapping import next_wrapping_key
from tests.lifecycle.callers import MATERIAL, Callers, calling, get, import_request
from tests.tcp_proxy import tcp_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from tests.kms_double import Exchange, KmsDouble
    from tests.tcp_proxy import TcpProxy

OUTAGE_SECONDS = float(times(8, campaign=60))
OPEN_SECONDS = 30.0  # until the breaker has opened; a black hole takes 5 for each answer, and this machine is busy
RECOVERED_WITHIN = 10.0  # what is promised
RECOVERY_SECONDS = 30.0  # until the test gives up: this machine is busy
READERS = 8
COLD_CALLERS = 4
IMPORTS = 6  # each with a set of its own, fetched before
REFUSED_AT_ONCE = 200
OPERATIONS = ("DescribeKey", "GetParametersForImport", "ImportKeyMaterial", "GetCallerIdentity")
OUTAGES = ("refused", "black hole", "HTTP 500", "HTTP 500 of another")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A broker whose KMS is behind a proxy, with an HTTP port for operators."""

    double: KmsDouble
    proxy: TcpProxy
    stub: Any
    channel: grpc.aio.Channel
    target: str
    ops: str
    session: ClientSession

    async def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric over its labels, or over those lines that have this one."""
        async with self.session.get(f"{self.ops}/metrics") as answer:
            lines = [line for line in (await answer.text()).splitlines() if label in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    async def attempts(self) -> float:
        """How many requests to KMS have ended, whatever came of them."""
        return await self.metric("keybroker_kms_requests_total")

    async def failures(self) -> float:
        """How many of them KMS did not answer as it should."""
        return await self.metric("keybroker_kms_requests_total", 'outcome="KMS_UNAVAILABLE"')

    async def statuses(self) -> tuple[int, int]:
        """What /livez and /readyz say."""
        async with self.session.get(f"{self.ops}/livez") as live, self.session.get(f"{self.ops}/readyz") as ready:
            return live.status, ready.status

    @asynccontextmanager
    async def out(self, how: str) -> AsyncIterator[None]:
        """KMS is not there, until the context is left."""
        if how == "refused":
            await self.proxy.refuse()
        elif how == "black hole":
            self.proxy.freeze()
        else:
            for operation in OPERATIONS:
                self.double.lie(operation, "error:KMSInternalException" if how == "HTTP 500" else _bare_500)
        try:
            yield
        finally:
            if how == "black hole":
                self.proxy._flowing = asyncio.Event()  # a hole gives nothing back: what fell into it waits for ever
            await self.proxy.heal()
            self.double.honest()


async def _bare_500(_: Exchange) -> web.StreamResponse:
    return web.Response(status=500)


@asynccontextmanager
async def _lab(directory: Path, more: str = "") -> AsyncIterator[Lab]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        ops_port = free.getsockname()[1]
    target = f"unix:{directory}/broker.sock"
    async with kms_double() as double:
        await next_wrapping_key(2048)
        behind = urlsplit(double.endpoint)
        async with tcp_proxy("127.0.0.1", behind.port or 0) as proxy, ClientSession() as session:
            config = settings_file(
                directory / "keybroker.toml",
                f"http://127.0.0.1:{proxy.port}",
                unix(directory / "broker.sock"),
                kms="requests_per_second = 1000.0",
                more=f'[ops]\naddress = "127.0.0.1:{ops_port}"\n[limits]\nlookups_per_second = 2000\n{more}',
            )
            async with (
                broker_process(config, target, log=directory / "broker.log"),
                grpc.aio.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel,
            ):
                yield Lab(
                    double=double,
                    proxy=proxy,
                    stub=key_import_pb2_grpc.KeyImportServiceStub(channel),
                    channel=channel,
                    target=target,
                    ops=f"http://127.0.0.1:{ops_port}",
                    session=session,
                )


class _Cold(Callers):
    async def ask_for_new_keys(self, stub: Any, _: int) -> None:
        """One after the other, each of them once."""
        while not self._stopping.is_set():
            await self.ask("GetParametersForImport", stub.GetParametersForImport(get(self._add_key()), timeout=30))
            await asyncio.sleep(0.02)


async def _in_each(
    experiment: Callable[[Path, str], Coroutine[Any, Any, None]], directory: Path, *outages: str
) -> None:
    """One for each kind of outage, with a broker and a KMS of its own: what they take is time to wait."""
    async with asyncio.TaskGroup() as group:
        for number, how in enumerate(outages):
            own = directory / str(number)
            own.mkdir()
            group.create_task(experiment(own, how))


@pytest.mark.timeout(120 + 2 * OUTAGE_SECONDS)
async def test_an_outage_is_nothing_to_who_needs_no_kms(tmp_path: Path) -> None:
    """Cached sets are served, the broker stays ready, KMS is left alone, and when it is back so is all the rest."""
    await _in_each(_an_outage_under_load, tmp_path, *OUTAGES[:3])


async def _an_outage_under_load(directory: Path, how: str) -> None:
    statuses = set()
    async with _lab(directory) as lab:
        warm = [lab.double.add_key() for _ in range(16)]
        for arn in warm:
            await lab.stub.GetParametersForImport(get(arn))
        readers, cold = Callers(lab.double.add_key, warm), _Cold(lab.double.add_key, [])
        channels = [grpc.aio.insecure_channel(lab.target, options=[("grpc.enable_retries", 0)]) for _ in range(12)]
        async with (
            calling(readers, channels[:READERS], readers.read),
            calling(cold, channels[READERS:][:COLD_CALLERS], cold.ask_for_new_keys),
        ):
            async with lab.out(how):
                before, began = await lab.attempts(), time.monotonic()
                await _until_left_alone(lab)
                asked = await lab.attempts()
                at_once = [
                    await refusal_of(lab.stub.GetParametersForImport(get(lab.double.add_key())))
                    for _ in range(REFUSED_AT_ONCE)
                ]
                while time.monotonic() - began < OUTAGE_SECONDS:
                    statuses.add(await lab.statuses())
                    await asyncio.sleep(0.1)
                seconds, attempts = time.monotonic() - began, await lab.attempts() - before
                tries = await lab.attempts() - asked
            healed, failed = time.monotonic(), await lab.failures()
            recovered = await _until_a_new_key_is_served(lab) - healed
            failed = await lab.failures() - failed

    print(f"{how}, {seconds:.1f} s: readers {readers.summary()}; new keys {cold.summary()}, {dict(cold.refusals)}")
    print(f"{attempts:.0f} requests to KMS, {tries:.0f} of them since it was left alone; back after {recovered:.1f} s")
    assert readers.failed == []
    assert statuses == {(200, 200)}
    assert {(refusal.code, refusal.reason) for refusal in at_once} == {(grpc.StatusCode.UNAVAILABLE, "KMS_UNAVAILABLE")}
    assert all(refusal.retry_after for refusal in at_once)
    assert {reason for _, reason in cold.refusals} == {"KMS_UNAVAILABLE"}
    # Until KMS is left alone there are those in a row, and then one for each pause; besides, who was on his way.
    assert attempts - tries <= FAILURES + COLD_CALLERS
    assert tries <= 1 + seconds / AWAY + COLD_CALLERS
    # What recovery waits for: the try that was under way when KMS came back, the pause after it, and the next.
    assert failed <= 1


def test_recovery_is_promised_by_the_limits() -> None:
    """A try that meets silence ends, KMS is left alone once more, and then it is asked; the test above counts them."""
    assert max(CONNECT_LIMIT, READ_LIMIT) + AWAY < RECOVERED_WITHIN


@pytest.mark.timeout(120)
async def test_no_import_is_said_to_be_done_that_is_not(tmp_path: Path) -> None:
    """Not sent: KMS_UNAVAILABLE, and nothing has happened. Sent: OUTCOME_UNKNOWN. Never OK."""
    await _in_each(_imports_in_an_outage, tmp_path, *OUTAGES)


async def _imports_in_an_outage(directory: Path, how: str) -> None:
    async with _lab(directory) as lab:
        sets = [await lab.stub.GetParametersForImport(get(lab.double.add_key())) for _ in range(IMPORTS)]
        async with lab.out(how):
            refusals = [await refusal_of(lab.stub.ImportKeyMaterial(import_request(one))) for one in sets]
        recovered = await _until_a_new_key_is_served(lab)
        done = [lab.double.material(one.key_arn) for one in sets]
        last = await lab.stub.GetParametersForImport(get(lab.double.add_key()))
        await _until_served(lambda: lab.stub.ImportKeyMaterial(import_request(last)))
        imported = lab.double.material(last.key_arn)

    reasons = [refusal.reason for refusal in refusals]
    print(f"{how}: {reasons}, {sum(material is not None for material in done)} done all the same")
    assert recovered
    assert set(reasons) <= {"KMS_UNAVAILABLE", "OUTCOME_UNKNOWN"}
    assert "KMS_UNAVAILABLE" in reasons  # at the latest when KMS is left alone
    assert [
        material
        for reason, material in zip(reasons, done, strict=True)
        if reason == "KMS_UNAVAILABLE" and material is not None
    ] == []
    assert imported == MATERIAL


async def test_a_key_in_use_is_known_as_long_as_its_set_is(tmp_path: Path) -> None:
    """However many other keys have come since: its set is served while KMS is down."""
    async with _lab(tmp_path, "[parameters]\nmax_entries = 4\n") as lab:
        arn = lab.double.add_key()
        await lab.stub.GetParametersForImport(get(arn))
        for _ in range(8):
            await lab.stub.GetParametersForImport(get(lab.double.add_key()))
            await lab.stub.GetParametersForImport(get(arn))
        described = [call.key_id for call in lab.double.calls if call.operation == "DescribeKey"].count(arn)
        async with lab.out("refused"):
            answer = await lab.stub.GetParametersForImport(get(arn))

    assert answer.source == pb.PARAMETERS_SOURCE_CACHE
    assert described == 1


async def _until_left_alone(lab: Lab) -> None:
    async with asyncio.timeout(OPEN_SECONDS):
        while not await lab.metric("keybroker_kms_away"):
            await asyncio.sleep(0.02)


async def _until_a_new_key_is_served(lab: Lab) -> float:
    """When that was, on the monotonic clock."""
    return await _until_served(
        lambda: lab.stub.GetParametersForImport(get(lab.double.add_key()), timeout=RECOVERY_SECONDS)
    )


async def _until_served(ask: Callable[[], Awaitable[Any]]) -> float:
    """When that was; each operation of KMS is left alone, and tried again, by itself."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            try:
                await ask()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            else:
                return time.monotonic()
