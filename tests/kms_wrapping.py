"""Both sides of key wrapping: KMS's private keys, and what a caller does with the public ones."""

import asyncio
import functools
import itertools
import math
import secrets
import threading
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ALGORITHMS = ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256")
KEY_SIZES = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}

_EXPONENT = 65537
_generating = threading.Lock()


async def next_wrapping_key(size: int) -> rsa.RSAPrivateKey:
    """A key pair of that many bits; neighbours in the sequence always differ."""
    # OpenSSL lets go of the interpreter lock while it looks for primes, so the loop goes on meanwhile.
    return await asyncio.to_thread(_next, size)


def spki(key: rsa.RSAPrivateKey) -> bytes:
    """The public half as DER SubjectPublicKeyInfo, as KMS hands it out."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def wrap(public_key: bytes, algorithm: str, material: bytes) -> bytes:
    """Wrap key material for the holder of a DER SubjectPublicKeyInfo, as AWS's page on encrypting it says.

    Raises:
        ValueError: the material does not fit under this key.
    """
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("only RSA keys wrap")
    if not algorithm.startswith("RSA_AES_KEY_WRAP"):
        return key.encrypt(material, _oaep(algorithm))
    ephemeral = secrets.token_bytes(32)
    return key.encrypt(ephemeral, _oaep(algorithm)) + keywrap.aes_key_wrap_with_padding(ephemeral, material)


def unwrap(key: rsa.RSAPrivateKey, algorithm: str, wrapped: bytes) -> bytes:
    """Undo `wrap`.

    Raises:
        ValueError: it was wrapped under another key, with another algorithm, or was damaged.
    """
    if not algorithm.startswith("RSA_AES_KEY_WRAP"):
        return key.decrypt(wrapped, _oaep(algorithm))
    block = key.key_size // 8
    try:
        return keywrap.aes_key_unwrap_with_padding(key.decrypt(wrapped[:block], _oaep(algorithm)), wrapped[block:])
    except keywrap.InvalidUnwrap as error:
        raise ValueError("the AES layer does not open") from error


def _oaep(algorithm: str) -> padding.OAEP:
    # KMS uses the same hash for OAEP and for its mask: the usual stumbling stone of other tools.
    digest = hashes.SHA256() if algorithm.endswith("SHA_256") else hashes.SHA1()  # noqa: S303  KMS offers it
    return padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)


def _next(size: int) -> rsa.RSAPrivateKey:
    with _generating:
        return next(_keys(size))


@functools.cache
def _keys(size: int) -> Iterator[rsa.RSAPrivateKey]:
    # Finding primes is what costs. Two key pairs bring four primes, and every two of these make a modulus: six keys.
    pairs = [rsa.generate_private_key(public_exponent=_EXPONENT, key_size=size).private_numbers() for _ in range(2)]
    primes = [prime for numbers in pairs for prime in (numbers.p, numbers.q)]
    return itertools.cycle([_of_primes(p, q) for p, q in itertools.combinations(primes, 2)])


def _of_primes(p: int, q: int) -> rsa.RSAPrivateKey:
    d = pow(_EXPONENT, -1, math.lcm(p - 1, q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(e=_EXPONENT, n=p * q),
    )
    return numbers.private_key()
