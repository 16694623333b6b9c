"""A bug of the broker's own: the caller learns a correlation id, the log where it happened, and nobody the text."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keybroker.broker import Broker
from keybroker.telemetry import JsonFormatter
from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

CANARY = "canary-b7d1 of a token, or worse"
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"

REQUESTS: dict[str, tuple[str, Any]] = {
    "GetParametersForImport": ("parameters", pb.GetParametersForImportRequest(key_id=KEY)),
    "ImportKeyMaterial": (
        "import_key_material",
        pb.ImportKeyMaterialRequest(
            key_id=KEY, import_token=CANARY.encode(), encrypted_key_material=bytes(256), never_expires=True
        ),
    ),
    "DeleteImportedKeyMaterial": (
        "delete_imported_key_material",
        pb.DeleteImportedKeyMaterialRequest(key_id=KEY),
    ),
    "DiscardParameters": ("discard", pb.DiscardParametersRequest(key_id=KEY, import_token=CANARY.encode())),
}


class _UnforeseenError(Exception):
    """No error the broker knows."""


def _fail(*_: object) -> None:
    error = _UnforeseenError(CANARY)
    error.add_note(CANARY)
    raise error from KeyError(CANARY)


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The lines of the log so far, formatted as they are written and within the request they belong to."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("rpc", REQUESTS)
async def test_an_unforeseen_exception_tells_the_caller_nothing(
    run_broker: RunBroker,
    monkeypatch: pytest.MonkeyPatch,
    log: Callable[[], list[dict[str, Any]]],
    capfd: pytest.CaptureFixture[str],
    rpc: str,
) -> None:
    """The status has a reason and a correlation id; the log has class, frames, cause and the same id; none the text."""
    method, request = REQUESTS[rpc]
    monkeypatch.setattr(Broker, method, _fail)
    async with run_broker() as broker:
        refused = await refusal_of(getattr(broker.stub, rpc)(request))

    (line,) = [line for line in log() if line["message"] == "unhandled exception"]
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert refused.metadata == {"correlation_id": line["correlation_id"]}
    assert refused.retry_after is None
    assert line["level"] == "error"
    assert line["cause"]["class"] == "_UnforeseenError"
    assert line["cause"]["frames"][-1].endswith(" _fail")
    assert line["cause"]["cause"]["class"] == "KeyError"
    assert CANARY not in repr(refused) + json.dumps(log()) + "".join(capfd.readouterr())


async def test_each_failure_has_its_own_id(run_broker: RunBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two alike can be told apart in the log."""
    monkeypatch.setattr(Broker, "discard", _fail)
    _, request = REQUESTS["DiscardParameters"]
    async with run_broker() as broker:
        refusals = [await refusal_of(broker.stub.DiscardParameters(request)) for _ in range(2)]

    assert len({refusal.metadata["correlation_id"] for refusal in refusals}) == 2


async def test_a_failure_is_not_the_end(
    run_broker: RunBroker, double: KmsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request is served as if nothing had been."""
    arn = double.add_key()
    request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
    async with run_broker() as broker:
        with monkeypatch.context() as patch:
            patch.setattr(Broker, "parameters", _fail)
            refused = await refusal_of(broker.stub.GetParametersForImport(request))
        answer = await broker.stub.GetParametersForImport(request)

    assert refused.reason == "INTERNAL"
    assert answer.key_arn == arn


async def test_a_refusal_has_no_correlation_id(run_broker: RunBroker) -> None:
    """What is the caller's to mend is alike to the byte for all who err alike."""
    request = pb.GetParametersForImportRequest(key_id="alias/payments")
    async with run_broker() as broker:
        first, second = [await refusal_of(broker.stub.GetParametersForImport(request)) for _ in range(2)]

    assert first.reason == "ALIAS_NOT_ALLOWED"
    assert first == second
    assert "correlation_id" not in first.metadata
