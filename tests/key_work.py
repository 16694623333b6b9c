"""What a key does only with its own material: the proof that the very bytes were imported, and no others."""

import functools
import hashlib
import hmac
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

MESSAGE = b"what the imported key is used on"

_SYMMETRIC_BYTES = {"SYMMETRIC_DEFAULT": 32, "HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}
_RSA_BITS = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
_CURVES: dict[str, tuple[ec.EllipticCurve, str, HashAlgorithm]] = {
    "ECC_NIST_P256": (ec.SECP256R1(), "ECDSA_SHA_256", SHA256()),
    "ECC_NIST_P384": (ec.SECP384R1(), "ECDSA_SHA_384", SHA384()),
    "ECC_NIST_P521": (ec.SECP521R1(), "ECDSA_SHA_512", SHA512()),
    "ECC_SECG_P256K1": (ec.SECP256K1(), "ECDSA_SHA_256", SHA256()),
}

KEY_SPECS = (*_SYMMETRIC_BYTES, *_RSA_BITS, *_CURVES)
"""Every kind of key whose material can be imported outside China, in KMS's words."""


async def create_key(kms: Any, spec: str) -> str:
    """A key that waits for material of this kind; its ARN."""
    usage = "SIGN_VERIFY"
    if spec in _SYMMETRIC_BYTES:
        usage = "GENERATE_VERIFY_MAC" if spec.startswith("HMAC_") else "ENCRYPT_DECRYPT"
    arn: str = (await kms.create_key(Origin="EXTERNAL", KeySpec=spec, KeyUsage=usage))["KeyMetadata"]["Arn"]
    return arn


def new_material(spec: str) -> bytes:
    """Key material for a key of this spec, as KMS takes it; the same RSA key for all who ask for its size."""
    if spec in _SYMMETRIC_BYTES:
        return secrets.token_bytes(_SYMMETRIC_BYTES[spec])
    key = _rsa_key(_RSA_BITS[spec]) if spec in _RSA_BITS else ec.generate_private_key(_CURVES[spec][0])
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


async def assert_works_with(kms: Any, arn: str, spec: str, material: bytes) -> None:
    """Fails unless what the key computes is what this material computes."""
    if spec == "SYMMETRIC_DEFAULT":
        blob = (await kms.encrypt(KeyId=arn, Plaintext=MESSAGE))["CiphertextBlob"]
        assert open_symmetric(material, blob) == MESSAGE
    elif spec.startswith("HMAC_"):
        bits = spec.removeprefix("HMAC_")
        answer = await kms.generate_mac(KeyId=arn, Message=MESSAGE, MacAlgorithm=f"HMAC_SHA_{bits}")
        assert answer["Mac"] == hmac.digest(material, MESSAGE, f"sha{bits}")
    else:
        await _assert_signs_with(kms, arn, spec, material)


def open_symmetric(material: bytes, blob: bytes) -> bytes:
    """Open MiniStack's own symmetric ciphertext: 36 bytes key id, 32 bytes context digest, 16 bytes nonce, the rest."""
    nonce, encrypted = blob[68:84], blob[84:]
    seed = hashlib.sha256(material + json.dumps({}).encode() + nonce).digest()
    blocks = [hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(len(encrypted) // 32 + 1)]
    return bytes(a ^ b for a, b in zip(encrypted, b"".join(blocks), strict=False))


async def _assert_signs_with(kms: Any, arn: str, spec: str, material: bytes) -> None:
    own = load_der_private_key(material, password=None).public_key()
    if isinstance(own, rsa.RSAPublicKey):
        own.verify(await _sign(kms, arn, "RSASSA_PKCS1_V1_5_SHA_256"), MESSAGE, padding.PKCS1v15(), SHA256())
    elif isinstance(own, ec.EllipticCurvePublicKey):
        _, algorithm, digest = _CURVES[spec]
        own.verify(await _sign(kms, arn, algorithm), MESSAGE, ec.ECDSA(digest))
    spki = own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (await kms.get_public_key(KeyId=arn))["PublicKey"] == spki


async def _sign(kms: Any, arn: str, algorithm: str) -> bytes:
    signature: bytes = (await kms.sign(KeyId=arn, Message=MESSAGE, SigningAlgorithm=algorithm))["Signature"]
    return signature


@functools.cache
def _rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)
