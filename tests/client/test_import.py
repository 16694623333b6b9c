"""One call imports key material, which leaves the process wrapped, once, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import keyimport
from keyimport import (
    ErrorReason,
    ImportedKeyMaterial,
    ImportTokenExpired,
    ImportTokenInvalid,
    ImportType,
    KeyImportClient,
    KeyImportError,
    MaterialUnsuitable,
    OutcomeUnknown,
    WrappingAlgorithm,
    WrappingKeyRejected,
    WrappingKeySpec,
)
from tests.client import openssl
from tests.client.fake_broker import KEY_ARN, KEY_ID, MATERIAL_ID, Failure, FakeBroker, refusal

if TYPE_CHECKING:
    from pathlib import Path

CANARY = b"canary in plain text, 32 bytes.."
GET, IMPORT = "GetParametersForImport", "ImportKeyMaterial"
RENEWABLE = ["IMPORT_TOKEN_INVALID", "IMPORT_TOKEN_EXPIRED"]
FINAL = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys() if name[13:] not in RENEWABLE]  # noqa: SIM118 -- no mapping


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"])
async def test_import_wraps_and_imports(
    algorithm: str, broker: FakeBroker, client: KeyImportClient, private_keys: dict[WrappingKeySpec.ValueType, Path]
) -> None:
    """What arrives opens to the key material, under the key and with the token of one set."""
    imported = await client.import_key_material(
        KEY_ID, CANARY, never_expires=True, wrapping_algorithm=algorithm, wrapping_key_spec="RSA_3072"
    )

    (taken,) = broker.imports
    wrapped = taken.request.encrypted_key_material
    private_key = private_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072]
    assert openssl.unwrap(wrapped, private_key=private_key, algorithm=algorithm) == CANARY
    assert taken.request.import_token == taken.handed_out.import_token
    assert taken.request.key_id == KEY_ARN
    assert imported == ImportedKeyMaterial(
        key_arn=KEY_ARN, key_material_id=MATERIAL_ID, public_key_sha256=taken.handed_out.public_key_sha256
    )


async def test_plain_text_never_leaves(broker: FakeBroker, client: KeyImportClient) -> None:
    """No message to the broker holds the key material, whatever becomes of the import."""
    broker.fail(IMPORT, refusal(grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_TOKEN_EXPIRED"))
    broker.fail(IMPORT, refusal(grpc.StatusCode.INTERNAL, "INTERNAL"))

    with pytest.raises(KeyImportError) as raised:
        await client.import_key_material(KEY_ID, CANARY, never_expires=True)
    for algorithm in WrappingAlgorithm.values()[2:6]:
        await client.import_key_material(KEY_ID, CANARY, never_expires=True, wrapping_algorithm=algorithm)

    assert broker.calls.count(IMPORT) == 6
    assert all(CANARY[:8] not in message for message in broker.received)
    assert "canary" not in repr(raised.value) + str(raised.value)


async def test_every_field_is_sent(broker: FakeBroker, client: KeyImportClient) -> None:
    """The choices of the caller arrive, in this call and in that for material wrapped elsewhere."""
    valid_to = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    choices: dict[str, Any] = {
        "valid_to": valid_to,
        "import_type": ImportType.IMPORT_TYPE_EXISTING_KEY_MATERIAL,
        "key_material_id": MATERIAL_ID,
        "key_material_description": "second half",
    }

    await client.import_key_material(KEY_ID, CANARY, **choices)
    parameters = await client.get_parameters(KEY_ID)
    await client.import_wrapped(KEY_ID, parameters.wrap(CANARY), parameters.import_token, **choices)

    for taken in broker.imports:
        assert taken.request.WhichOneof("expiration") == "valid_to"
        assert taken.request.valid_to.ToDatetime(tzinfo=UTC) == valid_to
        assert taken.request.import_type == ImportType.IMPORT_TYPE_EXISTING_KEY_MATERIAL
        assert taken.request.key_material_id == MATERIAL_ID
        assert taken.request.key_material_description == "second half"
    assert len(broker.imports) == 2


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({}, "exactly one"),
        ({"valid_to": datetime(2030, 1, 1, tzinfo=UTC), "never_expires": True}, "exactly one"),
        ({"valid_to": datetime(2030, 1, 1)}, "timezone"),  # noqa: DTZ001 -- naive is the point
    ],
)
async def test_expiration_must_be_chosen(
    choice: dict[str, Any], sentence: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """None, both, or a time of no timezone is refused before anything is asked of the broker."""
    with pytest.raises(ValueError, match=sentence):
        await client.import_key_material(KEY_ID, CANARY, **choice)
    with pytest.raises(ValueError, match=sentence):
        await client.import_wrapped(KEY_ID, b"wrapped", b"token", **choice)

    assert broker.calls == []


@pytest.mark.parametrize("reason", RENEWABLE)
async def test_a_refused_token_is_renewed_once(reason: str, broker: FakeBroker, client: KeyImportClient) -> None:
    """The second attempt wraps anew, under the set it fetched for that."""
    broker.fail(IMPORT, refusal(grpc.StatusCode.FAILED_PRECONDITION, reason))

    await client.import_key_material(KEY_ID, CANARY, never_expires=True)

    assert broker.calls == [GET, IMPORT, GET, IMPORT]
    first, second = (message for message, rpc in zip(broker.received, broker.calls, strict=True) if rpc == IMPORT)
    assert first != second


async def test_a_set_forgotten_by_the_broker_is_renewed(broker: FakeBroker, client: KeyImportClient) -> None:
    """A set that another caller consumed between our two calls costs one more round, not a failure."""
    broker.lie = lambda answer: broker.sets.clear() if broker.calls == [GET] and answer else None

    await client.import_key_material(KEY_ID, CANARY, never_expires=True)

    assert broker.calls == [GET, IMPORT, GET, IMPORT]
    assert len(broker.imports) == 1


async def test_a_second_refusal_of_the_token_is_final(broker: FakeBroker, client: KeyImportClient) -> None:
    """There is no third attempt."""
    for reason in RENEWABLE:
        broker.fail(IMPORT, refusal(grpc.StatusCode.FAILED_PRECONDITION, reason))

    with pytest.raises(ImportTokenExpired):
        await client.import_key_material(KEY_ID, CANARY, never_expires=True)

    assert broker.calls == [GET, IMPORT, GET, IMPORT]


@pytest.mark.parametrize("reason", FINAL)
async def test_no_other_refusal_is_tried_again(reason: str, broker: FakeBroker, client: KeyImportClient) -> None:
    """OUTCOME_UNKNOWN above all, and every reason that is not about the token, is the caller's to decide on."""
    broker.fail(IMPORT, refusal(grpc.StatusCode.UNAVAILABLE, reason))

    with pytest.raises(KeyImportError):
        await client.import_key_material(KEY_ID, CANARY, never_expires=True)

    assert broker.calls == [GET, IMPORT]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_no_bare_status_is_tried_again(
    code: grpc.StatusCode, broker: FakeBroker, client: KeyImportClient
) -> None:
    """Neither this library nor gRPC underneath sends an import twice."""
    broker.fail(IMPORT, Failure(code=code, trailer=None))

    with pytest.raises(KeyImportError):
        await client.import_key_material(KEY_ID, CANARY, never_expires=True)

    assert broker.calls == [GET, IMPORT]


async def test_material_wrapped_elsewhere_is_never_wrapped_again(broker: FakeBroker, client: KeyImportClient) -> None:
    """A refused token of somebody else's wrapping is told, since only he can wrap again."""
    with pytest.raises(ImportTokenInvalid):
        await client.import_wrapped(KEY_ID, b"wrapped", b"forgotten", never_expires=True)

    assert broker.calls == [IMPORT]


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        ({}, [GET]),
        ({"wrapping_key_spec": "RSA_2048"}, [GET]),
        ({"wrapping_algorithm": "RSAES_OAEP_SHA_256", "wrapping_key_spec": "RSA_4096"}, []),
        ({"wrapping_algorithm": "RSAES_OAEP_SHA_256"}, []),
        ({"wrapping_algorithm": "RSAES_PKCS1_V1_5"}, []),
    ],
)
async def test_material_that_cannot_be_wrapped_is_not_sent(
    asked: dict[str, Any], calls: list[str], broker: FakeBroker, client: KeyImportClient
) -> None:
    """It is refused before the first call where the request tells, and else before the second."""
    with pytest.raises(MaterialUnsuitable):
        await client.import_key_material(KEY_ID, bytes(447), never_expires=True, **asked)

    assert broker.calls == calls


async def test_nothing_is_wrapped_for_a_lying_broker(broker: FakeBroker, client: KeyImportClient) -> None:
    """A rejected answer ends the import before its key is used."""
    broker.lie = lambda answer: setattr(answer, "public_key_sha256", bytes(32))

    with pytest.raises(WrappingKeyRejected):
        await client.import_key_material(KEY_ID, CANARY, never_expires=True)

    assert broker.calls == [GET]


async def test_an_answer_for_another_key_is_an_unknown_outcome(broker: FakeBroker, client: KeyImportClient) -> None:
    """Who says he changed another key than the one named leaves both to be looked at."""
    parameters = await client.get_parameters(KEY_ID)
    broker.lie = lambda answer: setattr(answer, "key_arn", KEY_ARN.replace("1234abcd", "99999999"))

    with pytest.raises(OutcomeUnknown, match="99999999"):
        await client.import_wrapped(KEY_ID, b"wrapped", parameters.import_token, never_expires=True)
    with pytest.raises(OutcomeUnknown, match="99999999"):
        await client.delete_imported_key_material(KEY_ARN)


@pytest.mark.parametrize("material_id", ["", "cd" * 32])
async def test_delete_names_what_was_deleted(material_id: str, client: KeyImportClient) -> None:
    """The answer tells the ARN and which key material is gone."""
    deleted = await client.delete_imported_key_material(KEY_ID, key_material_id=material_id)

    assert deleted == keyimport.DeletedKeyMaterial(key_arn=KEY_ARN, key_material_id=material_id or MATERIAL_ID)
