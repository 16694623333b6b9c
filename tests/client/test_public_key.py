"""A wrapping public key is what was asked for, or nothing is wrapped under it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyimport import WrappingKeyRejected, WrappingKeySpec, check_public_key
from tests.client.conftest import SPECS

RSA_2048 = WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("spec", SPECS)
def test_a_key_of_the_asked_spec_passes(
    spec: WrappingKeySpec.ValueType, public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """What KMS sends is accepted, by value, by name, and where no spec is asked for."""
    for asked in (spec, WrappingKeySpec.Name(spec), WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED):
        assert check_public_key(public_keys[spec], asked).key_size == SPECS[spec]


@pytest.mark.parametrize("asked", SPECS)
@pytest.mark.parametrize("sent", SPECS)
def test_a_key_of_another_size_is_rejected(
    asked: WrappingKeySpec.ValueType,
    sent: WrappingKeySpec.ValueType,
    public_keys: dict[WrappingKeySpec.ValueType, bytes],
) -> None:
    """Neither a weaker nor a stronger key stands in for the one asked for."""
    if asked == sent:
        check_public_key(public_keys[sent], asked)
    else:
        with pytest.raises(WrappingKeyRejected, match=f"RSA key of {SPECS[sent]} bits"):
            check_public_key(public_keys[sent], asked)


@pytest.mark.parametrize("spec", [WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED, RSA_2048])
def test_a_key_of_1024_bits_is_rejected(spec: WrappingKeySpec.ValueType) -> None:
    """A key of no KMS spec is rejected, asked for or not."""
    weak = _spki(rsa.generate_private_key(65537, 1024).public_key())  # noqa: S505 -- the weak key is the point

    with pytest.raises(WrappingKeyRejected, match="1024 bits"):
        check_public_key(weak, spec)


def test_other_kinds_of_key_are_rejected() -> None:
    """A well-formed key that is not RSA is rejected."""
    for key in (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(WrappingKeyRejected, match="not an RSA key"):
            check_public_key(_spki(key.public_key()))


def test_a_small_exponent_is_rejected(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """The exponent 3 loads, and is rejected here."""
    modulus = check_public_key(public_keys[RSA_2048]).public_numbers().n

    with pytest.raises(WrappingKeyRejected, match="exponent"):
        check_public_key(_spki(rsa.RSAPublicNumbers(3, modulus).public_key()), RSA_2048)


def test_an_even_modulus_is_rejected(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """An even number loads as a modulus, and is rejected here."""
    even = check_public_key(public_keys[RSA_2048]).public_numbers().n - 1

    with pytest.raises(WrappingKeyRejected, match="even"):
        check_public_key(_spki(rsa.RSAPublicNumbers(65537, even).public_key()), RSA_2048)


def test_trailing_and_missing_bytes_are_rejected(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """Not one byte more or less than the key."""
    der = public_keys[RSA_2048]

    for damaged in (der + b"\0", der + der, der[:-1], b""):
        with pytest.raises(WrappingKeyRejected, match="no DER SubjectPublicKeyInfo"):
            check_public_key(damaged, RSA_2048)


def test_another_encoding_of_the_same_key_is_rejected(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """An SPKI without the NULL parameters RFC 3279 asks for would have another fingerprint than KMS's own."""
    der = public_keys[RSA_2048]
    body = der[4:].replace(
        bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d010101"), 1
    )

    with pytest.raises(WrappingKeyRejected, match="not encoded canonically"):
        check_public_key(b"\x30\x82" + len(body).to_bytes(2, "big") + body, RSA_2048)


def test_text_forms_of_a_key_are_rejected(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """PEM and base64, which people paste, are not DER."""
    key = check_public_key(public_keys[RSA_2048])
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    for text in (pem, b"".join(pem.splitlines()[1:-1])):
        with pytest.raises(WrappingKeyRejected, match="no DER SubjectPublicKeyInfo"):
            check_public_key(text, RSA_2048)


def test_a_spec_that_is_not_rsa_is_rejected(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """An RSA key does not pass for a spec this library cannot wrap under."""
    for spec in (WrappingKeySpec.WRAPPING_KEY_SPEC_SM2, WrappingKeySpec.ValueType(77)):
        with pytest.raises(WrappingKeyRejected, match=r"does not wrap under a key of spec (SM2|77)"):
            check_public_key(public_keys[RSA_2048], spec)
