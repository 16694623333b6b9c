"""A parameter set is handed to the caller as the broker sent it, unless the answer lies."""

from __future__ import annotations

import hashlib
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

import pytest

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
from tests.client.lies import LIES, Answer, altered

if TYPE_CHECKING:
    from collections.abc import Callable


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
        (altered(wrapping_algorithm=0), "does not wrap with UNSPECIFIED"),
        (altered(wrapping_algorithm=1), "does not wrap with RSAES_PKCS1_V1_5"),
        (altered(wrapping_algorithm=99), "does not wrap with 99"),
        (altered(wrapping_key_spec=0), "of spec UNSPECIFIED"),
        (altered(wrapping_key_spec=4), "of spec SM2"),
        (altered(wrapping_key_spec=99), "of spec 99"),
        (altered(wrapping_key_spec=1), "4096 bits, which is not RSA_2048"),
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
