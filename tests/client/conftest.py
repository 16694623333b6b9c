"""Keys made once for all tests, and a client connected to a broker of its own."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keyimport import KeyImportClient, WrappingAlgorithm, WrappingKeySpec
from keyimport.v1 import key_import_pb2_grpc
from tests.client.fake_broker import FakeBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

SPECS = {
    WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048: 2048,
    WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072: 3072,
    WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096: 4096,
}


@pytest.fixture(scope="session")
def private_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[WrappingKeySpec.ValueType, Path]:
    """A wrapping private key of each spec, in a PEM file."""
    folder = tmp_path_factory.mktemp("wrapping")
    files = {}
    for spec, bits in SPECS.items():
        key = rsa.generate_private_key(65537, bits)
        files[spec] = folder / f"{bits}.pem"
        files[spec].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        files[spec].with_suffix(".der").write_bytes(public_key)
    return files


@pytest.fixture(scope="session")
def public_keys(private_keys: dict[WrappingKeySpec.ValueType, Path]) -> dict[WrappingKeySpec.ValueType, bytes]:
    """The wrapping public key of each spec, DER SubjectPublicKeyInfo."""
    return {spec: file.with_suffix(".der").read_bytes() for spec, file in private_keys.items()}


@pytest.fixture(scope="session")
def materials() -> dict[str, bytes]:
    """Key material of every kind that KMS imports outside China, by the word of the key's spec."""
    return {
        "AES_256": secrets.token_bytes(32),
        "HMAC_224": secrets.token_bytes(28),
        "HMAC_256": secrets.token_bytes(32),
        "HMAC_384": secrets.token_bytes(48),
        "HMAC_512": secrets.token_bytes(64),
        "RSA_2048": _pkcs8(rsa.generate_private_key(65537, 2048)),
        "RSA_3072": _pkcs8(rsa.generate_private_key(65537, 3072)),
        "RSA_4096": _pkcs8(rsa.generate_private_key(65537, 4096)),
        "ECC_NIST_P256": _pkcs8(ec.generate_private_key(ec.SECP256R1())),
        "ECC_NIST_P384": _pkcs8(ec.generate_private_key(ec.SECP384R1())),
        "ECC_NIST_P521": _pkcs8(ec.generate_private_key(ec.SECP521R1())),
        "ECC_SECG_P256K1": _pkcs8(ec.generate_private_key(ec.SECP256K1())),
    }


@pytest.fixture
def broker(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> FakeBroker:
    """A broker with one key that hands out what the strictest policy would."""
    return FakeBroker(
        public_keys=public_keys,
        default=(
            WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256,
            WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096,
        ),
    )


@pytest.fixture
def socket() -> Iterator[str]:
    """The address of a Unix socket, short enough for the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"unix:{Path(folder, 'broker.sock')}"


@pytest.fixture
async def address(broker: FakeBroker, socket: str) -> AsyncIterator[str]:
    """Where the broker listens."""
    server = grpc.aio.server()
    key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(broker, server)
    server.add_insecure_port(socket)
    await server.start()
    yield socket
    await server.stop(None)


@pytest.fixture
async def client(address: str) -> AsyncIterator[KeyImportClient]:
    """A client connected to the broker."""
    async with KeyImportClient(address, timeout=10) as connected:
        yield connected


def _pkcs8(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
