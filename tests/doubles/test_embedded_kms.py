"""The embedded KMS comes up, does what the demo needs of it, and goes away."""

import asyncio
import hashlib
import hmac
import json
import secrets
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from demo.embedded_kms import ACCOUNT, EmbeddedKmsError, aws_environment, embedded_kms, kms_client
from tests.kms_wrapping import wrap

CURVES: dict[str, tuple[ec.EllipticCurve, str, HashAlgorithm]] = {
    "ECC_NIST_P256": (ec.SECP256R1(), "ECDSA_SHA_256", SHA256()),
    "ECC_NIST_P384": (ec.SECP384R1(), "ECDSA_SHA_384", SHA384()),
    "ECC_NIST_P521": (ec.SECP521R1(), "ECDSA_SHA_512", SHA512()),
    "ECC_SECG_P256K1": (ec.SECP256K1(), "ECDSA_SHA_256", SHA256()),
}
MESSAGE = b"what the imported key is used on"


async def test_comes_up_and_goes_away(tmp_path: Path) -> None:
    """An EXTERNAL key is created in the account that signs, and afterwards no one listens."""
    log = tmp_path / "kms.log"

    async with embedded_kms(log) as endpoint, kms_client(endpoint) as kms:
        metadata = (await kms.create_key(Origin="EXTERNAL"))["KeyMetadata"]

    assert metadata["KeyState"] == "PendingImport"
    assert metadata["Arn"].startswith(f"arn:aws:kms:us-east-1:{ACCOUNT}:key/")
    assert log.read_bytes()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) != 0


async def test_two_stand_side_by_side() -> None:
    """Each has its own port and its own keys; the access key id is the account, the client says the Region."""
    async with embedded_kms() as one, embedded_kms() as other, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(kms_client(endpoint, account, region))
            for endpoint, account, region in (
                (one, ACCOUNT, "us-east-1"),
                (one, "222233334444", "us-east-1"),
                (one, ACCOUNT, "eu-west-1"),
                (other, ACCOUNT, "us-east-1"),
            )
        ]
        arn = (await clients[0].create_key(Origin="EXTERNAL"))["KeyMetadata"]["Arn"]

        seen = [await _sees(client, arn) for client in clients]

    assert seen == [True, False, False, False]


async def test_says_why_it_did_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with the last words of the process."""
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho out of order\nexit 3\n")
    script.chmod(0o700)
    monkeypatch.setenv("KEYBROKER_EMBEDDED_KMS", str(script))

    with pytest.raises(EmbeddedKmsError, match=r"status 3(?s:.*)out of order"):
        async with embedded_kms():
            pass


async def test_says_that_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing executable is an error of its own kind."""
    monkeypatch.setenv("KEYBROKER_EMBEDDED_KMS", str(tmp_path / "nothing"))

    with pytest.raises(EmbeddedKmsError, match="does not run"):
        async with embedded_kms():
            pass


async def test_ends_with_the_task_that_needs_it(tmp_path: Path) -> None:
    """A cancelled user takes the process along."""
    up = asyncio.Event()
    endpoints: list[str] = []

    async def use() -> None:
        async with embedded_kms(tmp_path / "kms.log") as endpoint:
            endpoints.append(endpoint)
            up.set()
            await asyncio.Event().wait()

    user = asyncio.create_task(use())
    await asyncio.wait_for(up.wait(), 30)
    user.cancel()
    await asyncio.wait([user])

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(endpoints[0].rpartition(":")[2]))) != 0


async def test_uses_the_very_material() -> None:
    """Every kind of key can be imported, and what it then computes only the imported bytes explain."""
    async with embedded_kms() as endpoint, kms_client(endpoint) as kms:
        aes = secrets.token_bytes(32)
        arn = await _imported(kms, "SYMMETRIC_DEFAULT", aes, "RSAES_OAEP_SHA_256")
        blob = (await kms.encrypt(KeyId=arn, Plaintext=MESSAGE))["CiphertextBlob"]
        assert open_symmetric(aes, blob) == MESSAGE

        for bits in (224, 256, 384, 512):
            secret = secrets.token_bytes(bits // 8)
            arn = await _imported(kms, f"HMAC_{bits}", secret, "RSAES_OAEP_SHA_1", "GENERATE_VERIFY_MAC")
            mac = await kms.generate_mac(KeyId=arn, Message=MESSAGE, MacAlgorithm=f"HMAC_SHA_{bits}")
            assert mac["Mac"] == hmac.digest(secret, MESSAGE, f"sha{bits}")

        for bits in (2048, 3072, 4096):
            rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
            arn = await _imported(kms, f"RSA_{bits}", _pkcs8(rsa_key), "RSA_AES_KEY_WRAP_SHA_256", "SIGN_VERIFY")
            signature = await _sign(kms, arn, "RSASSA_PKCS1_V1_5_SHA_256")
            rsa_key.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), SHA256())
            assert (await kms.get_public_key(KeyId=arn))["PublicKey"] == _spki(rsa_key)

        for spec, (curve, algorithm, digest) in CURVES.items():
            ec_key = ec.generate_private_key(curve)
            arn = await _imported(kms, spec, _pkcs8(ec_key), "RSA_AES_KEY_WRAP_SHA_1", "SIGN_VERIFY")
            ec_key.public_key().verify(await _sign(kms, arn, algorithm), MESSAGE, ec.ECDSA(digest))
            assert (await kms.get_public_key(KeyId=arn))["PublicKey"] == _spki(ec_key)


def test_environment_names_the_account() -> None:
    """The access key id carries the account, and nothing points at anyone's own files."""
    environment = aws_environment("222233334444")

    assert environment["AWS_ACCESS_KEY_ID"] == "222233334444"
    assert environment["AWS_CONFIG_FILE"] == environment["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"


def open_symmetric(material: bytes, blob: bytes) -> bytes:
    """Open MiniStack's own symmetric ciphertext: 36 bytes key id, 32 bytes context digest, 16 bytes nonce, the rest."""
    nonce, encrypted = blob[68:84], blob[84:]
    seed = hashlib.sha256(material + json.dumps({}).encode() + nonce).digest()
    blocks = [hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(len(encrypted) // 32 + 1)]
    return bytes(a ^ b for a, b in zip(encrypted, b"".join(blocks), strict=False))


async def _sees(kms: Any, arn: str) -> bool:
    try:
        await kms.describe_key(KeyId=arn)
    except ClientError:
        return False
    return True


async def _imported(kms: Any, spec: str, material: bytes, algorithm: str, usage: str = "ENCRYPT_DECRYPT") -> str:
    arn: str = (await kms.create_key(Origin="EXTERNAL", KeySpec=spec, KeyUsage=usage))["KeyMetadata"]["Arn"]
    parameters = await kms.get_parameters_for_import(KeyId=arn, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048")
    await kms.import_key_material(
        KeyId=arn,
        ImportToken=parameters["ImportToken"],
        EncryptedKeyMaterial=wrap(parameters["PublicKey"], algorithm, material),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
    return arn


async def _sign(kms: Any, arn: str, algorithm: str) -> bytes:
    signature: bytes = (await kms.sign(KeyId=arn, Message=MESSAGE, SigningAlgorithm=algorithm))["Signature"]
    return signature


def _pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
