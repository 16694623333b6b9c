"""Key material: the forms in which people keep it, and the kinds that KMS takes."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from keyimport import wrapping
from keyimport.errors import MaterialUnsuitable

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from keyimport.wrapping import Parameters

_BYTES: Final = {"SYMMETRIC_DEFAULT": 32, "HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}
_RSA_BITS: Final = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "ECC_NIST_P256": ec.SECP256R1(),
    "ECC_NIST_P384": ec.SECP384R1(),
    "ECC_NIST_P521": ec.SECP521R1(),
    "ECC_SECG_P256K1": ec.SECP256K1(),
}
KEY_SPECS: Final = (*_BYTES, *_RSA_BITS, *_CURVES)
"""The key specs whose material is known here, in KMS's words."""

_PUBLIC_EXPONENT: Final = 65537
# The most that KMS takes as EncryptedKeyMaterial, and the least that RFC 5649 makes.
_MOST_WRAPPED: Final = 6144
_LEAST_KEY_WRAP: Final = 16
# An outer SEQUENCE, the version 0 or 1, and then a SEQUENCE: PKCS#1 and SEC1 have something else in that place.
_PKCS8: Final = re.compile(rb"\x30(?:[\x00-\x7f]|\x81.|\x82..)\x02\x01[\x00\x01]\x30", re.DOTALL)


class Form(StrEnum):
    """How key material is written in a file."""

    RAW = "raw"
    PEM = "pem"
    PKCS8 = "pkcs8"
    HEX = "hex"
    BASE64 = "base64"


def decode(content: bytes, form: Form, *, passphrase: Callable[[], bytes]) -> bytes:
    """The key material as KMS takes it.

    Args:
        content: what is in the file.
        form: raw is the key material itself; pem and pkcs8 (DER) are private keys, which become PKCS#8 DER without
            encryption; hex and base64 may be broken into lines.
        passphrase: asked only where a private key is encrypted.

    Raises:
        MaterialUnsuitable: it is not of that form; nothing of the content is told.
    """
    if not content:
        raise MaterialUnsuitable("the key material is empty")
    match form:
        case Form.RAW:
            return content
        case Form.PEM:
            # openssl ecparam puts the curve's name before the key.
            content = re.sub(
                rb"-----BEGIN EC PARAMETERS-----.*?-----END EC PARAMETERS-----\s*", b"", content, flags=re.DOTALL
            )
            return _pkcs8(content, load_pem_private_key, "PEM", passphrase)
        case Form.PKCS8:
            return _pkcs8(content, load_der_private_key, "PKCS#8 DER", passphrase)
        case Form.HEX:
            return _text(content, bytes.fromhex, "hexadecimal")
        case Form.BASE64:
            return _text(content, lambda text: base64.b64decode(text, validate=True), "base64")


def check_kind(material: bytes, key_spec: str) -> None:
    """Refuse key material of another kind or size than a key of this spec takes.

    Args:
        material: as KMS takes it.
        key_spec: in KMS's words; empty where it is not known, which admits every kind. A spec that is newer than this
            library is left to KMS.

    Raises:
        MaterialUnsuitable: it is not; the message says what it looks like instead.
    """
    if key_spec in _BYTES:
        if len(material) != _BYTES[key_spec]:
            found = _hint(material, {_BYTES[key_spec]}) or f"not {len(material)}"
            raise MaterialUnsuitable(f"a key of spec {key_spec} takes {_BYTES[key_spec]} bytes, {found}")
    elif key_spec in _RSA_BITS or key_spec in _CURVES:
        kind = _kind(material)
        if kind != key_spec:
            raise MaterialUnsuitable(f"a key of spec {key_spec} takes such a private key as PKCS#8 DER, not {kind}")
    elif not key_spec and len(material) not in _BYTES.values() and not _PKCS8.match(material):
        found = _hint(material, set(_BYTES.values())) or f"not {len(material)} bytes of something else"
        raise MaterialUnsuitable(f"KMS takes 28, 32, 48 or 64 bytes or a private key as PKCS#8 DER, {found}")


def check_carried(key_spec: str, parameters: Parameters) -> None:
    """Refuse a set whose algorithm KMS does not take for such a key; MaterialUnsuitable if so.

    An RSA private key is too large for RSAES_OAEP, which `Parameters.wrap` finds out by its size.
    """
    algorithm = wrapping.algorithm_name(parameters.wrapping_algorithm)
    if key_spec in _BYTES and algorithm.startswith("RSA_AES_KEY_WRAP"):
        raise MaterialUnsuitable(f"KMS takes {algorithm} for private keys only; {key_spec} needs another set")


def check_wrapped(wrapped: bytes, parameters: Parameters) -> None:
    """Refuse what cannot be the outcome of a set's wrapping algorithm, such as base64 text or a key in plain text.

    Args:
        wrapped: what KMS calls EncryptedKeyMaterial.
        parameters: the set it was wrapped under.

    Raises:
        MaterialUnsuitable: its size is none that the algorithm makes, or more than KMS takes.
    """
    algorithm = wrapping.algorithm_name(parameters.wrapping_algorithm)
    block = wrapping.check_public_key(parameters.public_key).key_size // 8
    if algorithm.startswith("RSAES_OAEP"):
        if len(wrapped) != block:
            raise MaterialUnsuitable(f"{algorithm} makes {block} bytes here, not {len(wrapped)}")
    elif not block + _LEAST_KEY_WRAP <= len(wrapped) <= _MOST_WRAPPED or (len(wrapped) - block) % 8:
        raise MaterialUnsuitable(
            f"{algorithm} makes {block} bytes here and then eights, {_MOST_WRAPPED} at most, not {len(wrapped)}"
        )


def generate(key_spec: str) -> bytes:
    """Fresh key material for a key of this spec; MaterialUnsuitable if nothing is known of the spec."""
    if key_spec in _BYTES:
        return secrets.token_bytes(_BYTES[key_spec])
    if key_spec in _RSA_BITS:
        return _encoded(rsa.generate_private_key(_PUBLIC_EXPONENT, _RSA_BITS[key_spec]))
    if key_spec in _CURVES:
        return _encoded(ec.generate_private_key(_CURVES[key_spec]))
    raise MaterialUnsuitable(f"nothing can be generated for a key of spec {key_spec or 'unknown'}")


def _pkcs8(
    content: bytes,
    load: Callable[[bytes, bytes | None], PrivateKeyTypes],
    name: str,
    passphrase: Callable[[], bytes],
) -> bytes:
    try:
        try:
            return _encoded(load(content, None))
        except TypeError:  # how the library says that the key is encrypted
            secret = passphrase()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MaterialUnsuitable(f"the file holds no private key as {name}") from error
    try:
        return _encoded(load(content, secret))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MaterialUnsuitable("the passphrase does not open the private key") from error


def _text(content: bytes, decoder: Callable[[str], bytes], name: str) -> bytes:
    try:
        return decoder("".join(content.decode("ascii").split()))
    except (ValueError, binascii.Error):
        # Without its cause, which quotes the content.
        raise MaterialUnsuitable(f"the file is not {name} text") from None


def _encoded(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _kind(material: bytes) -> str:
    """The spec of the key that takes this private key, or a few words for what it is instead."""
    try:
        key = load_der_private_key(material, None)
    except TypeError:
        return "an encrypted private key (--form pkcs8 opens it)"
    except (ValueError, UnsupportedAlgorithm):
        if material.lstrip().startswith(b"-----BEGIN"):
            return "PEM text (--form pem)"
        return f"{len(material)} bytes of something else"
    if not _PKCS8.match(material):
        return "PKCS#1 or SEC1 (--form pkcs8 converts it)"
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA_{key.key_size}"
    names = {type(curve): spec for spec, curve in _CURVES.items()}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return names.get(type(key.curve), f"one on the curve {key.curve.name}")
    return f"an {type(key).__name__}"


def _hint(material: bytes, sizes: set[int]) -> str:
    """What a file of the wrong size probably is; never its content."""
    if material.lstrip().startswith(b"-----BEGIN"):
        return "not PEM text (--form pem)"
    for form, name in ((Form.HEX, "hexadecimal"), (Form.BASE64, "base64")):
        try:
            decoded = decode(material, form, passphrase=bytes)
        except MaterialUnsuitable:
            continue
        if len(decoded) in sizes:
            return f"and {len(material)} bytes of {name} text need --form {form}"
    if len(material.rstrip(b"\r\n")) in sizes:
        return f"not {len(material)}: the file ends with a line feed that is none of the key"
    return ""
