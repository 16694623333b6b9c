"""Parameter sets sealed for a store others can write: what opens was sealed with one of our keys, for that very slot.

An entry: version (1 byte), key id (8), expiry (8, in ms since 1970, big endian), nonce (12), ciphertext and tag.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keybroker.model import ParameterSet, SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keybroker.model import Slot

ENTRY_LIMIT = 16 * 1024
"""Bytes in the longest entry; KMS's largest set makes one of 7 KiB."""

KEY_LENGTH = 32
KEY_PREFIX = "keybroker-seal-1:"

_VERSION = 1
_HEADER = struct.Struct(">B8sQ")
_NONCE_LENGTH = 12
_TAG_LENGTH = 16
_PREFIX_LENGTH = 4
_CIPHERTEXT_AT = _HEADER.size + _NONCE_LENGTH
_SHORTEST = _CIPHERTEXT_AT + 3 * _PREFIX_LENGTH + _TAG_LENGTH

_KEY_CHARACTERS = 43
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_MAKE_ONE = "`keybroker seal-key` makes one"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class SealError(ValueError):
    """An entry does not open, a set cannot be sealed, or a seal key is none; the text never holds content."""


class Seal:
    """Seals parameter sets with AES-256-GCM.

    Nonces are random, good for 2^32 entries under one key: KMS's quota does not give as many in a century.

    Args:
        keys: of 32 bytes each; the first seals, all open.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise SealError("there is no seal key")
        if any(len(key) != KEY_LENGTH for key in keys):
            raise SealError("a seal key is not 32 bytes long")
        self._first = _key_id(keys[0])
        self._ciphers = {_key_id(key): AESGCM(_derived(key, b"entry", 32)) for key in keys}

    def seal(self, parameters: ParameterSet) -> bytes:
        """The set as an entry; its expiry is cut to milliseconds.

        Raises:
            SealError: it is longer than any set of KMS's, or its expiry or request id is none KMS gives.
        """
        expires = expiry(parameters)
        try:
            header = _HEADER.pack(_VERSION, self._first, expires)
            content = _join(parameters.public_key, parameters.import_token, parameters.aws_request_id.encode())
        except (struct.error, UnicodeEncodeError):
            raise SealError("the set has an expiry or request id that cannot be sealed") from None
        if _CIPHERTEXT_AT + len(content) + _TAG_LENGTH > ENTRY_LIMIT:
            raise SealError("the set is too long to be sealed")
        nonce = os.urandom(_NONCE_LENGTH)
        bound = _associated_data(parameters.slot, _VERSION, self._first, expires)
        return header + nonce + self._ciphers[self._first].encrypt(nonce, content, bound)

    def open(self, slot: Slot, sealed: bytes) -> ParameterSet:
        """The set in an entry; whether it has expired, and whether its public key is good, is for the caller to check.

        Raises:
            SealError: it was not sealed for this slot with one of our keys, or is not as it was then.
        """
        if not _SHORTEST <= len(sealed) <= ENTRY_LIMIT:
            raise SealError("the entry has a length no entry has")
        version, key_id, expires = _HEADER.unpack_from(sealed)
        if version != _VERSION:
            raise SealError("the entry is of an unknown version")
        if key_id not in self._ciphers:
            raise SealError("the entry is sealed with none of the seal keys")
        nonce, ciphertext = sealed[_HEADER.size : _CIPHERTEXT_AT], sealed[_CIPHERTEXT_AT:]
        try:
            content = self._ciphers[key_id].decrypt(nonce, ciphertext, _associated_data(slot, version, key_id, expires))
        except InvalidTag:
            raise SealError("the entry is altered, forged or of another slot") from None
        try:
            public_key, import_token, aws_request_id = _split(content)
            return ParameterSet(
                slot=slot,
                public_key=public_key,
                import_token=SecretBytes(import_token),
                valid_to=_EPOCH + expires * _MILLISECOND,
                aws_request_id=aws_request_id.decode(),
            )
        except (ValueError, OverflowError):
            raise SealError("the entry is sealed with a seal key, but holds no set") from None


def expiry(parameters: ParameterSet) -> int:
    """When a set expires, in whole milliseconds since 1970: what an entry keeps of it."""
    return (parameters.valid_to - _EPOCH) // _MILLISECOND


def new_key() -> str:
    """A new seal key as its file holds it: one line, without its end."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_LENGTH)


def read_key(text: str) -> SecretBytes:
    """The seal key in a key file's text.

    Raises:
        SealError: a sentence for the operator; never holds what the file does.
    """
    lines = text.strip().splitlines()
    if not lines:
        raise SealError(f"the file is empty, and should hold a seal key; {_MAKE_ONE}")
    if len(lines) > 1:
        raise SealError("the file holds more than one line; each seal key has a file of its own")
    if not lines[0].startswith(KEY_PREFIX):
        raise SealError(f"the file is no seal key: it does not begin with {KEY_PREFIX}; {_MAKE_ONE}")
    encoded = lines[0].removeprefix(KEY_PREFIX)
    if not _BASE64URL.fullmatch(encoded):
        raise SealError(f"the seal key is not base64url: only letters, digits, - and _ follow {KEY_PREFIX}")
    if len(encoded) != _KEY_CHARACTERS:
        raise SealError(f"the seal key has {len(encoded)} characters after {KEY_PREFIX}, not {_KEY_CHARACTERS}")
    return SecretBytes(base64.urlsafe_b64decode(encoded + "="))


def _key_id(key: bytes) -> bytes:
    return _derived(key, b"key id", 8)


def _derived(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=b"keybroker seal 1: " + purpose).derive(key)


def _associated_data(slot: Slot, version: int, key_id: bytes, expires: int) -> bytes:
    key, wrapping = slot.key, slot.wrapping
    names = (key.partition, key.account, key.region, str(key), wrapping.algorithm, wrapping.key_spec)
    return _join(version.to_bytes(1), key_id, *(name.encode() for name in names), expires.to_bytes(8))


def _join(*parts: bytes) -> bytes:
    """Each part after its length, so that no two sequences of parts make the same bytes."""
    return b"".join(len(part).to_bytes(_PREFIX_LENGTH) + part for part in parts)


def _split(joined: bytes) -> list[bytes]:
    """What `_join` joined; ValueError if it did not."""
    parts = []
    while joined:
        end = _PREFIX_LENGTH + int.from_bytes(joined[:_PREFIX_LENGTH])
        if end > len(joined):
            raise ValueError("a part is cut short")
        parts.append(joined[_PREFIX_LENGTH:end])
        joined = joined[end:]
    return parts
