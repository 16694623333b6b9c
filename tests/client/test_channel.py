"""The client reaches the broker it was told of, over a channel that neither hides a retry nor can be listened to."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keyimport import KeyImportClient, KeyImportError, OutcomeUnknown
from keyimport.v1 import key_import_pb2_grpc
from tests.client.fake_broker import KEY_ARN, KEY_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.client.fake_broker import FakeBroker

GET, IMPORT = "GetParametersForImport", "ImportKeyMaterial"


@pytest.fixture
async def port(broker: FakeBroker) -> AsyncIterator[int]:
    """A loopback port on which the broker speaks plain text."""
    server = grpc.aio.server()
    key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(broker, server)
    yield await _start(server, server.add_insecure_port("127.0.0.1:0"))
    await server.stop(None)


@pytest.fixture(scope="module")
def identity() -> tuple[bytes, bytes]:
    """A private key and its own certificate for 127.0.0.1, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private_key, certificate.public_bytes(Encoding.PEM)


@pytest.fixture
async def tls_port(broker: FakeBroker, identity: tuple[bytes, bytes]) -> AsyncIterator[int]:
    """A port on which the broker asks for a client certificate."""
    server = grpc.aio.server()
    key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(broker, server)
    credentials = grpc.ssl_server_credentials([identity], identity[1], require_client_auth=True)
    yield await _start(server, server.add_secure_port("127.0.0.1:0", credentials))
    await server.stop(None)


async def _start(server: grpc.aio.Server, port: int) -> int:
    await server.start()
    return port


@pytest.mark.parametrize("form", ["tcp:127.0.0.1:{}", "127.0.0.1:{}", "tcp:localhost:{}"])
async def test_a_loopback_port_is_reached(form: str, port: int) -> None:
    """Both spellings of a TCP target mean the same."""
    async with KeyImportClient(form.format(port)) as client:
        assert (await client.get_parameters(KEY_ID)).key_arn == KEY_ARN


async def test_a_proxy_of_the_environment_is_not_asked(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy could answer in the broker's place, so none is used."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async with KeyImportClient(f"127.0.0.1:{port}") as client:
        assert (await client.get_parameters(KEY_ID)).key_arn == KEY_ARN


async def test_mutual_tls_reaches_the_broker(tls_port: int, identity: tuple[bytes, bytes]) -> None:
    """Credentials with a client certificate are all that mutual TLS needs."""
    private_key, certificate = identity
    credentials = grpc.ssl_channel_credentials(certificate, private_key, certificate)

    async with KeyImportClient(f"tcp:127.0.0.1:{tls_port}", credentials=credentials) as client:
        assert (await client.get_parameters(KEY_ID)).key_arn == KEY_ARN


async def test_a_broker_without_the_right_certificate_is_not_talked_to(
    tls_port: int, identity: tuple[bytes, bytes], broker: FakeBroker
) -> None:
    """A certificate the credentials do not trust ends the connection before the first request."""
    credentials = grpc.ssl_channel_credentials(private_key=identity[0], certificate_chain=identity[1])

    async with KeyImportClient(f"tcp:127.0.0.1:{tls_port}", credentials=credentials, timeout=2) as client:
        with pytest.raises(KeyImportError) as raised:
            await client.get_parameters(KEY_ID)

    assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    assert broker.calls == []


@pytest.mark.parametrize(
    "target",
    ["broker.internal:7443", "tcp:10.0.0.7:7443", "tcp:0.0.0.0:7443", "[2001:db8::1]:7443", "tcp:localhost.:1"],
)
def test_plain_text_off_this_machine_is_refused(target: str) -> None:
    """Without TLS anyone on the way could have key material wrapped for himself."""
    with pytest.raises(ValueError, match="needs TLS credentials"):
        KeyImportClient(target)

    KeyImportClient(target, credentials=grpc.ssl_channel_credentials())


@pytest.mark.parametrize("target", ["", "broker", "tcp:7443", "tcp::7443", "127.0.0.1:", "127.0.0.1:http"])
def test_a_target_that_is_none_is_refused(target: str) -> None:
    """A misspelt target is told at once, not as a failed connection."""
    with pytest.raises(ValueError, match="none of unix:PATH, tcp:HOST:PORT and HOST:PORT"):
        KeyImportClient(target)


@pytest.mark.parametrize("target", ["tcp:127.0.0.1:0", "127.0.0.1:65536", "tcp:[::1]:99999", "localhost:" + "9" * 4000])
def test_a_port_that_is_none_is_refused(target: str) -> None:
    """It would be taken for another, where somebody else may listen."""
    with pytest.raises(ValueError, match="has no port of 1 to 65535"):
        KeyImportClient(target)


@pytest.mark.parametrize("target", ["unix:", "unix://", "unix:" + "x" * 108, "unix:///" + "\u00e4" * 54])
def test_a_path_that_no_socket_has_is_refused(target: str) -> None:
    """None at all, or more bytes than the kernel takes."""
    with pytest.raises(ValueError, match="has no path of 1 to 107 bytes"):
        KeyImportClient(target)

    KeyImportClient("unix:" + "x" * 107)


def test_a_target_that_is_no_text_is_refused() -> None:
    """Such as a byte of another encoding, as Python has it from the command line."""
    with pytest.raises(ValueError, match="is no text"):
        KeyImportClient("unix:\udcff")


def test_a_unix_socket_takes_no_credentials() -> None:
    """Credentials that would not be used are refused rather than ignored."""
    with pytest.raises(ValueError, match="takes no TLS credentials"):
        KeyImportClient("unix:broker.sock", credentials=grpc.ssl_channel_credentials())


async def test_a_client_is_open_only_inside_its_block(address: str) -> None:
    """Before and after there is no channel, and inside there is one."""
    client = KeyImportClient(address)
    with pytest.raises(RuntimeError, match="async with"):
        await client.get_parameters(KEY_ID)

    await client.__aexit__(None, None, None)

    async with client:
        await client.get_parameters(KEY_ID)
        with pytest.raises(RuntimeError, match="open already"):
            await client.__aenter__()

    with pytest.raises(RuntimeError, match="async with"):
        await client.get_parameters(KEY_ID)


async def test_the_channel_closes_when_the_block_fails(address: str) -> None:
    """An error inside the block passes through, and leaves no channel behind."""
    client = KeyImportClient(address)

    with pytest.raises(LookupError):
        async with client:
            raise LookupError

    assert client._channel is None


async def test_no_broker_is_unavailable(socket: str) -> None:
    """A question that reached nobody is an error of no reason, and no unknown outcome."""
    async with KeyImportClient(socket, timeout=0.5) as client:
        with pytest.raises(KeyImportError) as raised:
            await client.import_key_material(KEY_ID, bytes(32), never_expires=True)

    assert type(raised.value) is KeyImportError
    assert (raised.value.reason, raised.value.code) == ("", grpc.StatusCode.UNAVAILABLE)


async def test_an_import_without_an_answer_has_an_unknown_outcome(broker: FakeBroker, address: str) -> None:
    """A timeout while the import is under way says neither that it was made nor that it was not."""
    broker.stalled = {IMPORT}

    async with KeyImportClient(address) as client:
        with pytest.raises(OutcomeUnknown) as raised:
            await client.import_key_material(KEY_ID, bytes(32), never_expires=True, timeout=0.3)

    assert (raised.value.reason, raised.value.code) == ("", grpc.StatusCode.DEADLINE_EXCEEDED)
    assert broker.calls == [GET, IMPORT]


async def test_the_clients_timeout_holds_where_the_call_names_none(broker: FakeBroker, address: str) -> None:
    """Each call tells the broker how long it has: the client's seconds, or its own."""
    async with KeyImportClient(address, timeout=70) as client:
        await client.get_parameters(KEY_ID)
        await client.discard(KEY_ID, b"token")
        await client.delete_imported_key_material(KEY_ID, timeout=7)

    assert [round(timeout) for timeout in broker.timeouts] == [70, 70, 7]


async def test_one_timeout_spans_the_whole_import(broker: FakeBroker, address: str) -> None:
    """What getting parameters took is no longer there for the import."""
    broker.pause = 0.3

    async with KeyImportClient(address) as client:
        await client.import_key_material(KEY_ID, bytes(32), never_expires=True, timeout=9)

    first, second = broker.timeouts
    assert second < first - 0.2


async def test_a_message_of_absurd_size_is_not_read(broker: FakeBroker, address: str) -> None:
    """A broker gone mad cannot fill the caller's memory."""
    broker.lie = lambda answer: setattr(answer, "import_token", bytes(70_000))

    async with KeyImportClient(address) as client:
        with pytest.raises(KeyImportError) as raised:
            await client.get_parameters(KEY_ID)

    assert raised.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
