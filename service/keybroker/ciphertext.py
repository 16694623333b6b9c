"""What wrapped key material can look like: key material sent as it is, by mistake, stops here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

from keybroker.errors import RequestMalformed
from keybroker.model import RSA_BITS, WrappingAlgorithm, WrappingKeySpec

if TYPE_CHECKING:
    from keybroker.model import Wrapping

_SHORTEST_RSA_CIPHERTEXT = 256
_KEY_WRAP_BLOCK = 8
_OAEP = (WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSAES_OAEP_SHA_1)
_DER_SEQUENCES = ((b"\x30\x82", 4), (b"\x30\x81", 3))  # with the length of the header


def require_plausible_ciphertext(ciphertext: bytes, wrapping: Wrapping | None) -> None:
    """Refuses what cannot be wrapped key material, before it leaves for KMS: plain text, PEM, base64, a wrong length.

    Args:
        ciphertext: the encrypted key material.
        wrapping: of the set its token belongs to, if the broker knows it.

    Raises:
        RequestMalformed
    """
    if ciphertext.isascii():
        raise _refusal("it is text. Send the bytes as they are, not base64, hexadecimal or PEM")
    if _is_private_key(ciphertext):
        raise _refusal("it is a private key in plain text. Wrap it first; consider this key exposed to the broker")
    if not _has_plausible_length(len(ciphertext), wrapping):
        raise _refusal(
            "its length is wrong. Wrap the key material under this set's public key with this set's algorithm"
        )


def _has_plausible_length(length: int, wrapping: Wrapping | None) -> bool:
    if wrapping is None:
        return length >= _SHORTEST_RSA_CIPHERTEXT
    if wrapping.key_spec is WrappingKeySpec.SM2:
        return True
    modulus = RSA_BITS[wrapping.key_spec] // 8
    if wrapping.algorithm in _OAEP:
        return length == modulus
    # RFC 5649: at least two blocks of eight bytes behind the wrapped AES key.
    return length >= modulus + 2 * _KEY_WRAP_BLOCK and (length - modulus) % _KEY_WRAP_BLOCK == 0


def _is_private_key(value: bytes) -> bool:
    if not any(
        value.startswith(start) and int.from_bytes(value[2:header]) == len(value) - header
        for start, header in _DER_SEQUENCES
    ):
        return False
    try:
        load_der_private_key(value, password=None)
    except TypeError:
        return True  # one with a password
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _refusal(why: str) -> RequestMalformed:
    return RequestMalformed(
        f"encrypted_key_material cannot be wrapped key material: {why}.", field="encrypted_key_material"
    )
