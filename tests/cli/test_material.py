"""Key material in every form that people keep it in becomes what KMS takes, or is refused by its kind."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from keyimport import MaterialUnsuitable
from keyimport.material import KEY_SPECS, Form, check_kind, decode, generate
from tests.client import openssl
from tests.key_work import KEY_SPECS as ALL_KEY_SPECS

SECRET = b"open sesame"
CANARY = b"canary in plain text, 32 bytes.."
KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
    "RSA_2048": rsa.generate_private_key(65537, 2048),
    "ECC_NIST_P256": ec.generate_private_key(ec.SECP256R1()),
    "ECC_SECG_P256K1": ec.generate_private_key(ec.SECP256K1()),
}
PLAIN, LOCKED = NoEncryption(), BestAvailableEncryption(SECRET)


def _never() -> bytes:
    raise AssertionError("nobody is asked for a passphrase that is not needed")


def test_every_spec_that_can_be_imported_is_known() -> None:
    """The kinds of key material here are those that the tests import."""
    assert sorted(KEY_SPECS) == sorted(ALL_KEY_SPECS)


@pytest.mark.parametrize("key_spec", KEY_SPECS)
def test_what_is_generated_is_of_its_kind_and_no_other(key_spec: str) -> None:
    """Fresh material passes the check for its key, and for no key of another kind."""
    material = generate(key_spec)

    fitting = set()
    for other in KEY_SPECS:
        try:
            check_kind(material, other)
        except MaterialUnsuitable:
            continue
        fitting.add(other)
    assert fitting == ({"SYMMETRIC_DEFAULT", "HMAC_256"} if len(material) == 32 else {key_spec})
    check_kind(material, "")


@pytest.mark.parametrize("encryption", [PLAIN, LOCKED], ids=["plain", "encrypted"])
@pytest.mark.parametrize("private_format", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("key_spec", KEYS)
def test_a_pem_key_becomes_pkcs8(
    key_spec: str, private_format: PrivateFormat, encryption: KeySerializationEncryption
) -> None:
    """PKCS#8, PKCS#1 and SEC1, encrypted or not, are the same key material."""
    key = KEYS[key_spec]
    text = key.private_bytes(Encoding.PEM, private_format, encryption)

    material = decode(text, Form.PEM, passphrase=_never if encryption is PLAIN else lambda: SECRET)

    assert material == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, PLAIN)
    check_kind(material, key_spec)


@pytest.mark.parametrize("private_format", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_der_key_becomes_pkcs8(private_format: PrivateFormat) -> None:
    """The older forms are converted, though they are called pkcs8."""
    key = KEYS["RSA_2048"]

    material = decode(key.private_bytes(Encoding.DER, private_format, PLAIN), Form.PKCS8, passphrase=_never)

    assert material == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, PLAIN)


def test_an_encrypted_der_key_is_opened() -> None:
    """The passphrase is asked for once."""
    key = KEYS["ECC_NIST_P256"]

    material = decode(
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, LOCKED), Form.PKCS8, passphrase=lambda: SECRET
    )

    assert material == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, PLAIN)


def test_what_openssl_ecparam_writes_is_read() -> None:
    """The curve's name before the key is passed over."""
    text = openssl.run("ecparam", "-name", "secp384r1", "-genkey")
    assert text.startswith(b"-----BEGIN EC PARAMETERS-----")

    check_kind(decode(text, Form.PEM, passphrase=_never), "ECC_NIST_P384")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (CANARY.hex().encode(), Form.HEX),
        (CANARY.hex(" ", 2).upper().encode() + b"\r\n", Form.HEX),
        (base64.b64encode(CANARY), Form.BASE64),
        (base64.encodebytes(CANARY * 4), Form.BASE64),
    ],
)
def test_text_becomes_bytes(text: bytes, form: Form) -> None:
    """Lines and blanks are none of the key."""
    assert decode(text, form, passphrase=_never) in (CANARY, CANARY * 4)


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.RAW])
@pytest.mark.parametrize("content", [b"", CANARY, b"\xff\x00", b"-----BEGIN canary-----", b"canary?" * 100])
def test_what_is_not_of_the_form_is_refused_without_being_shown(content: bytes, form: Form) -> None:
    """Neither the message nor its causes quote the key material."""
    with pytest.raises(MaterialUnsuitable) as refused:
        decode(content, form, passphrase=_never)

    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("material", "key_spec", "sentence"),
    [
        (bytes(31), "SYMMETRIC_DEFAULT", "takes 32 bytes, not 31"),
        (bytes(32), "HMAC_512", "takes 64 bytes, not 32"),
        (CANARY + b"\r\n", "SYMMETRIC_DEFAULT", "line feed"),
        (CANARY.hex().encode(), "SYMMETRIC_DEFAULT", "64 bytes of hexadecimal text need --form hex"),
        (base64.b64encode(CANARY), "HMAC_256", "44 bytes of base64 text need --form base64"),
        (generate("ECC_NIST_P256"), "ECC_NIST_P384", "not ECC_NIST_P256"),
        (generate("RSA_2048"), "RSA_4096", "not RSA_2048"),
        (bytes(32), "RSA_2048", "not 32 bytes of something else"),
        (KEYS["RSA_2048"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN), "RSA_2048", "--form pem"),
        (KEYS["RSA_2048"].private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, PLAIN), "RSA_2048", "PKCS#1"),
        (KEYS["RSA_2048"].private_bytes(Encoding.DER, PrivateFormat.PKCS8, LOCKED), "RSA_2048", "encrypted"),
        (
            ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, PLAIN),
            "ECC_NIST_P256",
            "Ed25519",
        ),
        (CANARY.hex().encode() + b"\n", "", "--form hex"),
        (bytes(31), "", "28, 32, 48 or 64 bytes or a private key"),
    ],
)
def test_another_kind_is_told_by_what_it_is(material: bytes, key_spec: str, sentence: str) -> None:
    """Whoever gave the wrong file learns which he gave."""
    with pytest.raises(MaterialUnsuitable, match=sentence):
        check_kind(material, key_spec)


def test_a_newer_spec_is_left_to_kms() -> None:
    """What this library does not know it does not forbid."""
    check_kind(bytes(7), "POST_QUANTUM_1")


def test_a_generated_key_is_sound() -> None:
    """It says so itself, and openssl agrees."""
    material = generate("ECC_NIST_P521")

    assert isinstance(load_der_private_key(material, None), ec.EllipticCurvePrivateKey)
    assert openssl.run("pkey", "-inform", "DER", "-noout", "-check", stdin=material).startswith(b"Key is valid")
