"""What the client hands back: facts of keys and of key material, and the news of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, TypeAlias

from keyimport.errors import KeyImportError

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from keyimport.v1.key_import_pb2 import GetKeyImportStatusResponse
    from keyimport.wrapping import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKeyMaterial:
    """What was imported.

    Attributes:
        key_arn: the key's ARN.
        key_material_id: the id KMS gave to the key material; empty unless the key is a symmetric encryption key.
        public_key_sha256: SHA-256 of the public key it was wrapped under; empty if it was wrapped elsewhere.
    """

    key_arn: str
    key_material_id: str
    public_key_sha256: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedKeyMaterial:
    """What was deleted: the key's ARN and, of a symmetric encryption key, the key material's id."""

    key_arn: str
    key_material_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyImportStatus:
    """What KMS tells of a key.

    Attributes:
        key_arn: the key's ARN.
        key_spec: in KMS's words, such as SYMMETRIC_DEFAULT or RSA_2048.
        key_state: in KMS's words, such as PendingImport or Enabled.
        external_origin: whether the key takes imported key material.
        material_valid_to: when KMS deletes the key material, in UTC; None if it holds none, or holds it for ever.
        multi_region: whether it is a multi-Region key; each replica needs the same key material imported.
    """

    key_arn: str
    key_spec: str
    key_state: str
    external_origin: bool
    material_valid_to: datetime | None
    multi_region: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParameters:
    """A key of a batch has its parameter set.

    Attributes:
        key_id: the key as it was asked for.
        parameters: its set, checked.
    """

    key_id: str
    parameters: Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefusal:
    """A key of a batch gets no parameter set.

    Attributes:
        key_id: the key as it was asked for.
        error: what `KeyImportClient.get_parameters` would have raised.
    """

    key_id: str
    error: KeyImportError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """A key of a batch waits for KMS's quota.

    Attributes:
        key_id: the key as it was asked for.
        position: how many requests to KMS come before this key's, as the line stands.
        expected_wait: how long that takes, as the line stands.
    """

    key_id: str
    position: int
    expected_wait: timedelta


BatchNews: TypeAlias = BatchParameters | BatchRefusal | BatchProgress
"""What `KeyImportClient.get_parameters_batch` yields."""


def status_of(answer: GetKeyImportStatusResponse) -> KeyImportStatus:
    """The broker's answer; KeyImportError if its expiry is no date."""
    valid_to = None
    if answer.HasField("material_valid_to"):
        try:
            valid_to = answer.material_valid_to.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise KeyImportError("the broker's answer is refused: the key material's expiry is no date") from error
    return KeyImportStatus(
        key_arn=answer.key_arn,
        key_spec=answer.key_spec,
        key_state=answer.key_state,
        external_origin=answer.external_origin,
        material_valid_to=valid_to,
        multi_region=answer.multi_region,
    )
