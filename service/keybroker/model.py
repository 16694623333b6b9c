"""The values the broker speaks in: frozen, complete, and impossible to hold in a wrong form."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Self

from keybroker.errors import AliasNotAllowed, KeyIdMalformed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

KEY_ID_MAX_LENGTH = 2048
"""The longest KeyId that KMS's API model takes."""

BLOB_LIMIT = 6144
"""Bytes in the longest import token, and in the longest encrypted key material."""

_KEY_ID = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
_BARE = re.compile(_KEY_ID, re.ASCII)
_ARN = re.compile(rf"arn:(aws[a-z-]{{0,12}}):kms:([a-z0-9-]{{1,32}}):([0-9]{{12}}):key/({_KEY_ID})", re.ASCII)
_ALIAS = re.compile(r"(?:arn:[^:]{0,64}:kms:[^:]{0,64}:[^:]{0,64}:)?alias/.*", re.ASCII | re.DOTALL)


class SecretBytes(bytes):
    """Bytes that show only their length where they might be printed."""

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the broker is at home: the account its credentials belong to and the Regions it serves.

    Attributes:
        partition: such as aws or aws-cn.
        account: 12 digits.
        regions: those served; a bare key id belongs to the first.
    """

    partition: str
    account: str
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyArn:
    """A KMS key's full ARN."""

    partition: str
    region: str
    account: str
    key_id: str

    @classmethod
    def parse(cls, text: str, home: Home) -> Self:
        """The full ARN of a key id or key ARN; a bare key id is a key of the home's first Region.

        The grammar is ASCII only and admits one spelling per key, so that two spellings never make two cache entries.

        Raises:
            AliasNotAllowed: it is an alias name or alias ARN.
            KeyIdMalformed: it is anything else that is not a key.
        """
        if len(text) > KEY_ID_MAX_LENGTH:
            raise KeyIdMalformed
        if _BARE.fullmatch(text):
            return cls(partition=home.partition, region=home.regions[0], account=home.account, key_id=text)
        if match := _ARN.fullmatch(text):
            partition, region, account, key_id = match.groups()
            return cls(partition=partition, region=region, account=account, key_id=key_id)
        if _ALIAS.fullmatch(text):
            raise AliasNotAllowed
        raise KeyIdMalformed

    def __str__(self) -> str:
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key_id}"


class WrappingAlgorithm(StrEnum):
    """How key material is wrapped, in KMS's words."""

    RSAES_PKCS1_V1_5 = "RSAES_PKCS1_V1_5"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSA_AES_KEY_WRAP_SHA_1 = "RSA_AES_KEY_WRAP_SHA_1"
    RSA_AES_KEY_WRAP_SHA_256 = "RSA_AES_KEY_WRAP_SHA_256"
    SM2PKE = "SM2PKE"


class WrappingKeySpec(StrEnum):
    """The kind and size of a wrapping key, in KMS's words."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    SM2 = "SM2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapping:
    """A wrapping algorithm and a wrapping key spec."""

    algorithm: WrappingAlgorithm
    key_spec: WrappingKeySpec

    def __str__(self) -> str:
        return f"{self.algorithm}/{self.key_spec}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingChoice:
    """What a caller asked for; None leaves it to the broker."""

    algorithm: WrappingAlgorithm | None = None
    key_spec: WrappingKeySpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What a parameter set is bound to and cached under."""

    key: KeyArn
    wrapping: Wrapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSet:
    """A wrapping public key and its import token, one indivisible thing.

    Attributes:
        public_key: DER SubjectPublicKeyInfo.
        import_token: 1 to 6144 bytes, opaque.
        valid_to: when KMS stops accepting the token; aware.
        aws_request_id: KMS's id of the request that issued it.
        public_key_sha256: the fingerprint, 32 bytes.
    """

    slot: Slot
    public_key: bytes
    import_token: SecretBytes
    valid_to: datetime
    aws_request_id: str
    public_key_sha256: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public_key_sha256", hashlib.sha256(self.public_key).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """What never changes about a key."""

    external: bool
    key_spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDescription:
    """DescribeKey's answer: the lasting facts, and what holds at this moment.

    Attributes:
        state: in KMS's words, such as PendingImport.
        material_valid_to: when KMS deletes the key material, aware; None if it holds none, or holds it for ever.
    """

    key: KeyArn
    facts: KeyFacts
    state: str
    multi_region: bool
    material_valid_to: datetime | None


class Operation(StrEnum):
    """What a caller can be granted: the RPCs."""

    GetParametersForImport = "GetParametersForImport"
    ImportKeyMaterial = "ImportKeyMaterial"
    DeleteImportedKeyMaterial = "DeleteImportedKeyMaterial"
    DiscardParameters = "DiscardParameters"
    GetKeyImportStatus = "GetKeyImportStatus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a name, and the address of the listener that vouches for it."""

    name: str
    listener: str


class Sharing(StrEnum):
    """Who may be given a set: everyone, or this caller alone."""

    SHARED = auto()
    EXCLUSIVE = auto()


class Source(StrEnum):
    """Where an answer came from."""

    KMS = "KMS"
    CACHE = "CACHE"
    STORE = "STORE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametersRequest:
    """A request for a parameter set, its key id not yet parsed; min_remaining in seconds, None for the setting."""

    key_id: str
    wrapping: WrappingChoice
    min_remaining: float | None
    sharing: Sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """How many requests to KMS come before, and how many seconds that takes, as the line stands."""

    position: int
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """Wrapped key material on its way into a key; what is None is left out of KMS's request.

    Attributes:
        valid_to: when the key material expires, aware; None means never.
    """

    key_id: str
    import_token: SecretBytes
    encrypted_key_material: SecretBytes
    valid_to: datetime | None
    import_type: str | None
    key_material_id: str | None
    key_material_description: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterialChange:
    """What an import or a delete did; key_material_id is empty unless the key is a symmetric encryption key."""

    key: KeyArn
    key_material_id: str
    aws_request_id: str


RSA_BITS: Mapping[WrappingKeySpec, int] = {
    WrappingKeySpec.RSA_2048: 2048,
    WrappingKeySpec.RSA_3072: 3072,
    WrappingKeySpec.RSA_4096: 4096,
}
