"""KMS lies, breaks and refuses: each time the contract's reason, and nothing bad is kept or handed out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from keybroker.telemetry import JsonFormatter
from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.kms_double import CANARY, FAULTS
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import Refusal, RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

CALL_LIMIT = 1.0  # seconds; the faults that hang take this long each
MATERIAL_CANARY = b"canary-of-the-key-material-32-by"

_CREDENTIALS = {
    "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId", "InvalidSignatureException",
    "MissingAuthenticationToken", "OptInRequired", "RequestExpired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip
ERROR_REASONS = {
    "AccessDeniedException": "KMS_DENIED_BROKER",
    "DependencyTimeoutException": "KMS_UNAVAILABLE",
    "DisabledException": "KEY_STATE_INCOMPATIBLE",
    "ExpiredImportTokenException": "IMPORT_TOKEN_EXPIRED",
    "IncorrectKeyMaterialException": "KEY_MATERIAL_MISMATCH",
    "InternalFailure": "KMS_UNAVAILABLE",
    "InvalidArnException": "KEY_ID_MALFORMED",
    "InvalidCiphertextException": "KEY_MATERIAL_UNREADABLE",
    "InvalidImportTokenException": "IMPORT_TOKEN_INVALID",
    "KMSInternalException": "KMS_UNAVAILABLE",
    "KMSInvalidStateException": "KEY_STATE_INCOMPATIBLE",
    "LimitExceededException": "KMS_THROTTLED",
    "NotFoundException": "KEY_NOT_FOUND",
    "RequestLimitExceeded": "KMS_THROTTLED",
    "SerializationException": "REQUEST_MALFORMED",
    "ServiceUnavailable": "KMS_UNAVAILABLE",
    "ThrottlingException": "KMS_THROTTLED",
    "TooManyRequestsException": "KMS_THROTTLED",
    "UnheardOfException": "KMS_BAD_RESPONSE",
    "UnknownOperationException": "KMS_BAD_RESPONSE",
    "UnsupportedOperationException": "KEY_NOT_EXTERNAL",
    "ValidationException": "REQUEST_MALFORMED",
    **dict.fromkeys(_CREDENTIALS, "BROKER_CREDENTIALS"),
}
_SILENCES = {"slow_drip", "hang", "hang_after_work", "close_before_answer", "close_after_work", "reset_mid_answer"}


def expected_reason(operation: str, fault: str) -> str:
    """What the contract says of a fault that befalls an operation."""
    changes = operation in ("ImportKeyMaterial", "DeleteImportedKeyMaterial")
    if fault.startswith("error:"):
        code = fault.removeprefix("error:")
        if code == "UnsupportedOperationException" and operation == "GetParametersForImport":
            return "WRAPPING_UNSUITABLE"  # DescribeKey has just said that the origin is EXTERNAL
        if code == "UnsupportedOperationException" and operation == "ImportKeyMaterial":
            return "REQUEST_MALFORMED"  # likewise
        return ERROR_REASONS[code]
    if fault == "throttle":
        return "KMS_THROTTLED"
    if changes:
        return "OUTCOME_UNKNOWN"
    return "KMS_UNAVAILABLE" if fault in _SILENCES | {"html_503"} else "KMS_BAD_RESPONSE"


def faults_of(operation: str) -> list[str]:
    """Every fault that can befall an operation."""
    return [name for name, fault in FAULTS.items() if operation in fault.operations]


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Everything the process has logged so far, as the log would show it."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(JsonFormatter().format(record) + record.getMessage() for record in caplog.records)


def _request(arn: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)


def _assert_tells_nothing(refusal: Refusal) -> None:
    assert CANARY not in repr(refusal)
    assert MATERIAL_CANARY.decode() not in repr(refusal)


@pytest.mark.parametrize("operation", ["DescribeKey", "GetParametersForImport"])
async def test_faults_of_a_fetch(
    run_broker: RunBroker, double: KmsDouble, written: Callable[[], str], operation: str
) -> None:
    """Each fault has its reason; the next caller gets an honest set, and what was in the cache is served meanwhile."""
    cached = double.add_key()
    reasons: dict[str, str] = {}
    async with run_broker(call_limit=CALL_LIMIT, kms={"requests_per_second": 1000.0}) as broker:
        await broker.stub.GetParametersForImport(_request(cached))
        for fault in faults_of(operation):
            if (operation, fault) == ("DescribeKey", "error:AccessDeniedException"):
                continue  # no refusal: see the next test
            arn = double.add_key()
            double.lie(operation, fault, times=1)
            refusal = await refusal_of(broker.stub.GetParametersForImport(_request(arn)))
            reasons[fault] = refusal.reason
            _assert_tells_nothing(refusal)

            kept = await broker.stub.GetParametersForImport(_request(cached))
            assert kept.source == pb.PARAMETERS_SOURCE_CACHE
            double.honest()
            if refusal.reason not in ("KEY_NOT_FOUND", "KEY_NOT_EXTERNAL", "KEY_STATE_INCOMPATIBLE"):
                await _assert_honest_set(broker, double, arn)

    assert {fault: expected_reason(operation, fault) for fault in reasons} == reasons
    assert double.redirect_target_hits == 0
    assert CANARY not in written()


async def _assert_honest_set(broker: RunningBroker, double: KmsDouble, arn: str) -> None:
    answer = await broker.stub.GetParametersForImport(_request(arn))
    assert answer.source == pb.PARAMETERS_SOURCE_KMS
    assert answer.key_arn == arn
    await broker.stub.ImportKeyMaterial(_import(answer))
    assert double.material(arn) == MATERIAL_CANARY


def _import(parameters: Any) -> pb.ImportKeyMaterialRequest:
    return pb.ImportKeyMaterialRequest(
        key_id=parameters.key_arn,
        import_token=parameters.import_token,
        encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", MATERIAL_CANARY),
        never_expires=True,
    )


async def test_a_role_that_may_not_describe_keys_is_no_fault_of_the_caller(
    run_broker: RunBroker, double: KmsDouble
) -> None:
    """Denied DescribeKey, the broker goes on without it."""
    arn = double.add_key()
    double.lie("DescribeKey", "error:AccessDeniedException")
    async with run_broker() as broker:
        answer = await broker.stub.GetParametersForImport(_request(arn))

    assert answer.key_arn == arn


async def test_faults_of_an_import(run_broker: RunBroker, double: KmsDouble, written: Callable[[], str]) -> None:
    """Each fault has its reason; where KMS may have acted, the answer says so and the set is not handed out again."""
    reasons: dict[str, str] = {}
    async with run_broker(call_limit=CALL_LIMIT) as broker:
        for fault in faults_of("ImportKeyMaterial"):
            arn = double.add_key()
            parameters = await broker.stub.GetParametersForImport(_request(arn))
            double.lie("ImportKeyMaterial", fault, times=1)
            sent_before = double.count("ImportKeyMaterial")

            refusal = await refusal_of(broker.stub.ImportKeyMaterial(_import(parameters)))

            reasons[fault] = refusal.reason
            _assert_tells_nothing(refusal)
            assert double.count("ImportKeyMaterial") == sent_before + 1
            double.honest()
            again = await broker.stub.GetParametersForImport(_request(arn))
            ended = refusal.reason in (
                "OUTCOME_UNKNOWN", "IMPORT_TOKEN_INVALID", "IMPORT_TOKEN_EXPIRED", "KEY_MATERIAL_MISMATCH"
            )  # fmt: skip
            assert ended == (again.import_token != parameters.import_token), fault
            # An answer in between, or imports would be taken to be down after the third that did not come.
            await broker.stub.ImportKeyMaterial(_import(again))

    assert {fault: expected_reason("ImportKeyMaterial", fault) for fault in reasons} == reasons
    assert double.redirect_target_hits == 0
    assert CANARY not in written()
    assert MATERIAL_CANARY.decode() not in written()


async def test_faults_of_a_delete(run_broker: RunBroker, double: KmsDouble, written: Callable[[], str]) -> None:
    """Each fault has its reason, and a delete is sent once."""
    callers = [{"id": "local", "keys": ["arn:aws:kms:*:*:key/*"], "operations": ["DeleteImportedKeyMaterial"]}]
    reasons: dict[str, str] = {}
    async with run_broker(call_limit=CALL_LIMIT, callers=callers) as broker:
        for fault in faults_of("DeleteImportedKeyMaterial"):
            arn = double.add_key(state="Enabled")
            double.lie("DeleteImportedKeyMaterial", fault, times=1)

            refusal = await refusal_of(
                broker.stub.DeleteImportedKeyMaterial(pb.DeleteImportedKeyMaterialRequest(key_id=arn))
            )

            reasons[fault] = refusal.reason
            _assert_tells_nothing(refusal)
            double.honest()
            # An answer in between, as above.
            await broker.stub.DeleteImportedKeyMaterial(
                pb.DeleteImportedKeyMaterialRequest(key_id=double.add_key(state="Enabled"))
            )

    assert {fault: expected_reason("DeleteImportedKeyMaterial", fault) for fault in reasons} == reasons
    assert double.count("DeleteImportedKeyMaterial") == 2 * len(reasons)
    assert double.redirect_target_hits == 0
    assert CANARY not in written()
