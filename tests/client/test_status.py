"""The state of a key is told as KMS tells it, and of no other key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from keyimport import KeyImportClient, KeyImportError, KeyImportStatus
from keyimport.v1 import key_import_pb2 as pb
from tests.client.fake_broker import KEY_ARN, KEY_ID

if TYPE_CHECKING:
    from tests.client.fake_broker import FakeBroker


@pytest.mark.parametrize("key_id", [KEY_ID, KEY_ARN])
async def test_a_key_without_material_has_no_expiry(key_id: str, client: KeyImportClient) -> None:
    """What is unset at the broker is None here."""
    status = await client.status(key_id)

    assert status == KeyImportStatus(
        key_arn=KEY_ARN,
        key_spec="SYMMETRIC_DEFAULT",
        key_state="PendingImport",
        external_origin=True,
        material_valid_to=None,
        multi_region=False,
    )


async def test_every_field_arrives(broker: FakeBroker, client: KeyImportClient) -> None:
    """The expiry is an aware datetime."""
    valid_to = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    broker.status = pb.GetKeyImportStatusResponse(key_spec="RSA_2048", key_state="Enabled", multi_region=True)
    broker.status.material_valid_to.FromDatetime(valid_to)

    status = await client.status(KEY_ID)

    assert status == KeyImportStatus(
        key_arn=KEY_ARN,
        key_spec="RSA_2048",
        key_state="Enabled",
        external_origin=False,
        material_valid_to=valid_to,
        multi_region=True,
    )


async def test_an_answer_for_another_key_is_refused(broker: FakeBroker, client: KeyImportClient) -> None:
    """Nobody concludes from another key's state that an import was made."""
    broker.lie = lambda answer: setattr(answer, "key_arn", KEY_ARN.replace("1234abcd", "99999999"))

    with pytest.raises(KeyImportError, match="99999999"):
        await client.status(KEY_ID)


async def test_an_expiry_that_is_no_date_is_refused(broker: FakeBroker, client: KeyImportClient) -> None:
    """A date beyond every calendar is an error of the client's own kind."""
    broker.lie = lambda answer: setattr(answer.material_valid_to, "seconds", 2**62)

    with pytest.raises(KeyImportError, match="no date"):
        await client.status(KEY_ID)
