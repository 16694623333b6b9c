"""What one language wraps, every other unwraps; and so do openssl and the vectors of NIST, which are not ours."""

from __future__ import annotations

import base64
import secrets
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.client import openssl
from tests.conformance.drivers import LANGUAGES
from tests.kms_wrapping import next_wrapping_key, spki, unwrap

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.conformance.conftest import Marks
    from tests.conformance.drivers import Driver

ALGORITHMS = ("RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1")
BITS = (2048, 3072, 4096)
OPENSSL_MOST = 4080  # `openssl enc` opens no more in one piece; the longest that KMS takes is an RSA key of 2,375 bytes
VECTORS = Path(*cryptography_vectors.__path__) / "keywrap" / "kwtestvectors" / "KWP_AE_256.txt"


def _lengths(algorithm: str, bits: int) -> tuple[int, ...]:
    """From the shortest to the longest that fits, and those about a block of AES key wrap."""
    if algorithm.startswith("RSA_AES_KEY_WRAP"):
        return (16, 17, 32, 33, 1217, 2375, (6144 - bits // 8) // 8 * 8 - 8)
    return (1, 28, 32, 64, 138, bits // 8 - 2 * (32 if algorithm.endswith("256") else 20) - 2)


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _pkcs8(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_one_wraps_every_other_unwraps(
    drivers: dict[str, Driver], marks: Marks, tmp_path: Path, algorithm: str, language: str
) -> None:
    """For each size of wrapping key and lengths up to the limit: the very bytes, in all languages and in openssl."""
    pem = tmp_path / "key.pem"
    for bits, length in [(size, length) for size in BITS for length in _lengths(algorithm, size)]:
        key, material = await next_wrapping_key(bits), secrets.token_bytes(length)
        sent = {"public_key": _encoded(spki(key)), "wrapping_key_spec": f"RSA_{bits}", "material": _encoded(material)}

        answer = await drivers[language].do({"do": "wrap", "wrapping_algorithm": algorithm, **sent})

        wrapped = answer["ok"]["wrapped"]
        assert unwrap(key, algorithm, base64.b64decode(wrapped)) == material
        pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        if length <= OPENSSL_MOST:
            assert openssl.unwrap(base64.b64decode(wrapped), private_key=pem, algorithm=algorithm) == material
        for other in LANGUAGES:
            back = {"do": "unwrap", "private_key": _encoded(_pkcs8(key)), "wrapping_algorithm": algorithm}
            assert await drivers[other].do(back | {"wrapped": wrapped}) == {"ok": {"material": _encoded(material)}}
            marks.mark(f"{algorithm:<25}unwrapped by {other}", language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_no_two_wrappings_are_alike(drivers: dict[str, Driver], algorithm: str, language: str) -> None:
    """Neither OAEP's seed nor the AES key is ever used again."""
    key, material = await next_wrapping_key(2048), _encoded(bytes(32))
    request = {"do": "wrap", "public_key": _encoded(spki(key)), "wrapping_algorithm": algorithm, "material": material}

    wrapped = [base64.b64decode((await drivers[language].do(request))["ok"]["wrapped"]) for _ in range(20)]

    assert len({blob[:256] for blob in wrapped}) == 20
    assert algorithm.startswith("RSAES") or len({blob[256:] for blob in wrapped}) == 20


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("algorithm", "bits"), list(product(ALGORITHMS, BITS)))
async def test_a_byte_more_than_fits_is_refused(
    drivers: dict[str, Driver], algorithm: str, bits: int, language: str
) -> None:
    """And the most that fits is not."""
    key, most = await next_wrapping_key(bits), _lengths(algorithm, bits)[-1]
    request = {"do": "wrap", "public_key": _encoded(spki(key)), "wrapping_algorithm": algorithm}

    fits = await drivers[language].do(request | {"material": _encoded(bytes(most))})
    does_not = await drivers[language].do(request | {"material": _encoded(bytes(most + 1))})

    assert "ok" in fits
    assert does_not["error"]["type"] == "MaterialUnsuitable"


def _vectors() -> list[dict[str, bytes]]:
    vectors: list[dict[str, bytes]] = []
    for line in VECTORS.read_text().splitlines():
        name, equals, value = line.partition(" = ")
        if equals and name == "COUNT":
            vectors.append({})
        elif equals and vectors and name in {"K", "P", "C"}:
            vectors[-1][name] = bytes.fromhex(value)
    return vectors


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_aes_step_agrees_with_nist(drivers: dict[str, Driver], marks: Marks, language: str) -> None:
    """CAVP's vectors of KWP-AE with AES-256: of the same AES key and material, what follows the RSA block is C."""
    vectors = _vectors()
    requests = [{"do": "aes_key_wrap", "key": _encoded(each["K"]), "material": _encoded(each["P"])} for each in vectors]

    answers = [await drivers[language].do(request) for request in requests]

    assert len(vectors) == 500
    assert answers == [{"ok": {"wrapped": _encoded(each["C"])}} for each in vectors]
    marks.mark("the vectors of NIST for AES key wrap with padding", language)
