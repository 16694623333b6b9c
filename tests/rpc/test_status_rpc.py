"""GetKeyImportStatus tells what KMS says of a key now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]


def _status(key_id: str) -> pb.GetKeyImportStatusRequest:
    return pb.GetKeyImportStatusRequest(key_id=key_id)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({}, ("SYMMETRIC_DEFAULT", "PendingImport", True, False)),
        ({"key_spec": "ECC_NIST_P256", "multi_region": True}, ("ECC_NIST_P256", "PendingImport", True, True)),
        ({"origin": "AWS_KMS", "state": "Enabled"}, ("SYMMETRIC_DEFAULT", "Enabled", False, False)),
        ({"state": "PendingDeletion"}, ("SYMMETRIC_DEFAULT", "PendingDeletion", True, False)),
    ],
)
async def test_every_kind_of_key_is_described(
    run_broker: RunBroker, double: KmsDouble, key: dict[str, object], expected: tuple[object, ...]
) -> None:
    """Those that take no import as well: to see that is what one asks for."""
    arn = double.add_key(**key)  # type: ignore[arg-type]
    async with run_broker() as broker:
        answer = await broker.stub.GetKeyImportStatus(_status(arn))

    assert (answer.key_arn, answer.HasField("material_valid_to")) == (arn, False)
    assert (answer.key_spec, answer.key_state, answer.external_origin, answer.multi_region) == expected


async def test_an_import_shows_at_once(run_broker: RunBroker, double: KmsDouble) -> None:
    """Nothing of it is remembered: each request asks KMS."""
    arn = double.add_key()
    valid_to = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    async with run_broker() as broker:
        before = await broker.stub.GetKeyImportStatus(_status(arn))
        parameters = await broker.stub.GetParametersForImport(
            pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
        )
        request = pb.ImportKeyMaterialRequest(
            key_id=arn,
            import_token=parameters.import_token,
            encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", bytes(32)),
        )
        request.valid_to.FromDatetime(valid_to)
        await broker.stub.ImportKeyMaterial(request)
        after = await broker.stub.GetKeyImportStatus(_status(arn.rpartition("/")[2]))

    assert (before.key_state, after.key_state) == ("PendingImport", "Enabled")
    assert after.material_valid_to.ToDatetime(tzinfo=UTC) == valid_to


async def test_refusals_are_those_of_every_request(run_broker: RunBroker, double: KmsDouble) -> None:
    """By the key id, the account and the grants, before KMS is asked; and what KMS does not know."""
    arn = double.add_key()
    callers = [{"id": "local", "keys": [arn], "operations": ["GetKeyImportStatus"]}]
    unknown = "00000000-0000-0000-0000-000000000000"
    asked = {
        "alias/root": "ALIAS_NOT_ALLOWED",
        "root": "KEY_ID_MALFORMED",
        f"arn:aws:kms:us-east-1:999988887777:key/{unknown}": "FOREIGN_ACCOUNT",
        unknown: "CALLER_NOT_AUTHORIZED",
    }
    async with run_broker(callers=callers) as broker:
        reasons = {key: (await refusal_of(broker.stub.GetKeyImportStatus(_status(key)))).reason for key in asked}
        answer = await broker.stub.GetKeyImportStatus(_status(arn))
        get = await refusal_of(broker.stub.GetParametersForImport(pb.GetParametersForImportRequest(key_id=arn)))
    async with run_broker() as broker:
        not_found = await refusal_of(broker.stub.GetKeyImportStatus(_status(unknown)))

    assert reasons == asked
    assert answer.key_arn == arn
    assert get.reason == "CALLER_NOT_AUTHORIZED"
    assert not_found.reason == "KEY_NOT_FOUND"
    assert double.count("DescribeKey") == 2


async def test_a_broker_that_may_not_describe_says_so(run_broker: RunBroker, double: KmsDouble) -> None:
    """KMS_DENIED_BROKER, where GetParametersForImport would go on without."""
    arn = double.add_key()
    double.lie("DescribeKey", "error:AccessDeniedException")
    async with run_broker() as broker:
        refusal = await refusal_of(broker.stub.GetKeyImportStatus(_status(arn)))

    assert refusal.reason == "KMS_DENIED_BROKER"
