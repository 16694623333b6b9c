"""A crowd's requests on record: as many lines as there were requests."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import grpc

from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.kms_double import CANARY

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import pytest

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

SPEC = pb.WRAPPING_KEY_SPEC_RSA_2048


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_ten_thousand_mixed_requests_leave_as_many_lines(
    run_broker: RunBroker, double: KmsDouble, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Valid and hostile, from three callers: a line each, every fingerprint one KMS issued for that ARN, no secret."""
    total, file = 10_000, tmp_path / "audit.log"
    arns = [double.add_key() for _ in range(20)]
    callers = ("alice", "bob", "mallory")
    listeners = [{"address": f"unix:{tmp_path}/{name}.sock", "caller": name} for name in callers]
    grants = [
        {"id": "alice", "keys": ["arn:aws:kms:us-east-1:111122223333:key/*"],
         "operations": ["GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"]},
        {"id": "bob", "keys": arns[:5], "operations": ["GetParametersForImport"]},
    ]  # fmt: skip
    canary = b"canary-in-the-ciphertext"
    choose = random.Random(7)  # noqa: S311 -- the same traffic in every run

    def hostile(stub: Any) -> Any:
        key_id = choose.choice(["alias/x", "ARN:AWS", arns[0].replace("111122223333", "444455556666"), "", "x" * 3000])
        return stub.GetParametersForImport(pb.GetParametersForImportRequest(key_id=key_id))

    def spend(stub: Any) -> Any:
        return stub.ImportKeyMaterial(
            pb.ImportKeyMaterialRequest(
                key_id=choose.choice(arns), import_token=canary, never_expires=True,
                encrypted_key_material=canary + b"\xff" * (256 - len(canary)),
            )
        )  # fmt: skip

    algorithms = [pb.WRAPPING_ALGORITHM_UNSPECIFIED] * 4 + list(pb.WrappingAlgorithm.values())[1:6]

    def get(stub: Any) -> Any:
        request = pb.GetParametersForImportRequest(
            key_id=choose.choice(arns),
            wrapping_algorithm=choose.choice(algorithms),
            wrapping_key_spec=SPEC,
        )
        return stub.GetParametersForImport(request)

    def discard(stub: Any) -> Any:
        return stub.DiscardParameters(pb.DiscardParametersRequest(key_id=choose.choice(arns), import_token=canary))

    def delete(stub: Any) -> Any:
        return stub.DeleteImportedKeyMaterial(pb.DeleteImportedKeyMaterialRequest(key_id=choose.choice(arns)))

    async with run_broker(
        listeners=listeners, callers=grants, audit={"file": str(file)}, kms={"requests_per_second": 1000.0}
    ):
        channels = [grpc.aio.insecure_channel(listener["address"]) for listener in listeners]
        stubs: list[Any] = [key_import_pb2_grpc.KeyImportServiceStub(channel) for channel in channels]
        answers: list[Any] = []
        for _ in range(total // 100):
            calls = [
                choose.choices([get, hostile, spend, discard, delete], weights=[6, 2, 1, 1, 1])[0](choose.choice(stubs))
                for _ in range(100)
            ]
            answers += await asyncio.gather(*calls, return_exceptions=True)
        for channel in channels:
            await channel.close()

    lines = _lines(file)
    handed_out = {(line["key_arn"], line["public_key_sha256"]) for line in lines if line.get("source")}
    codes = {line["code"] for line in lines}
    written = file.read_text() + "".join(capfd.readouterr())
    print(f"{len(answers)} requests, {len(lines)} audit lines, codes {sorted(codes)}")
    assert len(answers) == len(lines) == total
    assert len({line["correlation_id"] for line in lines}) == total
    assert handed_out
    assert handed_out <= double.keys.issued
    assert {"OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION"} <= codes
    assert not [answer for answer in answers if isinstance(answer, Exception) and CANARY in str(answer)]
    assert not [line for line in lines if line["caller"] == "mallory" and line["code"] == "OK"]
    assert CANARY not in written
    assert canary.decode() not in written
