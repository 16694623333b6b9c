"""Certificates end, CAs are swapped, files are rotated: whoever is no longer vouched for is out, and nobody else is."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from grpc.experimental.session_cache import ssl_session_cache_lru

from demo.broker_process import broker_process
from keybroker.app import App
from keybroker.certificates import Certificates
from keybroker.clock import SystemClock
from keybroker.identity import Clients
from keybroker.metrics import Metrics
from keybroker.settings_listeners import Tls
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import Authority, Identity, Shape, TlsFiles, of_no_version, replace, tls_channel
from tests.conftest import refusal_of
from tests.keybroker_process import run, settings_file, unix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

PATIENCE = 30.0  # seconds, on a busy machine
LISTENER = "listeners[1].tls"
CALLERS = [
    {
        "id": "spiffe://corp.example/ns/*/sa/*",
        "keys": ["arn:aws:kms:us-east-1:111122223333:key/*"],
        "operations": ["GetParametersForImport"],
    }
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """Who signs for the broker and for its clients, and the broker's files."""

    server_ca: Authority
    ca: Authority
    first: Identity
    files: TlsFiles


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """A broker's files, in good order."""
    server_ca, ca = Authority("server CA"), Authority("client CA")
    first = server_ca.server()
    return Pki(server_ca=server_ca, ca=ca, first=first, files=TlsFiles.write(tmp_path, first, ca))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A broker behind TLS."""

    pki: Pki
    broker: RunningBroker
    arn: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.broker.app.ports[1]

    @property
    def failures(self) -> float:
        """Changes of the files that the broker says it could not use."""
        counted: float = self.broker.app._ground.metrics.certificate_reload_failures.labels(
            listener=LISTENER
        )._value.get()
        return counted

    def channel(self, client: Identity, cache: Any = None) -> grpc.aio.Channel:
        """A client's channel."""
        return tls_channel(self.port, self.pki.server_ca, client, cache)

    def get(self, channel: grpc.aio.Channel) -> Any:
        """One call."""
        return _get(channel, self.arn)

    async def serial(self) -> int:
        """Of the certificate that a new connection is shown."""
        return await _serial(self.port, self.pki)


def _get(channel: grpc.aio.Channel, arn: str) -> Any:
    stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
    request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
    return stub.GetParametersForImport(request, timeout=PATIENCE)


async def _serial(port: int, pki: Pki) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.server_ca.pem.decode())
    async with asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection("localhost", port, family=socket.AF_INET, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(shown).serial_number


@asynccontextmanager
async def _bench(run_broker: RunBroker, double: KmsDouble, tmp_path: Path, pki: Pki) -> AsyncIterator[Bench]:
    listeners = [
        {"address": f"unix:{tmp_path}/broker.sock", "caller": "local"},
        {"address": "tcp:127.0.0.1:0", "tls": pki.files.setting()},
    ]
    async with run_broker(listeners=listeners, callers=CALLERS) as broker:
        yield Bench(pki=pki, broker=broker, arn=double.add_key())


@pytest.fixture
async def bench(run_broker: RunBroker, double: KmsDouble, tmp_path: Path, pki: Pki) -> AsyncIterator[Bench]:
    """A broker behind TLS, in this process."""
    async with _bench(run_broker, double, tmp_path, pki) as bench:
        yield bench


def _soon() -> datetime:
    """A time at which a certificate can end, some seconds from now."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)


async def _after(moment: datetime) -> None:
    while datetime.now(UTC) <= moment:
        await asyncio.sleep(0.05)


async def test_a_client_that_expires_while_connected_is_out(bench: Bench, double: KmsDouble) -> None:
    """The connection lives on, the certificate does not: UNAUTHENTICATED at the next call, and KMS is not asked."""
    end = _soon()
    async with bench.channel(bench.pki.ca.client(valid_to=end)) as channel:
        answer = await bench.get(channel)
        await _after(end)
        calls = list(double.calls)
        refused = await refusal_of(_get(channel, double.add_key()))

    assert answer.key_arn == bench.arn
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED")
    assert calls == double.calls


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call: whether its connection resumed a TLS session, as gRPC tells the broker."""
    seen: list[bool] = []
    identify = Clients.identify

    def spied(self: Clients, peer: Mapping[str, Sequence[bytes]], now: datetime) -> str:
        seen.append(list(peer["ssl_session_reused"]) == [b"true"])
        return identify(self, peer, now)

    monkeypatch.setattr(Clients, "identify", spied)
    return seen


def _sessions() -> Any:
    """A client's memory of TLS sessions."""
    return ssl_session_cache_lru(8)  # type: ignore[no-untyped-call] # gRPC's types leave it out


async def test_a_resumed_session_brings_nobody_back(bench: Bench, reused: list[bool]) -> None:
    """A new connection that resumes the session of a good one shows no certificate: it is judged as it is now."""
    end, cache = _soon(), _sessions()
    client = bench.pki.ca.client(valid_to=end)
    for _ in range(3):
        async with bench.channel(client, cache) as channel:
            await bench.get(channel)
    before = list(reused)
    await _after(end)
    async with bench.channel(client, cache) as channel:
        refused = await refusal_of(bench.get(channel))

    assert before == [False, True, True]
    assert refused.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    assert refused.reason in ("CALLER_UNAUTHENTICATED", "")


async def test_a_swapped_ca_holds_from_the_next_call(bench: Bench, reused: list[bool]) -> None:
    """Those of the old CA are out, connected, resuming or new; those of the new one are in at their first attempt."""
    old, cache = bench.pki.ca.client(), _sessions()
    successor = Authority("client CA")
    async with bench.channel(old, cache) as channel:
        await bench.get(channel)
        bench.pki.files.trust(successor)
        bench.broker.app.reload()
        connected = await refusal_of(bench.get(channel))
    async with bench.channel(successor.client()) as channel:
        served = await bench.get(channel)
    async with bench.channel(old, cache) as channel:
        resuming = await refusal_of(bench.get(channel))
    async with bench.channel(old) as channel:
        new = await refusal_of(bench.get(channel))

    assert (connected.code, connected.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED")
    assert served.key_arn == bench.arn
    assert resuming.code is grpc.StatusCode.UNAVAILABLE
    assert new.code is grpc.StatusCode.UNAVAILABLE
    assert reused[0] is False


async def test_cas_overlap_without_a_gap(bench: Bench) -> None:
    """Old, old and new, new: each client's live connection is served as long as its CA is in the file."""
    old, new = bench.pki.ca, Authority("client CA")
    async with bench.channel(old.client()) as first:
        await bench.get(first)
        bench.pki.files.trust(old, new)
        bench.broker.app.reload()
        await bench.get(first)
        async with bench.channel(new.client()) as second:
            await bench.get(second)
            bench.pki.files.trust(new)
            bench.broker.app.reload()
            refused = await refusal_of(bench.get(first))
            served = await bench.get(second)

    assert refused.reason == "CALLER_UNAUTHENTICATED"
    assert served.key_arn == bench.arn


@dataclass(slots=True, kw_only=True)
class Load:
    """Clients that connect anew for every call, or stay."""

    served: int = 0
    failed: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def reconnecting(self, port: int, pki: Pki, arn: str) -> None:
        """Calls without end, each on a connection of its own."""
        client = pki.ca.client()
        while True:
            async with tls_channel(port, pki.server_ca, client) as channel:
                await self._call(channel, arn)

    async def staying(self, port: int, pki: Pki, arn: str) -> None:
        """Calls without end on one connection."""
        async with tls_channel(port, pki.server_ca, pki.ca.client()) as channel:
            while True:
                await self._call(channel, arn)
                await asyncio.sleep(0.01)

    async def _call(self, channel: grpc.aio.Channel, arn: str) -> None:
        try:
            await _get(channel, arn)
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code()} {error.details()}")
        else:
            self.served += 1


@asynccontextmanager
async def _load(port: int, pki: Pki, arn: str) -> AsyncIterator[Load]:
    load = Load()
    clients = [load.reconnecting(port, pki, arn) for _ in range(6)] + [load.staying(port, pki, arn)]
    load.tasks = [asyncio.create_task(client) for client in clients]
    try:
        yield load
    finally:
        for task in load.tasks:
            task.cancel()
        for task in load.tasks:
            with suppress(asyncio.CancelledError):
                await task


ROTATIONS = 100


def _rotations(pki: Pki) -> Iterator[Identity]:
    """Server certificates, each with a key of its own, every third through an intermediate."""
    between = Authority("between", issuer=pki.server_ca)
    for number in range(ROTATIONS):
        yield (between if number % 3 == 0 else pki.server_ca).server()


async def test_a_hundred_rotations_under_load_fail_no_call(bench: Bench) -> None:
    """Each new certificate is served at once to who connects, and no call fails: connected, connecting or between."""
    wanted, seen = [], []
    async with _load(bench.port, bench.pki, bench.arn) as load:
        for server in _rotations(bench.pki):
            bench.pki.files.serve(server)
            bench.broker.app.reload()
            wanted.append(server.certificate.serial_number)
            seen.append(await bench.serial())

    assert wanted == seen
    assert load.failed == []
    assert load.served > ROTATIONS
    assert bench.failures == 0


async def test_a_hundred_hangups_of_a_process_under_load_fail_no_call(
    tmp_path: Path, double: KmsDouble, pki: Pki
) -> None:
    """As above, with a real process and SIGHUP; it is there to the end, and ends well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    tls = 'tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }'
    caller = CALLERS[0]
    config = settings_file(
        tmp_path / "keybroker.toml",
        double.endpoint,
        unix(tmp_path / "broker.sock"),
        f'address = "tcp:127.0.0.1:{port}"\n{tls}',
        more=f'[audit]\nfile = "{tmp_path}/audit.jsonl"\n[[callers]]\n'
        + "".join(f"{key} = {value!r}\n" for key, value in caller.items()),
    )
    arn, log = double.add_key(), tmp_path / "broker.log"
    async with broker_process(config, f"unix:{tmp_path}/broker.sock", log=log) as process:
        async with _load(port, pki, arn) as load:
            for server in _rotations(pki):
                pki.files.serve(server)
                process.send_signal(signal.SIGHUP)
                async with asyncio.timeout(PATIENCE):
                    while await _serial(port, pki) != server.certificate.serial_number:
                        await asyncio.sleep(0.01)
        alive = process.returncode is None

    assert load.failed == []
    assert load.served > ROTATIONS
    assert alive, log.read_text()
    assert process.returncode == 0
    # The process looks by itself too, and may do so between the writing of the certificate and of its key.
    failures = [line for line in log.read_text().splitlines() if "not reloaded" in line]
    assert [line for line in failures if "is not the key of the certificate" not in line] == []


async def test_files_are_followed_without_being_told(
    run_broker: RunBroker, double: KmsDouble, tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renews certificates need not know the broker: new files are served in a while."""
    monkeypatch.setattr("tests.conftest.App", partial(App, certificate_check=0.02))
    server = pki.server_ca.server()
    async with asyncio.timeout(PATIENCE), _bench(run_broker, double, tmp_path, pki) as bench:
        first = await bench.serial()
        pki.files.serve(server)
        while await bench.serial() == first:
            await asyncio.sleep(0.02)
        last = await bench.serial()

    assert first == pki.first.certificate.serial_number
    assert last == server.certificate.serial_number


async def test_they_are_followed_whatever_happened_to_one_look(  # noqa: PLR0917 -- fixtures
    run_broker: RunBroker,
    double: KmsDouble,
    tmp_path: Path,
    pki: Pki,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What nobody foresaw is told in the log, and the next renewal is served all the same."""

    def fail_once(certificates: Certificates) -> None:
        monkeypatch.setattr(Certificates, "reload", whole)
        raise RuntimeError(str(certificates))

    whole = Certificates.reload
    monkeypatch.setattr(Certificates, "reload", fail_once)
    monkeypatch.setattr("keybroker.background.PAUSE", 0.02)
    monkeypatch.setattr("tests.conftest.App", partial(App, certificate_check=0.02))
    async with asyncio.timeout(PATIENCE), _bench(run_broker, double, tmp_path, pki) as bench:
        while Certificates.reload is not whole:
            await asyncio.sleep(0.02)
        pki.files.serve(pki.server_ca.server())
        while await bench.serial() == pki.first.certificate.serial_number:
            await asyncio.sleep(0.02)

    told = [record for record in caplog.records if record.name == "keybroker.background"]
    assert [record.__dict__["loop"] for record in told] == ["certificates"]


def _secp256k1(pki: Pki) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    pki.files.serve(pki.server_ca.mint(Shape(san=names, key=ec.generate_private_key(ec.SECP256K1()))))


def _locked(pki: Pki) -> None:
    locked = pki.first.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    replace(pki.files.private_key, locked)


def _other_key(pki: Pki) -> None:
    replace(pki.files.private_key, pki.server_ca.server().key_pem)


BAD_FILES: Mapping[str, tuple[str, Callable[[Pki], object]]] = {
    "certificate-garbage": ("certificate", lambda pki: replace(pki.files.certificate, b"garbage")),
    "certificate-empty": ("certificate", lambda pki: replace(pki.files.certificate, b"")),
    "certificate-cut-short": ("certificate", lambda pki: replace(pki.files.certificate, pki.first.pem[:-100])),
    "certificate-of-no-version": (
        "certificate",
        lambda pki: replace(pki.files.certificate, of_no_version(pki.first)),
    ),
    "certificate-missing": ("certificate", lambda pki: pki.files.certificate.unlink()),
    "certificate-expired": ("certificate", lambda pki: pki.files.serve(pki.server_ca.server(datetime.now(UTC)))),
    "key-garbage": ("private_key", lambda pki: replace(pki.files.private_key, b"\0\xff")),
    "key-of-another-certificate": ("private_key", _other_key),
    "key-with-a-password": ("private_key", _locked),
    "key-of-a-kind-grpc-cannot-use": ("private_key", _secp256k1),
    "key-missing": ("private_key", lambda pki: pki.files.private_key.unlink()),
    "ca-garbage": ("client_ca", lambda pki: replace(pki.files.client_ca, b"garbage")),
    "ca-of-no-version": ("client_ca", lambda pki: replace(pki.files.client_ca, of_no_version(pki.first))),
    "ca-empty": ("client_ca", lambda pki: pki.files.trust()),
    "ca-missing": ("client_ca", lambda pki: pki.files.client_ca.unlink()),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_bad_file_keeps_the_last_good_ones(bench: Bench, caplog: pytest.LogCaptureFixture, case: str) -> None:
    """Served as before, counted and told once, by the setting's name; used when it is mended; told anew when not."""
    setting, spoil = BAD_FILES[case]
    files, client = bench.pki.files, bench.pki.ca.client()
    async with bench.channel(client) as channel:
        await bench.get(channel)
        spoil(bench.pki)
        for _ in range(3):
            bench.broker.app.reload()
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        kept, failures = await bench.serial(), bench.failures
        await bench.get(channel)
    async with bench.channel(client) as channel:
        await bench.get(channel)

    files.serve(bench.pki.first)
    files.trust(bench.pki.ca)
    bench.broker.app.reload()
    mended = bench.failures
    spoil(bench.pki)
    bench.broker.app.reload()

    assert kept == bench.pki.first.certificate.serial_number
    assert [failures, mended, bench.failures] == [1, 1, 2]
    assert len(told) == 1
    assert f"{LISTENER}.{setting}: " in told[0]


async def test_the_next_good_files_are_used_after_bad_ones(bench: Bench) -> None:
    """A rotation caught half-way is made good by its other half."""
    server = bench.pki.server_ca.server()
    replace(bench.pki.files.certificate, server.pem)
    bench.broker.app.reload()
    between = await bench.serial()
    replace(bench.pki.files.private_key, server.key_pem)
    bench.broker.app.reload()

    assert between == bench.pki.first.certificate.serial_number
    assert await bench.serial() == server.certificate.serial_number
    assert bench.failures == 1


@pytest.mark.parametrize("case", ["certificate-expired", "key-of-another-certificate", "ca-missing"])
async def test_no_start_with_a_bad_file(tmp_path: Path, double: KmsDouble, pki: Pki, case: str) -> None:
    """Exit 1 and one line that names the setting; nothing listens meanwhile."""
    setting, spoil = BAD_FILES[case]
    spoil(pki)
    tls = 'tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }'
    config = settings_file(tmp_path / "keybroker.toml", double.endpoint, f'address = "tcp:127.0.0.1:0"\n{tls}')

    ended = await run("serve", "--config", config)

    assert ended.code == 1
    assert len(ended.told) == 1
    assert ended.told[0].startswith(f"listeners[0].tls.{setting}: ")


def test_grpc_is_given_a_change_once_and_otherwise_nothing(pki: Pki) -> None:
    """Every configuration given makes gRPC free the one before, which can crash it: grpc/grpc#36693."""
    certificates = Certificates(
        Tls.model_validate(pki.files.setting()), path=LISTENER, metrics=Metrics(), clock=SystemClock()
    )
    given = [certificates._changed()]
    for server in (pki.server_ca.server(), pki.server_ca.server()):
        pki.files.serve(server)
        certificates.reload()
        certificates.reload()
    given += [certificates._changed() for _ in range(3)]

    assert [bool(one) for one in given] == [False, True, False, False]
    assert given[1] is certificates._loaded.configuration
