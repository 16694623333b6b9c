"""One line for every request, written before its reply, with everything but the secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from typing import TYPE_CHECKING, Any

import pytest

from keybroker.errors import StartError
from keybroker.telemetry import JsonFormatter
from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

SPEC = pb.WRAPPING_KEY_SPEC_RSA_2048


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _import(parameters: Any, material: bytes = bytes(32)) -> pb.ImportKeyMaterialRequest:
    return pb.ImportKeyMaterialRequest(
        key_id=parameters.key_arn,
        import_token=parameters.import_token,
        encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", material),
        never_expires=True,
    )


async def test_a_handed_out_set_is_on_record(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """The line names who got which public key for which key, from where, and KMS's own request id."""
    arn, file = double.add_key(), tmp_path / "audit.log"
    async with run_broker(audit={"file": str(file)}) as broker:
        answer = await broker.stub.GetParametersForImport(pb.GetParametersForImportRequest(key_id=arn))
        line = _lines(file)[0]  # there before the reply, so certainly by now
        await broker.stub.ImportKeyMaterial(_import(answer))
        imported = _lines(file)[1]

    request_id = next(call.request_id for call in double.calls if call.operation == "GetParametersForImport")
    assert line.pop("time").endswith("+00:00")
    assert len(line.pop("correlation_id")) == 16
    assert len(line.pop("config_version")) == 12
    assert line.pop("valid_to").startswith(str(answer.parameters_valid_to.ToDatetime().date()))
    assert line == {
        "rpc": "GetParametersForImport",
        "caller": "local",
        "listener": broker.target,
        "key_arn": arn,
        "wrapping_algorithm": "RSAES_OAEP_SHA_256",
        "wrapping_key_spec": "RSA_4096",
        "public_key_sha256": answer.public_key_sha256.hex(),
        "source": "KMS",
        "aws_request_id": request_id,
        "code": "OK",
    }
    assert (imported["rpc"], imported["code"]) == ("ImportKeyMaterial", "OK")
    assert imported["public_key_sha256"] == answer.public_key_sha256.hex()
    assert imported["aws_request_id"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_refusal_is_on_record(run_broker: RunBroker, tmp_path: Path) -> None:
    """With its code and reason; what could not be parsed is not repeated."""
    file = tmp_path / "audit.log"
    async with run_broker(audit={"file": str(file)}) as broker:
        request = pb.GetParametersForImportRequest(key_id="alias/secret-project")
        refused = await refusal_of(broker.stub.GetParametersForImport(request))

    (line,) = _lines(file)
    assert (line["code"], line["reason"]) == ("INVALID_ARGUMENT", refused.reason)
    assert "key_arn" not in line
    assert "secret-project" not in file.read_text()


@pytest.mark.parametrize(
    ("operation", "fault", "reason"),
    [
        ("GetParametersForImport", "empty_token", "KMS_BAD_RESPONSE"),
        ("GetParametersForImport", "error:AccessDeniedException", "KMS_DENIED_BROKER"),
        ("DescribeKey", "error:KMSInternalException", "KMS_UNAVAILABLE"),
        ("ImportKeyMaterial", "error:InvalidCiphertextException", "KEY_MATERIAL_UNREADABLE"),
        ("ImportKeyMaterial", "wrong_arn", "OUTCOME_UNKNOWN"),
    ],
)
async def test_what_kms_answered_wrongly_can_be_found_in_cloudtrail(  # noqa: PLR0917 -- the cases'
    run_broker: RunBroker,
    double: KmsDouble,
    tmp_path: Path,
    operation: str,
    fault: str,
    reason: str,
) -> None:
    """The line has KMS's request id, of a failure too; the log has it beside the request's correlation id."""
    file = tmp_path / "audit.log"
    handler = logging.Handler()
    said: list[dict[str, Any]] = []
    handler.emit = lambda record: said.append(json.loads(JsonFormatter().format(record)))  # type: ignore[method-assign]
    logging.getLogger("keybroker.kms").addHandler(handler)
    try:
        async with run_broker(audit={"file": str(file)}) as broker:
            request = pb.GetParametersForImportRequest(key_id=double.add_key(), wrapping_key_spec=SPEC)
            if operation == "ImportKeyMaterial":
                wanted = _import(await broker.stub.GetParametersForImport(request))
                double.lie(operation, fault)
                await refusal_of(broker.stub.ImportKeyMaterial(wanted))
            else:
                double.lie(operation, fault)
                await refusal_of(broker.stub.GetParametersForImport(request))
    finally:
        logging.getLogger("keybroker.kms").removeHandler(handler)

    request_id = next(call.request_id for call in double.calls if call.operation == operation)
    line, (told,) = _lines(file)[-1], said
    assert (line["reason"], line["aws_request_id"]) == (reason, request_id)
    assert (told["aws_request_id"], told["correlation_id"]) == (request_id, line["correlation_id"])


async def test_an_import_whose_caller_left_is_on_record_when_it_ends(
    run_broker: RunBroker, double: KmsDouble, tmp_path: Path
) -> None:
    """CANCELLED, with KMS's request id: it happened."""
    arn, file = double.add_key(), tmp_path / "audit.log"
    async with run_broker(audit={"file": str(file)}) as broker:
        request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=SPEC)
        answer = await broker.stub.GetParametersForImport(request)
        double.latency["ImportKeyMaterial"] = 0.5
        leaving = broker.stub.ImportKeyMaterial(_import(answer))
        await double.reached("ImportKeyMaterial", 1)
        leaving.cancel()
        while len(_lines(file)) < 2:
            await asyncio.sleep(0.01)

    line = _lines(file)[1]
    assert line["code"] == "CANCELLED"
    assert line["aws_request_id"]
    assert "reason" not in line
    assert double.material(arn) == bytes(32)


async def test_a_moved_file_is_reopened(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """As log rotation does it: move, SIGHUP, and the next line is in a new file."""
    arn, file = double.add_key(), tmp_path / "audit.log"
    async with run_broker(audit={"file": str(file)}) as broker:
        request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=SPEC)
        await broker.stub.GetParametersForImport(request)
        file.rename(tmp_path / "audit.log.1")
        await broker.stub.GetParametersForImport(request)
        broker.app.reload()
        await broker.stub.GetParametersForImport(request)

    assert len(_lines(tmp_path / "audit.log.1")) == 2
    assert len(_lines(file)) == 1


async def test_what_cannot_be_recorded_is_refused(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """On a full disk no set is handed out and, once that is known, no import is begun; with room again all is well."""
    arn = double.add_key()
    async with run_broker(audit={"file": "/dev/full"}) as broker:
        request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=SPEC)
        refused = await refusal_of(broker.stub.GetParametersForImport(request))
        parameters = pb.GetParametersForImportResponse(key_arn=arn, import_token=b"token")
        parameters.public_key = _any_public_key()
        refused_import = await refusal_of(broker.stub.ImportKeyMaterial(_import(parameters)))
        malformed = await refusal_of(broker.stub.GetParametersForImport(pb.GetParametersForImportRequest()))
        told = broker.app._ground.metrics
        broker.app._audit._file = str(tmp_path / "good.log")
        broker.app.reload()
        handled = {
            sample.labels["grpc_code"]: sample.value
            for metric in told.handled.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.labels["grpc_method"] == "GetParametersForImport"
        }
        served = await broker.stub.GetParametersForImport(request)

    assert (refused.reason, refused_import.reason, malformed.reason) == ("INTERNAL", "INTERNAL", "INTERNAL")
    assert {code: count for code, count in handled.items() if count} == {"Internal": 2}
    assert double.count("ImportKeyMaterial") == 0
    assert served.key_arn == arn


def _any_public_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def test_a_link_in_the_files_place_is_not_followed(run_broker: RunBroker, tmp_path: Path) -> None:
    """Nobody redirects the record by putting a link there."""
    file = tmp_path / "audit.log"
    file.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StartError, match=r"audit\.file"):
        async with run_broker(audit={"file": str(file)}):
            pass
