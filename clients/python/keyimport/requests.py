"""What callers ask, as the API's messages; what no broker could mean well is refused here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from keyimport import wrapping
from keyimport.v1.key_import_pb2 import (
    BatchGetParametersForImportRequest,
    GetParametersForImportRequest,
    ImportKeyMaterialRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from keyimport.v1.key_import_pb2 import ImportType, Sharing, WrappingAlgorithm, WrappingKeySpec

# https://docs.aws.amazon.com/kms/latest/APIReference/API_ImportKeyMaterial.html
_DESCRIPTION: Final = re.compile(r"[a-zA-Z0-9:/_\s.-]{0,256}", re.ASCII)
_MATERIAL_ID: Final = re.compile("[0-9a-f]{64}")


def text_fault(text: str) -> str:
    """What keeps a text from being one in a message or the name of a file; empty if nothing does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is no text that UTF-8 can encode"
    return "has a NUL in it" if "\0" in text else ""


def description_fault(text: str) -> str:
    """Why KMS would refuse it as KeyMaterialDescription; empty if it would not."""
    if _DESCRIPTION.fullmatch(text):
        return ""
    return "is not at most 256 of a-z, A-Z, 0-9, spaces and :/_.-"


def material_id_fault(text: str) -> str:
    """Why KMS would refuse it as KeyMaterialId; empty if it would not, or if there is none."""
    return "" if not text or _MATERIAL_ID.fullmatch(text) else "is not 64 lower-case hexadecimal digits"


def parameters_request(
    key_id: str,
    *,
    wrapping_algorithm: WrappingAlgorithm.ValueType | str,
    wrapping_key_spec: WrappingKeySpec.ValueType | str,
    min_remaining_validity: timedelta | None,
    sharing: Sharing.ValueType,
) -> GetParametersForImportRequest:
    """The request for one set; ValueError if a name is no enum's."""
    request = GetParametersForImportRequest(
        key_id=key_id,
        wrapping_algorithm=wrapping.algorithm_number(wrapping_algorithm),
        wrapping_key_spec=wrapping.spec_number(wrapping_key_spec),
        sharing=sharing,
    )
    if min_remaining_validity is not None:
        request.min_remaining_validity.FromTimedelta(min_remaining_validity)
    return request


def batch_request(
    key_ids: Iterable[str],
    *,
    wrapping_algorithm: WrappingAlgorithm.ValueType | str,
    wrapping_key_spec: WrappingKeySpec.ValueType | str,
    min_remaining_validity: timedelta | None,
) -> BatchGetParametersForImportRequest:
    """The request for a set for each of many keys; ValueError if a name is no enum's."""
    request = BatchGetParametersForImportRequest(
        key_ids=key_ids,
        wrapping_algorithm=wrapping.algorithm_number(wrapping_algorithm),
        wrapping_key_spec=wrapping.spec_number(wrapping_key_spec),
    )
    if min_remaining_validity is not None:
        request.min_remaining_validity.FromTimedelta(min_remaining_validity)
    return request


def import_request(
    *,
    valid_to: datetime | None,
    never_expires: bool,
    import_type: ImportType.ValueType,
    key_material_id: str,
    key_material_description: str,
) -> ImportKeyMaterialRequest:
    """The request, still without key, token and material; ValueError unless one expiration is chosen, with a zone."""
    if (valid_to is not None) == never_expires:
        raise ValueError("choose exactly one of valid_to and never_expires")
    request = ImportKeyMaterialRequest(
        import_type=import_type, key_material_id=key_material_id, key_material_description=key_material_description
    )
    if valid_to is None:
        request.never_expires = True
    elif valid_to.utcoffset() is None:
        raise ValueError("valid_to needs a timezone")
    else:
        request.valid_to.FromDatetime(valid_to)
    return request
