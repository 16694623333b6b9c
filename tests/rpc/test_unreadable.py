"""Bytes that are no message: refused, charged and recorded as every other request."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.conftest import read_refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import Refusal, RunningBroker

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

UNARY = (
    "GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial", "DiscardParameters",
    "GetKeyImportStatus",
)  # fmt: skip
BODIES = (b"\xff\xff\xff", b"\x0a\x02\xc3\x28")  # no tag; a string that is no UTF-8


async def _refused(broker: RunningBroker, rpc: str, body: bytes) -> Refusal:
    # As a stream, which on the wire a call with one answer is, too.
    call: Any = broker.channel.unary_stream(f"/keyimport.v1.KeyImportService/{rpc}")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(body).read()
    return read_refusal(raised.value)


async def test_bytes_that_are_no_message_are_refused_on_record(
    run_broker: RunBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By every RPC: one line with who it was, the contract's reason, the metrics; and nothing of gRPC's own."""
    caplog.set_level(logging.INFO)
    file, rpcs = tmp_path / "audit.log", (*UNARY, "BatchGetParametersForImport")
    async with run_broker(audit={"file": str(file)}) as broker:
        refusals = [await _refused(broker, rpc, body) for rpc in rpcs for body in BODIES]
        labels = {"grpc_type": "unary", "grpc_service": "keyimport.v1.KeyImportService", "grpc_method": UNARY[0]}
        handled = broker.app._ground.metrics.registry.get_sample_value(
            "grpc_server_handled_total", labels | {"grpc_code": "InvalidArgument"}
        )

    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(refusal.code, refusal.reason, refusal.field) for refusal in refusals} == {
        (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED", None)
    }
    assert [(line["rpc"], line["caller"], line["reason"]) for line in lines] == [
        (rpc, "local", "REQUEST_MALFORMED") for rpc in rpcs for _ in BODIES
    ]
    assert handled == len(BODIES)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_bytes_that_are_no_message_are_charged(run_broker: RunBroker) -> None:
    """They are no way round a caller's rate."""
    async with run_broker(limits={"requests_per_second": 1.0}) as broker:
        reasons = [(await _refused(broker, UNARY[0], BODIES[0])).reason for _ in range(8)]

    assert reasons[0] == "REQUEST_MALFORMED"
    assert "CALLER_RATE_EXCEEDED" in reasons
