"""Checks on wrapping public keys: KMS does not sign them, so each must at least be what was asked for."""

from __future__ import annotations

import math

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keybroker.model import RSA_BITS, WrappingKeySpec

_RSA_EXPONENT = 65537
_SMALL_PRIMES = math.prod(p for p in range(3, 1000, 2) if all(p % d for d in range(3, math.isqrt(p) + 1, 2)))

# DER of everything before the point: SEQUENCE { SEQUENCE { ecPublicKey, sm2p256v1 }, BIT STRING 0x04 } (GB/T 32918.5).
_SM2_HEADER = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004")
_SM2_P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
_SM2_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93


def require_wrapping_key(der: bytes, key_spec: WrappingKeySpec) -> None:
    """Refuses a public key that is not exactly of the spec.

    pyca's loader takes an even modulus, any exponent, any size and other kinds of keys, so nothing is left to it.

    Args:
        der: DER SubjectPublicKeyInfo.
        key_spec: what was asked for.

    Raises:
        ValueError: says what is wrong with the key; never holds the key.
    """
    if key_spec is WrappingKeySpec.SM2:
        _require_sm2(der)
    else:
        _require_rsa(der, RSA_BITS[key_spec])


def _require_rsa(der: bytes, bits: int) -> None:
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("the public key is no SubjectPublicKeyInfo") from error
    if not isinstance(key, RSAPublicKey):
        raise ValueError("the public key is not RSA")  # noqa: TRY004 -- wrong data from outside, not a wrong argument
    numbers = key.public_numbers()
    if key.key_size != bits:
        raise ValueError(f"the RSA key has {key.key_size} bits, not {bits}")
    if numbers.e != _RSA_EXPONENT:
        raise ValueError("the RSA key's exponent is not 65537")
    if numbers.n % 2 == 0 or math.gcd(numbers.n, _SMALL_PRIMES) != 1:
        raise ValueError("the RSA key's modulus has a small factor")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
        raise ValueError("the public key is not in canonical DER")


def _require_sm2(der: bytes) -> None:
    header, point = der[: len(_SM2_HEADER)], der[len(_SM2_HEADER) :]
    if header != _SM2_HEADER or len(point) != 64:  # noqa: PLR2004 -- two coordinates of 32 bytes
        raise ValueError("the public key is not SM2")
    x, y = int.from_bytes(point[:32]), int.from_bytes(point[32:])
    if max(x, y) >= _SM2_P or (y * y - (x * x * x - 3 * x + _SM2_B)) % _SM2_P:
        raise ValueError("the SM2 key's point is not on the curve")
