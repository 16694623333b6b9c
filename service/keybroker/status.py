"""An error's one way onto the wire: google.rpc.Status with the contract's code, reason and hints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keybroker import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

DOMAIN = "keyimport"

CODES: Mapping[str, grpc.StatusCode] = {
    "KEY_ID_MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "ALIAS_NOT_ALLOWED": grpc.StatusCode.INVALID_ARGUMENT,
    "REQUEST_MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "REGION_NOT_SERVED": grpc.StatusCode.INVALID_ARGUMENT,
    "WRAPPING_ALGORITHM_DEPRECATED": grpc.StatusCode.INVALID_ARGUMENT,
    "WRAPPING_ALGORITHM_NOT_ALLOWED": grpc.StatusCode.INVALID_ARGUMENT,
    "WRAPPING_KEY_SPEC_NOT_ALLOWED": grpc.StatusCode.INVALID_ARGUMENT,
    "WRAPPING_UNSUITABLE": grpc.StatusCode.INVALID_ARGUMENT,
    "CALLER_UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "FOREIGN_ACCOUNT": grpc.StatusCode.PERMISSION_DENIED,
    "CALLER_NOT_AUTHORIZED": grpc.StatusCode.PERMISSION_DENIED,
    "KEY_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "KEY_NOT_EXTERNAL": grpc.StatusCode.FAILED_PRECONDITION,
    "KEY_STATE_INCOMPATIBLE": grpc.StatusCode.FAILED_PRECONDITION,
    "IMPORT_TOKEN_INVALID": grpc.StatusCode.FAILED_PRECONDITION,
    "IMPORT_TOKEN_EXPIRED": grpc.StatusCode.FAILED_PRECONDITION,
    "KEY_MATERIAL_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "KEY_MATERIAL_UNREADABLE": grpc.StatusCode.INVALID_ARGUMENT,
    "QUOTA_WAIT_EXCEEDS_DEADLINE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CALLER_RATE_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "KMS_THROTTLED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "KMS_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "BROKER_CREDENTIALS": grpc.StatusCode.UNAVAILABLE,
    "KMS_DENIED_BROKER": grpc.StatusCode.PERMISSION_DENIED,
    "OUTCOME_UNKNOWN": grpc.StatusCode.UNKNOWN,
    "KMS_BAD_RESPONSE": grpc.StatusCode.INTERNAL,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}


def to_status(error: errors.BrokerError, correlation_id: str) -> Status:
    """What the caller is told: fixed sentences, and nothing of the cause.

    Args:
        error: what happened.
        correlation_id: under which the log has the cause; told where the fault is not the caller's. Refusals stay free
            of it, so that two alike are alike to the byte.
    """
    code = CODES[error.reason]
    metadata = dict(error.metadata)
    if code is grpc.StatusCode.INTERNAL:
        metadata["correlation_id"] = correlation_id
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    message = error.sentence
    if isinstance(error, errors.InvalidRequest):
        message = error.hint
        if error.field:
            violation = BadRequest.FieldViolation(field=error.field, description=error.hint)
            details.append(BadRequest(field_violations=[violation]))
    if isinstance(error, errors.TryAgain):
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(_milliseconds(error))
        details.append(retry)
    number: int = code.value[0]
    return Status(code=number, message=message, details=[_packed(detail) for detail in details])


def to_metadata(error: errors.BrokerError, status: Status) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries a status, and RetryInfo once more as gRPC's own retries obey it."""
    trailing: tuple[tuple[str, str | bytes], ...] = (("grpc-status-details-bin", status.SerializeToString()),)
    if isinstance(error, errors.TryAgain):
        trailing += (("grpc-retry-pushback-ms", str(_milliseconds(error))),)
    return trailing


def _milliseconds(error: errors.TryAgain) -> int:
    return max(1, math.ceil(error.retry_after * 1000))


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
