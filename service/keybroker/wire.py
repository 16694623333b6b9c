"""Protobuf messages to values, refusing what is out of range by the field's name; and values to messages."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from keybroker.errors import RequestMalformed
from keybroker.model import (
    BLOB_LIMIT,
    ImportRequest,
    ParametersRequest,
    SecretBytes,
    Sharing,
    Source,
    WrappingAlgorithm,
    WrappingChoice,
    WrappingKeySpec,
)
from keyimport.v1 import key_import_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.duration_pb2 import Duration

    from keybroker.model import KeyDescription, Outlook, ParameterSet

# https://docs.aws.amazon.com/kms/latest/APIReference/API_ImportKeyMaterial.html
LONGEST_EXPIRATION = timedelta(days=365)
_MATERIAL_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DESCRIPTION = re.compile(r"[a-zA-Z0-9:/_\s.-]{0,256}", re.ASCII)

LONGEST_MIN_REMAINING = timedelta(hours=23)
"""KMS's sets are valid for 24 h when they are issued."""

MOST_KEYS = 500
"""Keys in one batch; as ARNs they fill most of the largest message the broker takes."""

_SOURCES = {
    Source.KMS: pb.PARAMETERS_SOURCE_KMS,
    Source.CACHE: pb.PARAMETERS_SOURCE_CACHE,
    Source.STORE: pb.PARAMETERS_SOURCE_STORE,
}


def parameters_request(message: pb.GetParametersForImportRequest) -> ParametersRequest:
    """A request for a set.

    Raises:
        RequestMalformed
    """
    algorithm = _enum(message.wrapping_algorithm, pb.WrappingAlgorithm.DESCRIPTOR, "wrapping_algorithm")
    key_spec = _enum(message.wrapping_key_spec, pb.WrappingKeySpec.DESCRIPTOR, "wrapping_key_spec")
    sharing = _enum(message.sharing, pb.Sharing.DESCRIPTOR, "sharing")
    asked = message.HasField("min_remaining_validity")
    return ParametersRequest(
        key_id=message.key_id,
        wrapping=WrappingChoice(
            algorithm=WrappingAlgorithm(algorithm) if algorithm else None,
            key_spec=WrappingKeySpec(key_spec) if key_spec else None,
        ),
        min_remaining=_min_remaining(message.min_remaining_validity) if asked else None,
        sharing=Sharing.EXCLUSIVE if sharing == "EXCLUSIVE" else Sharing.SHARED,
    )


def parameters_response(parameters: ParameterSet, source: Source) -> pb.GetParametersForImportResponse:
    """A set on its way to the caller."""
    wrapping = parameters.slot.wrapping
    return pb.GetParametersForImportResponse(
        key_arn=str(parameters.slot.key),
        public_key=parameters.public_key,
        import_token=bytes(parameters.import_token),
        parameters_valid_to=_timestamp(parameters.valid_to),
        wrapping_algorithm=pb.WrappingAlgorithm.Value(f"WRAPPING_ALGORITHM_{wrapping.algorithm}"),
        wrapping_key_spec=pb.WrappingKeySpec.Value(f"WRAPPING_KEY_SPEC_{wrapping.key_spec}"),
        public_key_sha256=parameters.public_key_sha256,
        source=_SOURCES[source],
    )


def batch_request(message: pb.BatchGetParametersForImportRequest) -> list[ParametersRequest]:
    """A request for each key.

    Raises:
        RequestMalformed
    """
    key_ids = message.key_ids
    if not 1 <= len(key_ids) <= MOST_KEYS:
        raise RequestMalformed(f"key_ids must name 1 to {MOST_KEYS} keys.", field="key_ids")
    if len(set(key_ids)) < len(key_ids):
        raise RequestMalformed("key_ids names a key twice.", field="key_ids")
    one = pb.GetParametersForImportRequest(
        wrapping_algorithm=message.wrapping_algorithm,
        wrapping_key_spec=message.wrapping_key_spec,
        min_remaining_validity=message.min_remaining_validity if message.HasField("min_remaining_validity") else None,
    )
    request = parameters_request(one)
    return [replace(request, key_id=key_id) for key_id in key_ids]


def progress(outlook: Outlook) -> pb.ParametersProgress:
    """Where a key stands in the line."""
    message = pb.ParametersProgress(position=outlook.position)
    message.expected_wait.FromMilliseconds(math.ceil(outlook.wait * 1000))
    return message


def import_request(message: pb.ImportKeyMaterialRequest, now: datetime) -> ImportRequest:
    """Wrapped key material on its way into a key.

    Raises:
        RequestMalformed
    """
    import_type = _enum(message.import_type, pb.ImportType.DESCRIPTOR, "import_type")
    material_id = key_material_id(message.key_material_id)
    if import_type == "NEW_KEY_MATERIAL" and material_id:
        raise RequestMalformed("New key material has no key_material_id yet; leave it empty.", field="key_material_id")
    if not _DESCRIPTION.fullmatch(message.key_material_description):
        raise RequestMalformed(
            "key_material_description takes at most 256 letters, digits, white space and : / _ . -",
            field="key_material_description",
        )
    return ImportRequest(
        key_id=message.key_id,
        import_token=import_token(message.import_token),
        encrypted_key_material=_blob(message.encrypted_key_material, "encrypted_key_material"),
        valid_to=_expiration(message, now),
        import_type=import_type,
        key_material_id=material_id,
        key_material_description=message.key_material_description or None,
    )


def status_response(description: KeyDescription) -> pb.GetKeyImportStatusResponse:
    """A key's state on its way to the caller."""
    return pb.GetKeyImportStatusResponse(
        key_arn=str(description.key),
        key_spec=description.facts.key_spec,
        key_state=description.state,
        external_origin=description.facts.external,
        material_valid_to=_timestamp(description.material_valid_to) if description.material_valid_to else None,
        multi_region=description.multi_region,
    )


def import_token(value: bytes) -> SecretBytes:
    """An import token.

    Raises:
        RequestMalformed
    """
    return _blob(value, "import_token")


def key_material_id(value: str) -> str | None:
    """A key material id; None if empty.

    Raises:
        RequestMalformed
    """
    if value and not _MATERIAL_ID.fullmatch(value):
        raise RequestMalformed(
            "key_material_id must be 64 lower-case hexadecimal digits, or empty.", field="key_material_id"
        )
    return value or None


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _blob(value: bytes, field: str) -> SecretBytes:
    if not 1 <= len(value) <= BLOB_LIMIT:
        raise RequestMalformed(f"{field} must be 1 to {BLOB_LIMIT} bytes.", field=field)
    return SecretBytes(value)


def _expiration(message: pb.ImportKeyMaterialRequest, now: datetime) -> datetime | None:
    match message.WhichOneof("expiration"):
        case "never_expires" if message.never_expires:
            return None
        case "never_expires":
            raise RequestMalformed("never_expires is true or not set; to expire, set valid_to.", field="never_expires")
        case "valid_to":
            try:
                valid_to = message.valid_to.ToDatetime(tzinfo=UTC)
            except (ValueError, OverflowError):
                valid_to = None
            if valid_to is None or not now < valid_to <= now + LONGEST_EXPIRATION:
                raise RequestMalformed("valid_to must lie ahead, by at most 365 days.", field="valid_to")
            return valid_to
        case _:
            raise RequestMalformed(
                "Choose whether the key material expires: set valid_to, or never_expires to true.", field="expiration"
            )


def _min_remaining(value: Duration) -> float:
    seconds = value.seconds + value.nanos / 1e9
    if not 0 <= seconds <= LONGEST_MIN_REMAINING.total_seconds():
        raise RequestMalformed("min_remaining_validity must be 0 to 23 hours.", field="min_remaining_validity")
    return seconds


def _enum(number: int, descriptor: EnumDescriptor, field: str) -> str | None:
    """A value's bare name; None if unspecified."""
    value = descriptor.values_by_number.get(number)
    if value is None:
        raise RequestMalformed(f"{field} has a value this broker does not know.", field=field)
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix) if number else None
