"""gRPC's errors in their typed form; only ErrorInfo of the broker's domain gives a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from keyimport.errors import KeyImportError, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from google.protobuf.any_pb2 import Any
    from google.protobuf.duration_pb2 import Duration

DOMAIN: Final = "keyimport"

# Statuses that gRPC makes up by itself when a call breaks off, so that nobody can say what became of the request.
_BROKEN_OFF: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)
_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc(error: grpc.aio.AioRpcError, *, changes_key: bool) -> KeyImportError:
    """The typed form of a failed call.

    Args:
        error: what gRPC raised.
        changes_key: whether the call changes the key, so that breaking off leaves the outcome open.
    """
    blob = (error.trailing_metadata() or grpc.aio.Metadata()).get("grpc-status-details-bin")
    try:
        packed = status_pb2.Status.FromString(blob).details if isinstance(blob, bytes) else []
    except DecodeError:
        packed = []
    return _typed(error.code(), error.details() or "", packed, changes_key=changes_key)


def from_status(status: status_pb2.Status) -> KeyImportError:
    """The typed form of a refusal that came inside an answer; a code that gRPC has not is UNKNOWN."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _typed(code, status.message, status.details, changes_key=False)


def duration(message: Duration) -> timedelta | None:
    """The time to wait that a message tells; None if it is negative, or longer than anything."""
    try:
        delay = message.ToTimedelta()
    except (ValueError, OverflowError):
        return None
    return delay if delay >= type(delay)() else None


def _typed(code: grpc.StatusCode, message: str, packed: Iterable[Any], *, changes_key: bool) -> KeyImportError:
    message = message or code.name
    info = error_details_pb2.ErrorInfo()
    retry_after: timedelta | None = None
    field: str | None = None
    for detail in _unpacked(packed):
        match detail:
            case error_details_pb2.ErrorInfo(domain=domain) if domain == DOMAIN:
                info = detail
            case error_details_pb2.RetryInfo(retry_delay=delay):
                retry_after = duration(delay)
            case error_details_pb2.BadRequest(field_violations=[violation, *_]):
                field = violation.field
    kind = KeyImportError.by_reason.get(info.reason, KeyImportError)
    if changes_key and not info.reason and code in _BROKEN_OFF:
        kind = OutcomeUnknown
        message = f"the call broke off ({message}); look at the key before trying again"
    return kind(
        message, reason=info.reason, code=code, retry_after=retry_after, field=field, metadata=dict(info.metadata)
    )


def _unpacked(packed: Iterable[Any]) -> list[Message]:
    """The details that can be read; what is damaged or of a foreign type is passed over."""
    read: list[Message] = []
    for detail in packed:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            message = kind()
            try:
                if detail.Unpack(message):
                    read.append(message)
            except DecodeError:
                continue
    return read
