"""KMS has trouble with one key, and its caller repeats it: nobody else may notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keybroker.guarded_kms import FAILURES
from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.kms_errors import KmsError
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from aiohttp import web

    from tests.conftest import RunningBroker
    from tests.kms_double import Exchange, KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

TROUBLE = KmsError("KMSInternalException")


def _import_of(answer: pb.GetParametersForImportResponse) -> pb.ImportKeyMaterialRequest:
    return pb.ImportKeyMaterialRequest(
        key_id=answer.key_arn,
        import_token=answer.import_token,
        encrypted_key_material=wrap(answer.public_key, "RSAES_OAEP_SHA_256", bytes(32)),
        never_expires=True,
    )


async def test_one_key_that_kms_cannot_import_into_stops_no_other(run_broker: RunBroker, double: KmsDouble) -> None:
    """Sets are handed out and others' imports done, however often the one is repeated."""
    bad = double.add_key()

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if exchange.call.key_id == bad:
            return exchange.failure(TROUBLE)
        return exchange.success(await exchange.carry_out())

    async with run_broker() as broker:

        async def get(arn: str) -> Any:
            request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
            return await broker.stub.GetParametersForImport(request)

        doomed = _import_of(await get(bad))
        double.lie("ImportKeyMaterial", answer)
        reasons = {(await refusal_of(broker.stub.ImportKeyMaterial(doomed))).reason for _ in range(FAILURES + 2)}
        tried = [call.key_id for call in double.calls if call.operation == "ImportKeyMaterial"]
        others = [await get(double.add_key()) for _ in range(3)]
        for each in others:
            await broker.stub.ImportKeyMaterial(_import_of(each))

    assert reasons == {"KMS_UNAVAILABLE"}
    assert tried == [bad] * (FAILURES + 2)
    assert [double.material(each.key_arn) for each in others] == [bytes(32)] * 3
