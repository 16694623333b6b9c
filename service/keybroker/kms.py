"""The calls the broker makes to KMS: each sent once, bounded in time, every answer checked, every error named."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from botocore.exceptions import ClientError

from keybroker import errors
from keybroker.kms_errors import map_error
from keybroker.model import BLOB_LIMIT, KeyDescription, KeyFacts, MaterialChange, ParameterSet, SecretBytes
from keybroker.wrapping_key import require_wrapping_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from keybroker.clock import Clock
    from keybroker.model import ImportRequest, KeyArn, Slot

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

CALL_LIMIT = 10.0
"""Seconds for one whole call; the SDK's own limits stop neither a hanging name look-up nor a dripping body."""

_ID_LIMIT = 64
"""Characters of a request id that are kept: KMS's is a UUID, and whoever answers in its place may send any length."""

LONGEST_VALIDITY = timedelta(hours=25)
"""KMS gives 24 h; one more for clocks that differ."""


class Kms(Protocol):
    """One Region's KMS, as far as the broker uses it. Every method raises errors.BrokerError and nothing else."""

    async def describe_key(self, key: KeyArn) -> KeyDescription:
        """The key's facts and state."""

    async def get_parameters_for_import(self, slot: Slot) -> ParameterSet:
        """A new parameter set; spends the scarce quota."""

    async def import_key_material(self, key: KeyArn, request: ImportRequest) -> MaterialChange:
        """Imports; raises OutcomeUnknown where it cannot tell whether KMS did."""

    async def delete_imported_key_material(self, key: KeyArn, key_material_id: str | None) -> MaterialChange:
        """Deletes; raises OutcomeUnknown where it cannot tell whether KMS did."""


class AwsKms:
    """KMS behind an aiobotocore client made by keybroker.aws."""

    def __init__(
        self, *, client: Any, require_credentials: Callable[[], Awaitable[None]], clock: Clock, call_limit: float
    ) -> None:
        """KMS of the client's Region.

        Args:
            client: sends the requests.
            require_credentials: has what the client signs with ready; may raise anything.
            clock: judges how long a set is valid.
            call_limit: seconds for one whole call.
        """
        self._client = client
        self._require_credentials = require_credentials
        self._clock = clock
        self._call_limit = call_limit

    async def describe_key(self, key: KeyArn) -> KeyDescription:
        read = partial(_description, key=key)
        return await self._call(self._client.describe_key, {"KeyId": str(key)}, read)

    async def get_parameters_for_import(self, slot: Slot) -> ParameterSet:
        wrapping = slot.wrapping
        return await self._call(
            self._client.get_parameters_for_import,
            {
                "KeyId": str(slot.key),
                "WrappingAlgorithm": str(wrapping.algorithm),
                "WrappingKeySpec": str(wrapping.key_spec),
            },
            lambda answer: check_parameters(answer, slot, self._clock.now()),
        )

    async def import_key_material(self, key: KeyArn, request: ImportRequest) -> MaterialChange:
        optional = {
            "ValidTo": request.valid_to,
            "ImportType": request.import_type,
            "KeyMaterialId": request.key_material_id,
            "KeyMaterialDescription": request.key_material_description,
        }
        return await self._change(
            self._client.import_key_material,
            key,
            {
                "ImportToken": bytes(request.import_token),
                "EncryptedKeyMaterial": bytes(request.encrypted_key_material),
                "ExpirationModel": "KEY_MATERIAL_EXPIRES" if request.valid_to else "KEY_MATERIAL_DOES_NOT_EXPIRE",
                **{name: value for name, value in optional.items() if value is not None},
            },
        )

    async def delete_imported_key_material(self, key: KeyArn, key_material_id: str | None) -> MaterialChange:
        parameters = {"KeyMaterialId": key_material_id} if key_material_id else {}
        return await self._change(self._client.delete_imported_key_material, key, parameters)

    async def _change(self, method: Callable[..., Any], key: KeyArn, parameters: dict[str, Any]) -> MaterialChange:
        """Sends a request that changes the key. An answer that cannot be read leaves open whether KMS acted on it."""
        try:
            return await self._call(method, {"KeyId": str(key), **parameters}, partial(_material_change, key=key))
        except errors.BrokerError as error:
            if error.unanswered:
                raise errors.OutcomeUnknown from error
            raise

    async def _call(
        self, method: Callable[..., Any], parameters: Mapping[str, Any], read: Callable[[dict[str, Any]], _T]
    ) -> _T:
        """What `read` makes of the answer."""
        # The SDK looks for credentials within the call, and what its providers raise cannot be told from what KMS did.
        ours = True
        try:
            async with asyncio.timeout(self._call_limit):
                await self._require_credentials()
                ours = False
                answer = await method(**parameters)
        except Exception as error:
            mapped = errors.BrokerCredentials(retry_after=5.0) if ours else map_error(error)
            _note_failure(method.__name__, mapped, error, getattr(error, "response", None))
            raise mapped from error
        try:
            return read(_structure(answer))
        except errors.KmsBadResponse as error:
            _note_failure(method.__name__, error, error, answer)
            raise


def _note_failure(operation: str, mapped: errors.BrokerError, cause: Exception, answer: object) -> None:
    mapped.aws_request_id = _request_id(answer) or None
    _log.log(
        logging.ERROR if isinstance(mapped, errors.Failure) else logging.WARNING,
        "KMS call failed",
        extra={
            "operation": operation,
            "reason": mapped.reason,
            "cause": _cause(cause),
            "aws_request_id": mapped.aws_request_id,
        },
    )


def _description(answer: Mapping[str, Any], key: KeyArn) -> KeyDescription:
    metadata = _field(answer, "KeyMetadata", dict)
    _require_echo(metadata, "Arn", key)
    return KeyDescription(
        key=key,
        facts=KeyFacts(
            external=_field(metadata, "Origin", str) == "EXTERNAL", key_spec=_field(metadata, "KeySpec", str)
        ),
        state=_field(metadata, "KeyState", str),
        multi_region=_field({"MultiRegion": False} | metadata, "MultiRegion", bool),
        material_valid_to=_material_valid_to(metadata),
    )


def _material_change(answer: Mapping[str, Any], key: KeyArn) -> MaterialChange:
    _require_echo(answer, "KeyId", key)
    material_id = answer.get("KeyMaterialId", "")
    return MaterialChange(
        key=key,
        key_material_id=material_id if isinstance(material_id, str) else "",
        aws_request_id=_request_id(answer),
    )


def check_parameters(answer: Mapping[str, Any], slot: Slot, now: datetime) -> ParameterSet:
    """The parameter set in an answer of GetParametersForImport.

    Raises:
        KmsBadResponse: a field is missing, of the wrong type, or not what was asked for.
    """
    _require_echo(answer, "KeyId", slot.key)
    public_key = _field(answer, "PublicKey", bytes)
    token = _field(answer, "ImportToken", bytes)
    valid_to = _field(answer, "ParametersValidTo", datetime)
    if not 1 <= len(token) <= BLOB_LIMIT:
        raise errors.KmsBadResponse(f"an import token of {len(token)} bytes")
    if valid_to.tzinfo is None or not now < valid_to <= now + LONGEST_VALIDITY:
        raise errors.KmsBadResponse(f"ParametersValidTo {valid_to.isoformat()} is not within 25 h of {now.isoformat()}")
    try:
        require_wrapping_key(public_key, slot.wrapping.key_spec)
    except ValueError as error:
        raise errors.KmsBadResponse(str(error)) from error
    return ParameterSet(
        slot=slot,
        public_key=public_key,
        import_token=SecretBytes(token),
        valid_to=valid_to.astimezone(UTC),
        aws_request_id=_request_id(answer),
    )


def _cause(error: Exception) -> str:
    """What the log may hold of an SDK error: class and code. Messages repeat what was sent, and name roles."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    return f"{type(error).__name__} {str(code)[:64]}".strip()


def _structure(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise errors.KmsBadResponse("the answer is no structure")
    return answer


def _field(structure: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    value = structure.get(name)
    if not isinstance(value, kind):
        raise errors.KmsBadResponse(f"{name} is {type(value).__name__}, not {kind.__name__}")
    return value


def _material_valid_to(metadata: Mapping[str, Any]) -> datetime | None:
    if metadata.get("ValidTo") is None:
        return None
    valid_to = _field(metadata, "ValidTo", datetime)
    if valid_to.tzinfo is None:
        raise errors.KmsBadResponse("ValidTo has no timezone")
    return valid_to.astimezone(UTC)


def _require_echo(structure: Mapping[str, Any], name: str, key: KeyArn) -> None:
    if structure.get(name) != str(key):
        raise errors.KmsBadResponse(f"{name} is not the key that was asked for")


def _request_id(answer: object) -> str:
    """KMS's id of the request that was answered, also by an error; empty where there is none."""
    metadata = answer.get("ResponseMetadata") if isinstance(answer, dict) else None
    return str(metadata.get("RequestId") or "")[:_ID_LIMIT] if isinstance(metadata, dict) else ""
