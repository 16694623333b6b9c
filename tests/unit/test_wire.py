"""Messages to values: every limit is told by the field's name."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keybroker import wire
from keybroker.errors import RequestMalformed
from keybroker.model import (
    ParameterSet,
    SecretBytes,
    Sharing,
    Slot,
    Source,
    Wrapping,
    WrappingAlgorithm,
    WrappingKeySpec,
)
from keyimport.v1 import key_import_pb2 as pb
from tests.clock import START
from tests.fake_kms import key_arn


def _timestamp(ahead: timedelta) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(START + ahead)
    return stamp


def _import(**fields: Any) -> pb.ImportKeyMaterialRequest:
    good: dict[str, Any] = {
        "key_id": "k", "import_token": b"t", "encrypted_key_material": b"\xff" * 256, "never_expires": True
    }  # fmt: skip
    return pb.ImportKeyMaterialRequest(**{name: value for name, value in (good | fields).items() if value is not None})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"import_token": b""}, "import_token"),
        ({"import_token": bytes(6145)}, "import_token"),
        ({"encrypted_key_material": b""}, "encrypted_key_material"),
        ({"encrypted_key_material": bytes(6145)}, "encrypted_key_material"),
        ({"never_expires": None}, "expiration"),
        ({"never_expires": False}, "never_expires"),
        ({"never_expires": None, "valid_to": _timestamp(timedelta(0))}, "valid_to"),
        ({"never_expires": None, "valid_to": _timestamp(timedelta(seconds=-1))}, "valid_to"),
        ({"never_expires": None, "valid_to": _timestamp(timedelta(days=365, seconds=1))}, "valid_to"),
        ({"never_expires": None, "valid_to": Timestamp(seconds=2**62)}, "valid_to"),
        ({"never_expires": None, "valid_to": Timestamp(seconds=1, nanos=-5)}, "valid_to"),
        ({"import_type": 99}, "import_type"),
        ({"key_material_id": "AB" * 32}, "key_material_id"),
        ({"key_material_id": "ab" * 31}, "key_material_id"),
        ({"key_material_id": "ab" * 32, "import_type": pb.IMPORT_TYPE_NEW_KEY_MATERIAL}, "key_material_id"),
        ({"key_material_description": "x" * 257}, "key_material_description"),
        ({"key_material_description": "<script>"}, "key_material_description"),
        ({"key_material_description": "ünïcödé"}, "key_material_description"),
    ],
)
def test_an_import_out_of_range_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    """The refusal names the field, and its hint is a sentence without what was sent."""
    with pytest.raises(RequestMalformed) as told:
        wire.import_request(_import(**fields), START)

    assert told.value.field == field
    assert told.value.hint.endswith((".", "-"))


def test_an_import_in_range_is_taken_as_it_is() -> None:
    """Every field arrives; what is empty is None."""
    full = wire.import_request(
        _import(
            never_expires=None,
            valid_to=_timestamp(timedelta(days=365)),
            import_type=pb.IMPORT_TYPE_EXISTING_KEY_MATERIAL,
            key_material_id="ab" * 32,
            key_material_description="ceremony 7: vault/2",
        ),
        START,
    )
    least = wire.import_request(_import(), START)

    assert full.valid_to == START + timedelta(days=365)
    assert (full.import_type, full.key_material_id) == ("EXISTING_KEY_MATERIAL", "ab" * 32)
    assert full.key_material_description == "ceremony 7: vault/2"
    assert (least.valid_to, least.import_type, least.key_material_id, least.key_material_description) == (None,) * 4
    assert "t" not in repr(least.import_token).replace("secret bytes", "")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"wrapping_algorithm": 99}, "wrapping_algorithm"),
        ({"wrapping_key_spec": -1}, "wrapping_key_spec"),
        ({"sharing": 7}, "sharing"),
        ({"min_remaining_validity": Duration(seconds=-1)}, "min_remaining_validity"),
        ({"min_remaining_validity": Duration(seconds=23 * 3600, nanos=1)}, "min_remaining_validity"),
    ],
)
def test_parameters_out_of_range_are_refused_by_their_field(fields: dict[str, Any], field: str) -> None:
    """Unknown enum numbers are refused, not taken for unspecified."""
    with pytest.raises(RequestMalformed) as told:
        wire.parameters_request(pb.GetParametersForImportRequest(key_id="k", **fields))

    assert told.value.field == field


def test_unspecified_leaves_the_choice_open() -> None:
    """Nothing set means shared, no choice, and the setting's validity."""
    least = wire.parameters_request(pb.GetParametersForImportRequest(key_id="k"))

    assert (least.wrapping.algorithm, least.wrapping.key_spec, least.min_remaining) == (None, None, None)
    assert least.sharing is Sharing.SHARED


def test_every_enum_value_has_its_member() -> None:
    """The wire's enums and the model's name the same things."""
    for enum, members, prefix in (
        (pb.WrappingAlgorithm, WrappingAlgorithm, "WRAPPING_ALGORITHM_"),
        (pb.WrappingKeySpec, WrappingKeySpec, "WRAPPING_KEY_SPEC_"),
    ):
        names = {name.removeprefix(prefix) for name in enum.keys()[1:]}
        assert names == {str(member) for member in members}


@pytest.mark.parametrize("source", Source)
def test_a_set_arrives_whole(source: Source) -> None:
    """Every field of a set, and where it came from, survives the wire to the byte and the microsecond."""
    wrapping = Wrapping(algorithm=WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256, key_spec=WrappingKeySpec.RSA_3072)
    parameters = ParameterSet(
        slot=Slot(key=key_arn(), wrapping=wrapping),
        public_key=b"\x30\x00\xff",
        import_token=SecretBytes(bytes(range(256)) * 24),
        valid_to=START + timedelta(hours=24, microseconds=7),
        aws_request_id="r",
    )

    sent = wire.parameters_response(parameters, source).SerializeToString()
    arrived = pb.GetParametersForImportResponse.FromString(sent)

    assert arrived.key_arn == str(key_arn())
    assert (arrived.public_key, arrived.import_token) == (parameters.public_key, parameters.import_token)
    assert arrived.parameters_valid_to.ToDatetime(tzinfo=UTC) == parameters.valid_to
    assert arrived.wrapping_algorithm == pb.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256
    assert arrived.wrapping_key_spec == pb.WRAPPING_KEY_SPEC_RSA_3072
    assert arrived.public_key_sha256 == parameters.public_key_sha256
    assert pb.ParametersSource.Name(arrived.source) == f"PARAMETERS_SOURCE_{source}"
