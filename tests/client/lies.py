"""Answers that contradict the request or themselves: under none of these keys may anything be wrapped."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyimport.v1 import key_import_pb2 as pb
from tests.client.fake_broker import KEY_ARN

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = pb.GetParametersForImportResponse


def altered(**fields: Any) -> Callable[[Answer], None]:
    """The answer with other values in these fields."""

    def lie(answer: Answer) -> None:
        for name, value in fields.items():
            setattr(answer, name, value)

    return lie


def _public_key(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> Callable[[Answer], None]:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return altered(public_key=der, public_key_sha256=hashlib.sha256(der).digest())


def _numbers(e: int = 65537, n: int | None = None) -> Callable[[Answer], None]:
    sound = _RSA_4096.public_key().public_numbers().n
    return _public_key(rsa.RSAPublicNumbers(e=e, n=n or sound).public_key())


def _trailing_byte(answer: Answer) -> None:
    answer.public_key += b"\0"
    answer.public_key_sha256 = hashlib.sha256(answer.public_key).digest()


def _expires(answer: Answer, when: datetime) -> None:
    answer.parameters_valid_to.FromDatetime(when)


_RSA_4096 = rsa.generate_private_key(65537, 4096)
OTHER_KEY = KEY_ARN.replace("1234abcd", "99999999")
# For one who asked for RSAES_OAEP_SHA_256 under RSA_4096: the lie, and what the Python client says of it.
LIES: dict[str, tuple[Callable[[Answer], None], str]] = {
    "another key": (altered(key_arn=OTHER_KEY), "it is for .*99999999"),
    "no key": (altered(key_arn=""), "it is for ''"),
    "a key whose id only ends alike": (altered(key_arn=KEY_ARN.replace("key/", "key/mrk-")), "it is for"),
    "a weaker algorithm": (altered(wrapping_algorithm=2), "RSAES_OAEP_SHA_1 is not the wrapping algorithm asked for"),
    "no algorithm": (altered(wrapping_algorithm=0), "UNSPECIFIED is not the wrapping algorithm"),
    "another spec": (altered(wrapping_key_spec=1), "RSA_2048 is not the wrapping key spec asked for"),
    "no spec": (altered(wrapping_key_spec=0), "UNSPECIFIED is not the wrapping key spec"),
    "another fingerprint": (altered(public_key_sha256=bytes(32)), "SHA-256"),
    "no fingerprint": (altered(public_key_sha256=b""), "SHA-256"),
    "a smaller key": (_public_key(rsa.generate_private_key(65537, 2048).public_key()), "2048 bits"),
    "a key of another kind": (_public_key(ec.generate_private_key(ec.SECP256R1()).public_key()), "not an RSA key"),
    "an exponent of 3": (_numbers(e=3), "exponent is not 65537"),
    "an even modulus": (_numbers(n=(1 << 4095) + 2), "modulus is even"),
    "no public key": (altered(public_key=b"", public_key_sha256=hashlib.sha256(b"").digest()), "no DER"),
    "bytes after the key": (_trailing_byte, "no DER SubjectPublicKeyInfo"),
    "no token": (altered(import_token=b""), "token is empty"),
    "expired": (lambda answer: _expires(answer, datetime.now(UTC) - timedelta(seconds=1)), "it expired at 2"),
    "no expiry": (lambda answer: answer.ClearField("parameters_valid_to"), "it expired at 1970"),
    "an expiry that is no date": (lambda answer: setattr(answer.parameters_valid_to, "seconds", 2**62), "no date"),
}
