"""A parameter set is handed to the caller as the broker sent it, unless the answer lies."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyimport import (
    KeyImportClient,
    ParametersSource,
    Sharing,
    WrappingAlgorithm,
    WrappingKeyRejected,
    WrappingKeySpec,
)
from keyimport.v1 import key_import_pb2 as pb
from tests.client.fake_broker import KEY_ARN, KEY_ID, FakeBroker

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = pb.GetParametersForImportResponse


async def test_parameters_are_the_brokers_answer(broker: FakeBroker, client: KeyImportClient) -> None:
    """Each field arrives, the expiry as an aware datetime."""
    parameters = await client.get_parameters(KEY_ID)

    (handed_out,) = broker.sets.values()
    assert parameters.key_arn == KEY_ARN
    assert parameters.public_key == handed_out.public_key
    assert parameters.import_token == handed_out.import_token
    assert parameters.parameters_valid_to == handed_out.parameters_valid_to.ToDatetime(tzinfo=UTC)
    assert parameters.wrapping_algorithm == WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256
    assert parameters.wrapping_key_spec == WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096
    assert parameters.public_key_sha256 == hashlib.sha256(parameters.public_key).digest()
    assert parameters.fingerprint == parameters.public_key_sha256.hex()
    assert parameters.source == ParametersSource.PARAMETERS_SOURCE_KMS


async def test_the_request_is_what_was_asked(broker: FakeBroker, client: KeyImportClient) -> None:
    """Names and values of enums mean the same, and nothing is added."""
    await client.get_parameters(KEY_ARN)
    await client.get_parameters(
        KEY_ARN,
        wrapping_algorithm="RSA_AES_KEY_WRAP_SHA_256",
        wrapping_key_spec=WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072,
        min_remaining_validity=timedelta(hours=2, milliseconds=500),
        sharing=Sharing.SHARING_EXCLUSIVE,
    )

    bare, full = (pb.GetParametersForImportRequest.FromString(request) for request in broker.received)
    assert bare == pb.GetParametersForImportRequest(key_id=KEY_ARN)
    assert full.wrapping_algorithm == WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256
    assert full.wrapping_key_spec == WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072
    assert full.min_remaining_validity.ToMilliseconds() == 7_200_500
    assert full.sharing == Sharing.SHARING_EXCLUSIVE


async def test_the_token_is_not_shown(client: KeyImportClient) -> None:
    """A logged parameter set tells the length of the token and no more."""
    parameters = await client.get_parameters(KEY_ID)

    shown = f"{parameters!r} {parameters}"

    assert "import_token=<1024 bytes>" in shown
    assert repr(parameters.import_token)[2:20] not in shown
    assert parameters.fingerprint in shown


def _set(**fields: Any) -> Callable[[Answer], None]:
    def lie(answer: Answer) -> None:
        for name, value in fields.items():
            setattr(answer, name, value)

    return lie


def _public_key(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> Callable[[Answer], None]:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _set(public_key=der, public_key_sha256=hashlib.sha256(der).digest())


def _trailing_byte(answer: Answer) -> None:
    answer.public_key += b"\0"
    answer.public_key_sha256 = hashlib.sha256(answer.public_key).digest()


def _expires(answer: Answer, when: datetime) -> None:
    answer.parameters_valid_to.FromDatetime(when)


OTHER_KEY = KEY_ARN.replace("1234abcd", "99999999")
LIES: dict[str, tuple[Callable[[Answer], None], str]] = {
    "another key": (_set(key_arn=OTHER_KEY), "it is for .*99999999"),
    "no key": (_set(key_arn=""), "it is for ''"),
    "a key whose id only ends alike": (_set(key_arn=KEY_ARN.replace("key/", "key/mrk-")), "it is for"),
    "a weaker algorithm": (_set(wrapping_algorithm=2), "RSAES_OAEP_SHA_1 is not the wrapping algorithm asked for"),
    "no algorithm": (_set(wrapping_algorithm=0), "UNSPECIFIED is not the wrapping algorithm"),
    "another spec": (_set(wrapping_key_spec=1), "RSA_2048 is not the wrapping key spec asked for"),
    "no spec": (_set(wrapping_key_spec=0), "UNSPECIFIED is not the wrapping key spec"),
    "another fingerprint": (_set(public_key_sha256=bytes(32)), "SHA-256"),
    "no fingerprint": (_set(public_key_sha256=b""), "SHA-256"),
    "a smaller key": (_public_key(rsa.generate_private_key(65537, 2048).public_key()), "2048 bits"),
    "a key of another kind": (_public_key(ec.generate_private_key(ec.SECP256R1()).public_key()), "not an RSA key"),
    "bytes after the key": (_trailing_byte, "no DER SubjectPublicKeyInfo"),
    "no token": (_set(import_token=b""), "token is empty"),
    "expired": (lambda answer: _expires(answer, datetime.now(UTC) - timedelta(seconds=1)), "it expired at 2"),
    "no expiry": (lambda answer: answer.ClearField("parameters_valid_to"), "it expired at 1970"),
    "an expiry that is no date": (lambda answer: setattr(answer.parameters_valid_to, "seconds", 2**62), "no date"),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("key_id", [KEY_ID, KEY_ARN])
async def test_a_lying_answer_is_rejected(name: str, key_id: str, broker: FakeBroker, client: KeyImportClient) -> None:
    """Nothing of an answer that contradicts the request or itself reaches the caller."""
    broker.lie, sentence = LIES[name]

    with pytest.raises(WrappingKeyRejected, match=sentence):
        await client.get_parameters(key_id, wrapping_algorithm="RSAES_OAEP_SHA_256", wrapping_key_spec="RSA_4096")


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (_set(wrapping_algorithm=0), "does not wrap with UNSPECIFIED"),
        (_set(wrapping_algorithm=1), "does not wrap with RSAES_PKCS1_V1_5"),
        (_set(wrapping_algorithm=99), "does not wrap with 99"),
        (_set(wrapping_key_spec=0), "of spec UNSPECIFIED"),
        (_set(wrapping_key_spec=4), "of spec SM2"),
        (_set(wrapping_key_spec=99), "of spec 99"),
        (_set(wrapping_key_spec=1), "4096 bits, which is not RSA_2048"),
    ],
)
async def test_an_open_question_is_no_invitation_to_lie(
    lie: Callable[[Answer], None], sentence: str, broker: FakeBroker, client: KeyImportClient
) -> None:
    """Whoever leaves algorithm and spec to the broker still gets ones that exist and agree with the key."""
    broker.lie = lie

    with pytest.raises(WrappingKeyRejected, match=sentence):
        await client.get_parameters(KEY_ID)


async def test_a_discarded_set_is_not_handed_out_again(client: KeyImportClient) -> None:
    """Discarding reaches the broker with key and token."""
    first = await client.get_parameters(KEY_ID)
    cached = await client.get_parameters(KEY_ID)

    await client.discard(KEY_ID, first.import_token)

    assert cached.source == ParametersSource.PARAMETERS_SOURCE_CACHE
    assert cached.import_token == first.import_token
    assert (await client.get_parameters(KEY_ID)).import_token != first.import_token
