"""Every reason the broker can give is a class of its own; nothing it sends can break the reading of it."""

from __future__ import annotations

import pickle
from datetime import timedelta

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import keyimport
from keyimport import ErrorReason, KeyImportClient, KeyImportError, OutcomeUnknown
from keyimport.rpc_errors import from_rpc
from tests.client.fake_broker import KEY_ID, FakeBroker, details, refusal

REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys() if name != "ERROR_REASON_UNSPECIFIED"]  # noqa: SIM118 -- no mapping
INFO = error_details_pb2.ErrorInfo(reason="KMS_THROTTLED", domain="keyimport")


def _error(trailer: bytes | None, code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata() if trailer is None else grpc.aio.Metadata(("grpc-status-details-bin", trailer))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="A sentence.")


def _read(trailer: bytes | None) -> KeyImportError:
    return from_rpc(_error(trailer), changes_key=False)


@pytest.mark.parametrize("reason", REASONS)
async def test_each_reason_is_raised_as_its_class(reason: str, broker: FakeBroker, client: KeyImportClient) -> None:
    """A reason added to the proto without a class of its name fails here."""
    broker.fail("DiscardParameters", refusal(grpc.StatusCode.FAILED_PRECONDITION, reason, correlation_id="c-1", a="b"))

    with pytest.raises(KeyImportError) as raised:
        await client.discard(KEY_ID, b"token")

    error = raised.value
    assert type(error) is getattr(keyimport, reason.title().replace("_", ""))
    assert error.reason == reason
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.message == "A sentence for the caller."
    assert str(error) == f"{reason}: A sentence for the caller."
    assert error.metadata == {"correlation_id": "c-1", "a": "b"}
    assert error.correlation_id == "c-1"


def test_no_class_stands_for_a_reason_the_proto_lacks() -> None:
    """A reason removed from the proto, or misspelt here, fails here."""
    assert sorted(KeyImportError.by_reason) == sorted(REASONS)


def test_a_newer_reason_is_the_base_class() -> None:
    """A broker newer than this library is still understood."""
    error = _read(details(error_details_pb2.ErrorInfo(reason="MOON_TOO_FULL", domain="keyimport")))

    assert type(error) is KeyImportError
    assert error.reason == "MOON_TOO_FULL"


def test_another_domain_gives_no_reason() -> None:
    """A reason is believed only from the broker, not from a proxy that happens to use the same word."""
    error = _read(details(error_details_pb2.ErrorInfo(reason="KEY_NOT_FOUND", domain="proxy.example")))

    assert type(error) is KeyImportError
    assert (error.reason, error.metadata) == ("", {})
    assert str(error) == "RESOURCE_EXHAUSTED: A sentence."


def test_the_brokers_own_reason_is_found_among_others() -> None:
    """Details of foreign types and domains do not hide the broker's."""
    error = _read(
        details(
            error_details_pb2.Help(),
            error_details_pb2.ErrorInfo(reason="KEY_NOT_FOUND", domain="proxy.example"),
            INFO,
        )
    )

    assert type(error) is keyimport.KmsThrottled


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (duration_pb2.Duration(seconds=4), timedelta(seconds=4)),
        (duration_pb2.Duration(nanos=250_000_000), timedelta(milliseconds=250)),
        (duration_pb2.Duration(), timedelta(0)),
        (duration_pb2.Duration(seconds=-4), None),
        (duration_pb2.Duration(seconds=2**62), None),
    ],
)
def test_retry_info_is_read_as_a_timedelta(delay: duration_pb2.Duration, expected: timedelta | None) -> None:
    """What no one can wait for is left out."""
    error = _read(details(INFO, error_details_pb2.RetryInfo(retry_delay=delay)))

    assert error.retry_after == expected
    assert isinstance(error, keyimport.TryLater)


def test_a_bad_request_names_the_field() -> None:
    """The first field at fault is told."""
    violations = [error_details_pb2.BadRequest.FieldViolation(field=name) for name in ("valid_to", "key_id")]
    error = _read(details(INFO, error_details_pb2.BadRequest(field_violations=violations)))

    assert error.field == "valid_to"
    assert _read(details(INFO, error_details_pb2.BadRequest())).field is None


@pytest.mark.parametrize(
    "trailer",
    [
        None,
        b"",
        b"\xff\xfe not protobuf",
        details(INFO)[:-3],
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
        status_pb2.Status(details=[any_pb2.Any(type_url="no slash", value=b"\x0a")]).SerializeToString(),
    ],
)
def test_damaged_details_are_no_reason_and_no_crash(trailer: bytes | None) -> None:
    """What cannot be read leaves the status as it is."""
    error = _read(trailer)

    assert type(error) is KeyImportError
    assert (error.reason, error.code) == ("", grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_damaged_detail_does_not_hide_a_sound_one() -> None:
    """Each detail is read by itself."""
    damaged = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    status = status_pb2.Status.FromString(details(INFO))
    status.details.insert(0, damaged)

    error = _read(status.SerializeToString())

    assert type(error) is keyimport.KmsThrottled
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, OutcomeUnknown),
        (grpc.StatusCode.DEADLINE_EXCEEDED, OutcomeUnknown),
        (grpc.StatusCode.CANCELLED, OutcomeUnknown),
        (grpc.StatusCode.UNKNOWN, OutcomeUnknown),
        (grpc.StatusCode.INTERNAL, OutcomeUnknown),
        (grpc.StatusCode.UNIMPLEMENTED, KeyImportError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, KeyImportError),
    ],
)
def test_a_change_that_breaks_off_has_an_unknown_outcome(code: grpc.StatusCode, expected: type[KeyImportError]) -> None:
    """A status that gRPC made up says nothing of what became of an import; of a mere question it does not matter."""
    change = from_rpc(_error(None, code), changes_key=True)
    question = from_rpc(_error(None, code), changes_key=False)

    assert (type(change), change.reason, change.code) == (expected, "", code)
    assert type(question) is KeyImportError


def test_a_refusal_by_the_broker_is_no_unknown_outcome() -> None:
    """A reason of the broker's own says that the change was not made."""
    unavailable = details(error_details_pb2.ErrorInfo(reason="KMS_UNAVAILABLE", domain="keyimport"))

    error = from_rpc(_error(unavailable, grpc.StatusCode.UNAVAILABLE), changes_key=True)

    assert type(error) is keyimport.KmsUnavailable


def test_errors_survive_pickling() -> None:
    """An error raised in a worker process arrives whole."""
    error = _read(details(INFO, error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=4))))

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own

    assert (type(copy), vars(copy)) == (type(error), vars(error))
