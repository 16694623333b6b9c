"""What a network sends that means no good: refused or bounded, and those who mean well do not notice."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from demo.broker_process import broker_process
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import Authority, Identity, TlsFiles, tls_channel
from tests.conftest import refusal_of
from tests.keybroker_process import settings_file, unix
from tests.kms_double import kms_double

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

# One process for all tests, and so one loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 30.0  # seconds, on a busy machine
ATTACK = 0.4  # seconds that an attack goes on, on as many connections, one after the other, as it takes
GROWTH = 200 * 1024  # KiB
CONNECTIONS = 64
NOBODY = b"The caller has no identity this broker accepts."

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
CANCEL = struct.pack(">I", 8)
INITIAL_WINDOW_SIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A broker process with two TLS listeners, the second for TLS 1.3 alone."""

    process: Process
    double: Any
    port: int
    strict_port: int
    server_ca: Authority
    client: Identity
    arn: str
    directory: Path

    def channel(self) -> grpc.aio.Channel:
        """A good client's channel."""
        return tls_channel(self.port, self.server_ca, self.client)

    def context(self, client: Identity | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client's TLS, of one version if it says so."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.server_ca.pem.decode())
        context.set_alpn_protocols(["h2"])
        if version:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # that they are old is why
                context.set_ciphers("DEFAULT@SECLEVEL=0")
                context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
                context.minimum_version = version
        if client:
            (self.directory / "client.pem").write_bytes(client.pem)
            (self.directory / "client.key").write_bytes(client.key_pem)
            context.load_cert_chain(self.directory / "client.pem", self.directory / "client.key")
        return context

    def memory(self) -> int:
        """What the process has in memory, in KiB."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:  # noqa: PTH123 -- no file of ours
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    def audited(self) -> list[dict[str, Any]]:
        """The audit so far."""
        return [json.loads(line) for line in (self.directory / "audit.jsonl").read_text().splitlines()]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One process for all tests of this file; it must be there at the end."""
    directory = tmp_path_factory.mktemp("abuse")
    server_ca, ca = Authority("server CA"), Authority("client CA")
    TlsFiles.write(directory, server_ca.server(), ca)
    port, strict_port = _free_ports()
    tls = 'certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem"'
    async with kms_double() as double:
        config = settings_file(
            directory / "keybroker.toml",
            double.endpoint,
            unix(directory / "broker.sock"),
            f'address = "tcp:127.0.0.1:{port}"\ntls = {{ {tls} }}',
            f'address = "tcp:127.0.0.1:{strict_port}"\ntls = {{ {tls}, minimum_version = "1.3" }}',
            more=f'[limits]\nconnections = {CONNECTIONS}\n[audit]\nfile = "{directory}/audit.jsonl"\n'
            '[[callers]]\nid = "spiffe://corp.example/ns/*/sa/*"\noperations = ["GetParametersForImport"]\n'
            'keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]\n',
        )
        log = directory / "broker.log"
        async with broker_process(config, f"unix:{directory}/broker.sock", log=log) as process:
            yield Bench(
                process=process,
                double=double,
                port=port,
                strict_port=strict_port,
                server_ca=server_ca,
                client=ca.client(),
                arn=double.add_key(),
                directory=directory,
            )
            assert process.returncode is None, log.read_text()
        assert process.returncode == 0


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _request(arn: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)


def _get(channel: grpc.aio.Channel, arn: str, **options: Any) -> Any:
    stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
    return stub.GetParametersForImport(_request(arn), timeout=PATIENCE, **options)


@dataclass(slots=True)
class Legitimate:
    """A caller on a connection of its own that just wants to be served."""

    served: int = 0
    failed: list[str] = field(default_factory=list)

    async def call(self, bench: Bench) -> None:
        """Calls without end."""
        async with bench.channel() as channel:
            while True:
                try:
                    await _get(channel, bench.arn)
                    self.served += 1
                except grpc.aio.AioRpcError as error:
                    self.failed.append(f"{error.code()} {error.details()}")
                await asyncio.sleep(0.01)


@asynccontextmanager
async def _undisturbed(bench: Bench) -> AsyncIterator[Legitimate]:
    """Within the block a legitimate caller is served at every call, memory is bounded; after it anyone is served."""
    caller = Legitimate()
    before = bench.memory()
    calling = asyncio.create_task(caller.call(bench))
    while not caller.served and not caller.failed:
        await asyncio.sleep(0.01)
    served = caller.served
    try:
        yield caller
        grown = bench.memory() - before
        while caller.served == served and not caller.failed:
            await asyncio.sleep(0.01)
    finally:
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling
    async with bench.channel() as channel:
        await _get(channel, bench.arn)
    print(f"{caller.served - served} calls served meanwhile, {grown} KiB grown")
    assert caller.failed == []
    assert grown < GROWTH
    assert bench.process.returncode is None


@asynccontextmanager
async def _connection(
    port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("localhost", port, family=socket.AF_INET, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _answer(port: int, *sent: bytes) -> bytes:
    """What comes back on a TCP connection until it is closed."""
    async with _connection(port) as (reader, writer):
        writer.write(b"".join(sent))
        try:
            async with asyncio.timeout(PATIENCE):
                return await reader.read(-1)
        except ConnectionError:
            return b""


def _client_hello(bench: Bench, version: ssl.TLSVersion) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = bench.context(None, version).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_tls_of_before_1_2_is_not_spoken(bench: Bench, version: ssl.TLSVersion) -> None:
    """A hello that offers nothing newer gets an alert at most, and never a hello."""
    hello = _client_hello(bench, version)
    async with _undisturbed(bench):
        answer = await _answer(bench.port, hello)

    assert hello[0] == 0x16
    assert answer[:1] in (b"", b"\x15")


@pytest.mark.parametrize(
    ("version", "strict", "served"),
    [
        (ssl.TLSVersion.TLSv1_2, False, True),
        (ssl.TLSVersion.TLSv1_3, False, True),
        (ssl.TLSVersion.TLSv1_2, True, False),
        (ssl.TLSVersion.TLSv1_3, True, True),
    ],
)
async def test_the_floor_is_the_settings(bench: Bench, version: ssl.TLSVersion, strict: bool, served: bool) -> None:
    """TLS 1.2 is served unless minimum_version is 1.3; then its callers are nobody, at every call."""
    port = bench.strict_port if strict else bench.port
    lines = len(bench.audited())
    async with _connection(port, bench.context(bench.client, version)) as (reader, writer):
        writer.write(PREFACE + _frame(SETTINGS) + _call(1, bench.arn) + _call(3, bench.arn))
        answer = await _ended(reader, streams=2)
    written = [(line["code"], line.get("reason")) for line in bench.audited()[lines:]]

    if served:
        assert bench.arn.encode() in answer
        assert written == [("OK", None)] * 2
    else:
        assert NOBODY in answer
        assert bench.arn.encode() not in answer
        assert written == [("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")] * 2


@pytest.mark.parametrize(
    "sent",
    [
        PREFACE + b"\0\0\0\4\0\0\0\0\0",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(1000),
        b"\x16\x03\x03\x40\x01" + b"\x01" * 0x4001,
        b"\x80\x2e\x01\x00\x02" + bytes(41),
        bytes(range(256)) * 64,
    ],
    ids=["http2-preface", "http1", "record-too-long", "record-just-too-long", "sslv2-hello", "noise"],
)
async def test_plain_text_to_a_tls_port_gets_nothing(bench: Bench, sent: bytes) -> None:
    """The connection is closed, with an alert at most."""
    async with _undisturbed(bench):
        answer = await _answer(bench.port, sent)

    assert answer[:1] in (b"", b"\x15")


async def test_a_grpc_client_without_tls_finds_nobody(bench: Bench) -> None:
    """UNAVAILABLE, and the broker has not seen a call."""
    lines = len(bench.audited())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.port}") as channel:
        refused = await refusal_of(_get(channel, bench.arn))

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert len(bench.audited()) == lines


async def test_handshakes_without_a_certificate_are_cheap(bench: Bench) -> None:
    """Hundreds of them reach no HTTP/2, are not remembered, and hinder nobody."""
    context = bench.context(None)

    async def shake() -> bytes:
        async with _connection(bench.port, context) as (reader, _):
            with suppress(OSError):
                return await reader.read(1)
            return b""

    async with _undisturbed(bench):
        answers = [await shake() for _ in range(400)]

    assert set(answers) == {b""}


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes([size])
    size -= 0x7F
    more = bytearray()
    while size >= 0x80:
        more.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([0x7F, *more, size])


_REQUEST_HEADERS = b"".join(
    _literal(name, value)
    for name, value in {
        b":method": b"POST",
        b":scheme": b"https",
        b":path": b"/keyimport.v1.KeyImportService/GetParametersForImport",
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }.items()
)


def _open(stream: int) -> bytes:
    return _frame(HEADERS, END_HEADERS, stream, _REQUEST_HEADERS)


def _call(stream: int, arn: str) -> bytes:
    message = _request(arn).SerializeToString()
    return _open(stream) + _frame(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message)


async def _ended(reader: asyncio.StreamReader, *, streams: int) -> bytes:
    """What comes until so many streams have ended, all frames' payloads in a row."""
    seen = b""
    async with asyncio.timeout(PATIENCE):
        while streams:
            header = await reader.readexactly(9)
            seen += await reader.readexactly(int.from_bytes(header[:3], "big"))
            streams -= header[3] in (DATA, HEADERS) and bool(header[4] & END_STREAM)
    return seen


def _streams(count: int) -> Iterable[int]:
    return range(1, 2 * count, 2)


# What one authenticated client sends once the handshake is over.
ATTACKS: Mapping[str, Callable[[Bench], Iterable[bytes]]] = {
    "rapid-reset": lambda _: (_open(stream) + _frame(RST_STREAM, 0, stream, CANCEL) for stream in _streams(5000)),
    "rapid-reset-of-whole-calls": lambda bench: (
        _call(stream, bench.arn) + _frame(RST_STREAM, 0, stream, CANCEL) for stream in _streams(3000)
    ),
    "streams-without-end": lambda _: (_open(stream) for stream in _streams(3000)),
    "answers-nobody-reads": lambda bench: (
        _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)) * (stream == 1) + _call(stream, bench.arn)
        for stream in _streams(3000)
    ),
    "headers-without-end": lambda _: (
        _frame(HEADERS, 0, 1, _REQUEST_HEADERS)
        if number == 0
        else _frame(CONTINUATION, 0, 1, _literal(b"x-%d" % number, b"y" * 1000))
        for number in range(5000)
    ),
    "header-of-its-own-name-repeated": lambda _: (
        # Put once into the compression table, then named a thousand times by a single byte each.
        _frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x40" + _literal(b"x", b"y" * 3000)[1:] + b"\xbe" * 1000)
        for stream in _streams(300)
    ),
    "pings": lambda _: (_frame(PING, 0, 0, bytes(8)) for _ in range(20_000)),
    "settings": lambda _: (_frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) for _ in range(20_000)),
    "priorities": lambda _: (_frame(PRIORITY, 0, stream, bytes(5)) for stream in _streams(20_000)),
    "empty-data": lambda _: (_open(1) if number == 0 else _frame(DATA, 0, 1) for number in range(20_000)),
    "unknown-frames": lambda _: (_frame(0xFA, 0xFF, 1, bytes(100)) for _ in range(20_000)),
    "frame-too-large": lambda _: iter([_open(1), _frame(DATA, 0, 1, bytes(16_384 + 1))]),
    "frame-far-too-large": lambda _: iter([_open(1), b"\xff\xff\xff\0\0\0\0\0\1" + bytes(1 << 20)]),
    "headers-frame-too-large": lambda _: iter([_frame(HEADERS, END_HEADERS, 1, bytes(1 << 20))]),
    "message-that-lies-about-its-length": lambda _: iter(
        [_open(1), _frame(DATA, END_STREAM, 1, b"\0\xff\xff\xff\xff" + bytes(100))]
    ),
    "window-overflow": lambda _: iter([_open(1), _frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 3]),
    "broken-header-compression": lambda _: iter([_frame(HEADERS, END_HEADERS, 1, b"\xff" * 200)]),
    "even-stream": lambda _: iter([_open(2)]),
}


@pytest.mark.parametrize("listening", [True, False], ids=["listening", "deaf"])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_attack_over_http2_is_bounded(bench: Bench, attack: str, listening: bool) -> None:
    """By a client with a good certificate, even: others' calls all succeed, and memory does not run away."""
    context = bench.context(bench.client)
    async with _undisturbed(bench):
        calls = len(bench.double.calls)
        assault = Assault(port=bench.port, context=context, listening=listening)
        await asyncio.to_thread(assault.repeat, lambda: ATTACKS[attack](bench))

    print(f"{attack}: {assault.connections} connections, {assault.frames} frames")
    assert len(bench.double.calls) == calls
    assert assault.frames > 0


@dataclass(slots=True, kw_only=True)
class Assault:
    """Sends it all, or what the broker lets be sent, again and again, from a thread of its own.

    Attributes:
        listening: whether it reads what the broker answers, which otherwise piles up.
    """

    port: int
    context: ssl.SSLContext
    listening: bool
    connections: int = 0
    frames: int = 0

    def repeat(self, attack: Callable[[], Iterable[bytes]]) -> None:
        """For ATTACK seconds, on one connection after the other."""
        end = time.monotonic() + ATTACK
        while time.monotonic() < end:
            with (
                suppress(OSError),  # the broker has hung up
                socket.create_connection(("localhost", self.port), timeout=ATTACK) as plain,
                self.context.wrap_socket(plain, server_hostname="localhost") as tls,
            ):
                self.connections += 1
                tls.sendall(PREFACE + _frame(SETTINGS))
                self._flood(tls, attack(), end)

    def _flood(self, tls: ssl.SSLSocket, frames: Iterable[bytes], end: float) -> None:
        for frame in frames:
            tls.settimeout(ATTACK)
            tls.sendall(frame)
            self.frames += 1
            if self.listening:
                tls.settimeout(0)
                with suppress(ssl.SSLWantReadError):
                    while tls.recv(65_536):
                        pass
            if time.monotonic() > end:
                return


@pytest.mark.parametrize(
    ("metadata", "size", "code"),
    [
        (4 * 1024, 0, grpc.StatusCode.OK),
        (64 * 1024, 0, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (0, 64 * 1024, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (0, 8 * 1024 * 1024, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_is_too_large_is_refused(bench: Bench, metadata: int, size: int, code: grpc.StatusCode) -> None:
    """By gRPC, before it is a request: metadata beyond 16 KiB, a message beyond 64 KiB."""
    request = _request(bench.arn + "x" * size)
    lines = len(bench.audited())
    async with _undisturbed(bench), bench.channel() as channel:
        stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
        call = stub.GetParametersForImport(request, metadata=[("x-padding", "y" * metadata)], timeout=PATIENCE)
        ended = await call.code()

    assert ended is code
    assert {line["code"] for line in bench.audited()[lines:]} == {"OK"}


async def test_a_compressed_bomb_is_refused(bench: Bench) -> None:
    """The limit of a message holds for what it unpacks to."""
    request = pb.GetParametersForImportRequest(key_id="0" * (3 * 1024 * 1024))
    async with _undisturbed(bench), bench.channel() as channel:
        stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
        refused = await refusal_of(stub.GetParametersForImport(request, compression=grpc.Compression.Gzip))

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_idle_connections_are_bounded_and_make_way(bench: Bench) -> None:
    """Whoever connects and says nothing takes no more than the limit's places, and those for some seconds only."""
    async with _undisturbed(bench) as caller:
        idle = [await asyncio.open_connection("127.0.0.1", bench.port) for _ in range(3 * CONNECTIONS)]
        await asyncio.sleep(0.5)
        open_at_first = sum(not reader.at_eof() for reader, _ in idle)
        served = caller.served
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(_closed(reader) for reader, _ in idle))
        meanwhile = caller.served - served
        for _, writer in idle:
            writer.transport.abort()

    assert open_at_first <= CONNECTIONS
    assert meanwhile > 10


async def _closed(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        assert await reader.read() == b""


async def test_a_handshake_that_stops_half_way_is_cut_off(bench: Bench) -> None:
    """A hello that comes byte by byte is not waited for beyond the limit of a handshake."""
    hello = _client_hello(bench, ssl.TLSVersion.TLSv1_3)
    async with _undisturbed(bench), _connection(bench.port) as (reader, writer):
        dripping = asyncio.create_task(_drip(writer, hello))
        async with asyncio.timeout(PATIENCE):
            await _closed(reader)
        dripping.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await dripping


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> Awaitable[None] | None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.2)
    return None
