"""Imports, deletes and discards as a client sees them, and what of them reaches KMS."""

from __future__ import annotations

import asyncio
import base64
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from keybroker import interceptors
from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.key_work import new_material
from tests.kms_gate import Gate
from tests.kms_keys import material_id
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

GET = "GetParametersForImport"
IMPORT = "ImportKeyMaterial"
DELETE = "DeleteImportedKeyMaterial"
DISCARD = "DiscardParameters"
PATIENCE = 20.0  # seconds, on a busy machine
EVERY_KEY = ["arn:aws:kms:*:*:key/*"]
NOW = datetime.now(UTC).replace(microsecond=0)


def _get(arn: str, algorithm: str = "RSAES_OAEP_SHA_256") -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(
        key_id=arn,
        wrapping_algorithm=pb.WrappingAlgorithm.Value(f"WRAPPING_ALGORITHM_{algorithm}"),
        wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048,
    )


def _import(parameters: Any, material: bytes, **fields: Any) -> pb.ImportKeyMaterialRequest:
    """A request that is right, but for what the fields say; without any, the material never expires."""
    request = pb.ImportKeyMaterialRequest(
        key_id=parameters.key_arn,
        import_token=parameters.import_token,
        encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", material),
    )
    request.MergeFrom(pb.ImportKeyMaterialRequest(**(fields or {"never_expires": True})))
    return request


def _at(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _sent(double: KmsDouble, operation: str) -> list[dict[str, Any]]:
    """What KMS was asked for, without the token and the ciphertext."""
    return [
        {name: value for name, value in call.request.items() if name not in ("ImportToken", "EncryptedKeyMaterial")}
        for call in double.calls
        if call.operation == operation
    ]


async def _next_set(broker: RunningBroker, parameters: Any) -> Any:
    """The set that is handed out once this one no longer is."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await broker.stub.GetParametersForImport(_get(parameters.key_arn))
            if answer.import_token != parameters.import_token:
                return answer
            await asyncio.sleep(0.01)


async def test_material_that_never_expires(run_broker: RunBroker, double: KmsDouble) -> None:
    """The very bytes arrive, and KMS is told no more than what was chosen."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    async with run_broker() as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn))
        answer = await broker.stub.ImportKeyMaterial(_import(parameters, material))

    assert double.material(arn) == material
    assert (answer.key_arn, answer.key_material_id) == (arn, material_id(arn, material))
    assert _sent(double, IMPORT) == [{"KeyId": arn, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}]


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=30), timedelta(days=364, hours=23)])
async def test_material_that_expires(run_broker: RunBroker, double: KmsDouble, ahead: timedelta) -> None:
    """KMS is told the moment to the second, up to a year ahead."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    async with run_broker() as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn))
        await broker.stub.ImportKeyMaterial(_import(parameters, material, valid_to=_at(NOW + ahead)))

    assert double.material(arn) == material
    assert _sent(double, IMPORT) == [
        {"KeyId": arn, "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": (NOW + ahead).timestamp()}
    ]


async def test_a_bare_key_id_is_imported_into_by_its_arn(run_broker: RunBroker, double: KmsDouble) -> None:
    """KMS hears the full ARN, and so does the caller."""
    arn = double.add_key()
    async with run_broker() as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn))
        request = _import(parameters, bytes(32))
        request.key_id = arn.rpartition("/")[2]
        answer = await broker.stub.ImportKeyMaterial(request)

    assert answer.key_arn == arn
    assert [sent["KeyId"] for sent in _sent(double, IMPORT)] == [arn]


async def test_what_is_said_of_the_material_reaches_kms(run_broker: RunBroker, double: KmsDouble) -> None:
    """Import type, material id and description pass through, and the id in the answer is the one to come back with."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    fresh = {"import_type": pb.IMPORT_TYPE_NEW_KEY_MATERIAL, "key_material_description": "batch 7: HSM_a/slot-1"}
    async with run_broker() as broker:
        first = await broker.stub.GetParametersForImport(_get(arn))
        imported = await broker.stub.ImportKeyMaterial(_import(first, material, never_expires=True, **fresh))
        second = await broker.stub.GetParametersForImport(_get(arn))
        known = {"import_type": pb.IMPORT_TYPE_EXISTING_KEY_MATERIAL, "key_material_id": imported.key_material_id}
        again = await broker.stub.ImportKeyMaterial(_import(second, material, never_expires=True, **known))

    expected = {"KeyId": arn, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    assert _sent(double, IMPORT) == [
        expected | {"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "batch 7: HSM_a/slot-1"},
        expected | {"ImportType": "EXISTING_KEY_MATERIAL", "KeyMaterialId": imported.key_material_id},
    ]
    assert again.key_material_id == imported.key_material_id == material_id(arn, material)


FOREVER = {"never_expires": True}
MALFORMED: dict[str, tuple[str, dict[str, Any]]] = {
    "neither expiration": ("expiration", {"import_type": pb.IMPORT_TYPE_NEW_KEY_MATERIAL}),
    "never_expires is false": ("never_expires", {"never_expires": False}),
    "valid_to a second ago": ("valid_to", {"valid_to": _at(NOW - timedelta(seconds=1))}),
    "valid_to in 1970": ("valid_to", {"valid_to": Timestamp()}),
    "valid_to in 366 days": ("valid_to", {"valid_to": _at(NOW + timedelta(days=366))}),
    "valid_to past the calendar": ("valid_to", {"valid_to": Timestamp(seconds=2**62)}),
    "valid_to before the calendar": ("valid_to", {"valid_to": Timestamp(seconds=-(2**62))}),
    "valid_to of odd nanoseconds": ("valid_to", {"valid_to": Timestamp(seconds=_at(NOW).seconds + 60, nanos=-5)}),
    "a token too long": ("import_token", {"import_token": bytes(6145), **FOREVER}),
    "material too long": ("encrypted_key_material", {"encrypted_key_material": bytes(6145), **FOREVER}),
    "an import type of tomorrow": ("import_type", {"import_type": 99, **FOREVER}),
    "a material id too short": ("key_material_id", {"key_material_id": "ab" * 31, **FOREVER}),
    "a material id in capitals": ("key_material_id", {"key_material_id": "AB" * 32, **FOREVER}),
    "a material id with a line end": ("key_material_id", {"key_material_id": "ab" * 32 + "\n", **FOREVER}),
    "an id of new material": (
        "key_material_id",
        {"key_material_id": "ab" * 32, "import_type": pb.IMPORT_TYPE_NEW_KEY_MATERIAL, **FOREVER},
    ),
    "a description too long": ("key_material_description", {"key_material_description": "x" * 257, **FOREVER}),
    "a description with a quote": ("key_material_description", {"key_material_description": "it's", **FOREVER}),
    "a description beyond ASCII": ("key_material_description", {"key_material_description": "Schlüssel", **FOREVER}),
}


@pytest.mark.parametrize(("field", "fields"), MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_import_is_refused_by_its_field(
    run_broker: RunBroker, double: KmsDouble, field: str, fields: dict[str, Any]
) -> None:
    """The refusal names the field at fault, KMS hears nothing, and the set is still good."""
    arn = double.add_key()
    async with run_broker() as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn))
        refused = await refusal_of(broker.stub.ImportKeyMaterial(_import(parameters, bytes(32), **fields)))
        sent = double.count(IMPORT)
        await broker.stub.ImportKeyMaterial(_import(parameters, bytes(32)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")
    assert refused.field == field
    assert sent == 0


@pytest.mark.parametrize("field", ["import_token", "encrypted_key_material"])
async def test_an_empty_blob_is_refused(run_broker: RunBroker, double: KmsDouble, field: str) -> None:
    """A field forgotten is named, and KMS hears nothing."""
    arn = double.add_key()
    async with run_broker() as broker:
        request = _import(await broker.stub.GetParametersForImport(_get(arn)), bytes(32))
        request.ClearField(field)  # type: ignore[arg-type]  # the stubs list the names, the parameter is a str
        refused = await refusal_of(broker.stub.ImportKeyMaterial(request))

    assert (refused.reason, refused.field) == ("REQUEST_MALFORMED", field)
    assert double.count(IMPORT) == 0


OAEP, AES_KEY_WRAP = "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("token_known", [True, False])
@pytest.mark.parametrize(
    ("key_spec", "algorithm", "spelled"),
    [
        ("SYMMETRIC_DEFAULT", OAEP, bytes),
        ("HMAC_512", OAEP, bytes),
        ("ECC_NIST_P521", AES_KEY_WRAP, bytes),
        ("ECC_NIST_P521", AES_KEY_WRAP, _pem),
        ("RSA_2048", AES_KEY_WRAP, bytes),
        ("RSA_2048", AES_KEY_WRAP, _pem),
        ("RSA_4096", AES_KEY_WRAP, bytes),
        ("RSA_4096", AES_KEY_WRAP, base64.b64encode),
    ],
)
async def test_plain_text_does_not_leave_for_kms(
    run_broker: RunBroker,
    double: KmsDouble,
    key_spec: str,
    algorithm: str,
    spelled: Callable[[bytes], bytes],
    *,
    token_known: bool,
) -> None:
    """Key material that someone forgot to wrap is refused here, whatever its spelling."""
    arn = double.add_key(key_spec)
    async with run_broker() as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn, algorithm))
        request = pb.ImportKeyMaterialRequest(
            key_id=arn,
            import_token=parameters.import_token if token_known else bytes(1792),
            encrypted_key_material=spelled(new_material(key_spec)),
            never_expires=True,
        )
        refused = await refusal_of(broker.stub.ImportKeyMaterial(request))

    assert (refused.reason, refused.field) == ("REQUEST_MALFORMED", "encrypted_key_material")
    assert double.count(IMPORT) == 0


@pytest.mark.parametrize(
    ("key_spec", "algorithm"), [("SYMMETRIC_DEFAULT", OAEP), ("ECC_NIST_P256", OAEP), ("RSA_2048", AES_KEY_WRAP)]
)
async def test_base64_does_not_leave_for_kms(
    run_broker: RunBroker, double: KmsDouble, key_spec: str, algorithm: str
) -> None:
    """What other tools print is text; bytes are what is wanted, and the refusal says so."""
    arn = double.add_key(key_spec)
    async with run_broker() as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn, algorithm))
        request = _import(parameters, bytes(32))
        request.encrypted_key_material = base64.b64encode(
            wrap(parameters.public_key, algorithm, new_material(key_spec))
        )
        refused = await refusal_of(broker.stub.ImportKeyMaterial(request))

    assert (refused.reason, refused.field) == ("REQUEST_MALFORMED", "encrypted_key_material")
    assert double.count(IMPORT) == 0


async def test_an_import_consumes_its_set(run_broker: RunBroker, double: KmsDouble) -> None:
    """Nobody knows whether KMS takes a token twice: who asks next gets a set of his own time, from KMS."""
    arn = double.add_key()
    async with run_broker() as broker:
        first = await broker.stub.GetParametersForImport(_get(arn))
        await broker.stub.ImportKeyMaterial(_import(first, bytes(32)))
        second = await broker.stub.GetParametersForImport(_get(arn))
        third = await broker.stub.GetParametersForImport(_get(arn))

    assert second.import_token != first.import_token
    assert (second.source, third.source) == (pb.PARAMETERS_SOURCE_KMS, pb.PARAMETERS_SOURCE_CACHE)
    assert third.import_token == second.import_token
    assert double.count(GET) == 2


async def test_until_expiry_keeps_the_set(run_broker: RunBroker, double: KmsDouble) -> None:
    """Who knows his KMS may say that a token is good for many imports."""
    double.keys.single_use = False
    arn = double.add_key()
    async with run_broker(parameters={"reuse": "until-expiry"}) as broker:
        first = await broker.stub.GetParametersForImport(_get(arn))
        await broker.stub.ImportKeyMaterial(_import(first, bytes(32)))
        second = await broker.stub.GetParametersForImport(_get(arn))
        await broker.stub.ImportKeyMaterial(_import(second, bytes(32)))

    assert second.import_token == first.import_token
    assert second.source == pb.PARAMETERS_SOURCE_CACHE
    assert (double.count(GET), double.count(IMPORT)) == (1, 2)


async def test_a_discarded_set_is_forgotten(run_broker: RunBroker, double: KmsDouble) -> None:
    """The reported set alone: the other key's stays, and KMS is not told."""
    spent, kept = double.add_key(), double.add_key()
    async with run_broker() as broker:
        first = await broker.stub.GetParametersForImport(_get(spent))
        other = await broker.stub.GetParametersForImport(_get(kept))
        discard = pb.DiscardParametersRequest(key_id=spent, import_token=first.import_token)
        answers = [await broker.stub.DiscardParameters(discard) for _ in range(2)]
        second = await broker.stub.GetParametersForImport(_get(spent))
        same = await broker.stub.GetParametersForImport(_get(kept))

    assert answers == [pb.DiscardParametersResponse()] * 2
    assert second.import_token != first.import_token
    assert (second.source, same.source) == (pb.PARAMETERS_SOURCE_KMS, pb.PARAMETERS_SOURCE_CACHE)
    assert same.import_token == other.import_token


async def test_a_discard_needs_the_right_token(run_broker: RunBroker, double: KmsDouble) -> None:
    """Another token, or another key's, discards nothing; none at all is refused."""
    arn, other = double.add_key(), double.add_key()
    async with run_broker() as broker:
        first = await broker.stub.GetParametersForImport(_get(arn))
        for key_id, token in ((arn, bytes(1792)), (other, first.import_token)):
            await broker.stub.DiscardParameters(pb.DiscardParametersRequest(key_id=key_id, import_token=token))
        refused = await refusal_of(broker.stub.DiscardParameters(pb.DiscardParametersRequest(key_id=arn)))
        second = await broker.stub.GetParametersForImport(_get(arn))

    assert second.import_token == first.import_token
    assert (refused.reason, refused.field) == ("REQUEST_MALFORMED", "import_token")


async def test_a_delete_is_denied_by_default(run_broker: RunBroker, double: KmsDouble) -> None:
    """Where the settings name no callers, nobody makes a key unusable; whether it exists is not told."""
    arn = double.add_key(state="Enabled")
    absent = f"{arn.rpartition('/')[0]}/00000000-0000-4000-8000-000000000000"
    async with run_broker() as broker:
        denied, same = [
            await refusal_of(broker.stub.DeleteImportedKeyMaterial(pb.DeleteImportedKeyMaterialRequest(key_id=key_id)))
            for key_id in (arn, absent)
        ]

    assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED")
    assert denied == same
    assert [call for call in double.calls if call.key_id] == []


async def test_a_delete_is_granted_by_name(run_broker: RunBroker, double: KmsDouble) -> None:
    """The material is gone, its id is told, and an id in the request reaches KMS."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    callers = [{"id": "local", "keys": EVERY_KEY, "operations": [GET, IMPORT, DELETE]}]
    async with run_broker(callers=callers) as broker:
        parameters = await broker.stub.GetParametersForImport(_get(arn))
        imported = await broker.stub.ImportKeyMaterial(_import(parameters, material))
        requests = [
            pb.DeleteImportedKeyMaterialRequest(key_id=arn, key_material_id=identifier)
            for identifier in (imported.key_material_id, "")
        ]
        answers = [await broker.stub.DeleteImportedKeyMaterial(request) for request in requests]

    assert double.material(arn) is None
    assert {(answer.key_arn, answer.key_material_id) for answer in answers} == {(arn, imported.key_material_id)}
    assert _sent(double, DELETE) == [{"KeyId": arn, "KeyMaterialId": imported.key_material_id}, {"KeyId": arn}]


@pytest.mark.parametrize(
    ("granted", "allowed"),
    [(GET, {GET, DISCARD}), (IMPORT, {IMPORT}), (DELETE, {DELETE}), (DISCARD, {DISCARD})],
)
async def test_a_grant_covers_its_operation_alone(
    run_broker: RunBroker, double: KmsDouble, granted: str, allowed: set[str]
) -> None:
    """What is not granted is denied, but that who may get sets may report them too."""
    arn = double.add_key()
    requests = {
        GET: _get(arn),
        IMPORT: pb.ImportKeyMaterialRequest(
            key_id=arn, import_token=b"t", encrypted_key_material=bytes(256), never_expires=True
        ),
        DELETE: pb.DeleteImportedKeyMaterialRequest(key_id=arn),
        DISCARD: pb.DiscardParametersRequest(key_id=arn, import_token=b"t"),
    }
    denied = set()
    async with run_broker(callers=[{"id": "local", "keys": EVERY_KEY, "operations": [granted]}]) as broker:
        for name, request in requests.items():
            try:
                await getattr(broker.stub, name)(request)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                    denied.add(name)

    assert set(requests) - denied == allowed


async def test_an_unknown_token_is_for_kms_to_judge(run_broker: RunBroker, double: KmsDouble) -> None:
    """The broker may have been restarted since: it asks, once, tells what KMS says, and keeps the set it knows."""
    arn, other = double.add_key(), double.add_key()
    async with run_broker() as broker:
        own = await broker.stub.GetParametersForImport(_get(arn))
        foreign = await broker.stub.GetParametersForImport(_get(other))
        refusals = []
        for token in (secrets.token_bytes(1792), foreign.import_token):
            request = _import(own, bytes(32))
            request.import_token = token
            refusals.append(await refusal_of(broker.stub.ImportKeyMaterial(request)))
        kept = [await broker.stub.GetParametersForImport(_get(key)) for key in (arn, other)]

    for refused in refusals:
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_TOKEN_INVALID")
    assert double.count(IMPORT) == 2
    assert [answer.import_token for answer in kept] == [own.import_token, foreign.import_token]


async def test_a_set_of_before_the_restart_is_imported_with(run_broker: RunBroker, double: KmsDouble) -> None:
    """A token the broker does not know is as good as any, if it is good to KMS."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    async with run_broker() as before:
        parameters = await before.stub.GetParametersForImport(_get(arn))
    async with run_broker() as after:
        answer = await after.stub.ImportKeyMaterial(_import(parameters, material))

    assert answer.key_arn == arn
    assert double.material(arn) == material


async def test_a_caller_who_leaves_stops_no_import(run_broker: RunBroker, double: KmsDouble) -> None:
    """Cancelled while KMS works: the import is seen through all the same, once, and consumes its set."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    gate = Gate(double, IMPORT)
    async with run_broker() as broker:
        first = await broker.stub.GetParametersForImport(_get(arn))
        leaving = broker.stub.ImportKeyMaterial(_import(first, material))
        await double.reached(IMPORT)
        leaving.cancel()
        kept = await broker.stub.GetParametersForImport(_get(arn))
        gate.open()
        second = await _next_set(broker, first)

    assert kept.import_token == first.import_token
    assert second.source == pb.PARAMETERS_SOURCE_KMS
    assert double.material(arn) == material
    assert (double.count(IMPORT), gate.abandoned) == (1, 0)


async def test_a_deadline_in_mid_import_leaves_the_outcome_open(
    run_broker: RunBroker, double: KmsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker says so before the deadline says less; the import is seen through, once, and consumes its set."""
    monkeypatch.setattr(interceptors, "RETURN_OVERHEAD", 1.0)  # a tenth of the deadline: enough on a busy machine
    arn, material = double.add_key(), secrets.token_bytes(32)
    gate = Gate(double, IMPORT)
    async with run_broker() as broker:
        first = await broker.stub.GetParametersForImport(_get(arn))
        refused = await refusal_of(broker.stub.ImportKeyMaterial(_import(first, material), timeout=3))
        gate.open()
        second = await _next_set(broker, first)

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN")
    assert refused.retry_after is None
    assert second.source == pb.PARAMETERS_SOURCE_KMS
    assert double.material(arn) == material
    assert (double.count(IMPORT), gate.abandoned) == (1, 0)
