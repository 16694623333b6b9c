"""Spans: one for each RPC, one for each request to KMS, linked, and nothing secret in them."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

ERROR = 2  # Status.StatusCode.STATUS_CODE_ERROR
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.exported: list[bytes] = []
        self.port = 0

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the RPC's name
        _ = context
        self.exported.append(request.SerializeToString())
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Any]:
        """The spans of this name."""
        return [span for span in self.spans if span.name.rpartition("/")[2] == name]


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def _holds(collector: Collector, secret: bytes) -> bool:
    """Whether anything that was sent has a piece of it, as it is or in a spelling that bytes take in text."""
    piece = secret[:48]
    spelt = (
        piece,
        piece.hex().encode(),
        base64.b64encode(piece),
        base64.urlsafe_b64encode(piece),
        repr(piece)[2:-1].encode(),
    )
    return any(each in exported for each in spelt for exported in collector.exported)


@asynccontextmanager
async def _collector() -> AsyncIterator[Collector]:
    collector, server = Collector(), grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # untyped
    add(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


async def test_those_who_joined_link_to_the_request_they_waited_for(run_broker: RunBroker, double: KmsDouble) -> None:
    """One span of KMS's, to which all link; the caller's trace goes on; the correlation id leads to the audit."""
    arn = double.add_key()
    request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
    async with (
        _collector() as collector,
        run_broker(otel={"endpoint": f"http://127.0.0.1:{collector.port}"}) as broker,
    ):
        parent = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]
        calls = [broker.stub.GetParametersForImport(request, metadata=parent) for _ in range(3)]
        answers = await asyncio.gather(*calls)
        await broker.stub.ImportKeyMaterial(
            pb.ImportKeyMaterialRequest(
                key_id=arn,
                import_token=answers[0].import_token,
                encrypted_key_material=wrap(answers[0].public_key, "RSAES_OAEP_SHA_256", bytes(32)),
                never_expires=True,
            )
        )
        refusal = await refusal_of(broker.stub.GetKeyImportStatus(pb.GetKeyImportStatusRequest(key_id="alias/root")))

    (fetch,) = collector.named("KMS.GetParametersForImport")
    gets = collector.named("GetParametersForImport")
    (imported,), (kms_import,) = collector.named("ImportKeyMaterial"), collector.named("KMS.ImportKeyMaterial")
    (refused,) = collector.named("GetKeyImportStatus")
    assert [[link.span_id for link in get.links] for get in gets] == [[fetch.span_id]] * 3
    assert {get.trace_id.hex() for get in gets} == {TRACE}
    assert [link.span_id for link in imported.links] == [kms_import.span_id]
    assert len({_attributes(get)["keybroker.correlation_id"] for get in gets}) == 3
    assert _attributes(fetch)["aws.request_id"] == _attributes(gets[0])["aws.request_id"]
    assert _attributes(refused)["keybroker.reason"] == refusal.reason == "ALIAS_NOT_ALLOWED"
    # gRPC's way to refuse is an exception, and a caller's mistake is no failure of the broker's.
    assert (refused.status.code, refused.status.message, list(refused.events)) == (0, "", [])
    assert _attributes(refused)["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert _attributes(gets[0])["rpc.grpc.status_code"] == 0
    for secret in (answers[0].import_token, arn.encode(), b"alias/root", b"local"):
        assert not _holds(collector, secret)
    assert _holds(collector, _attributes(fetch)["aws.request_id"].encode())  # what is there is found


@pytest.mark.parametrize("fault", ["close_before_answer", "error:KMSInternalException"])
async def test_what_kms_does_not_do_is_a_failure(run_broker: RunBroker, double: KmsDouble, fault: str) -> None:
    """Of the request to KMS and of the RPC, without the text of any exception; all who joined link to it."""
    double.lie("DescribeKey", fault)
    arn = double.add_key()
    request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
    async with (
        _collector() as collector,
        run_broker(otel={"endpoint": f"http://127.0.0.1:{collector.port}"}) as broker,
    ):
        refusals = await asyncio.gather(*(refusal_of(broker.stub.GetParametersForImport(request)) for _ in range(3)))

    (asked,) = collector.named("KMS.DescribeKey")
    gets = collector.named("GetParametersForImport")
    assert {refusal.reason for refusal in refusals} == {"KMS_UNAVAILABLE"}
    assert {(span.status.code, span.status.message, len(span.events)) for span in (asked, *gets)} == {(ERROR, "", 0)}
    assert _attributes(asked)["keybroker.reason"] == "KMS_UNAVAILABLE"
    assert [[link.span_id for link in get.links] for get in gets] == [[asked.span_id]] * 3


async def test_the_environment_says_what_is_sampled(
    run_broker: RunBroker, double: KmsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the SDK's own variables; what is not sampled is not sent, and breaks nothing."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    double.lie("DescribeKey", "close_before_answer", times=1)
    request = pb.GetParametersForImportRequest(key_id=double.add_key(), wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
    async with (
        _collector() as collector,
        run_broker(otel={"endpoint": f"http://127.0.0.1:{collector.port}"}) as broker,
    ):
        await refusal_of(broker.stub.GetParametersForImport(request))
        parent = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]  # its caller's is sampled
        await broker.stub.GetParametersForImport(request, metadata=parent)

    assert [span.name.rpartition("/")[2] for span in collector.spans] == ["GetParametersForImport"]


async def test_a_collector_that_is_away_holds_nobody_up(run_broker: RunBroker, double: KmsDouble) -> None:
    """Neither a request nor the end of the broker."""
    arn = double.add_key()
    async with asyncio.timeout(20):
        async with run_broker(otel={"endpoint": "http://127.0.0.1:1"}) as broker:
            answer = await broker.stub.GetParametersForImport(
                pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
            )

    assert answer.key_arn == arn
