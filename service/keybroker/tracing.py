"""Spans for OpenTelemetry: one for each RPC, one for each request to KMS, linked by KMS's request id.

A fetch belongs to the broker and not to a caller, so its span is no caller's child: each RPC that was answered with
what it brought links to it. No span holds a key, a caller or a secret; the correlation id leads to the audit for those.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from keybroker.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAMES = {"aws_request_id": "aws.request_id", "status_code": "rpc.grpc.status_code"}
_REMEMBERED = 10_000
_FLUSH = 3.0
"""Seconds that the last spans have to leave when the broker ends."""


class Span(Protocol):
    """A span that has begun."""

    def note(self, **attributes: str | int | None) -> None:
        """Adds attributes; what is None is left out. `aws_request_id` links spans to each other."""

    def link(self, span: object | None) -> None:
        """Links to another, if there is one."""

    def fail(self) -> None:
        """The span is of a failure: the broker's in an RPC, and any in a request to KMS."""


class Tracer(Protocol):
    """Where spans go."""

    def rpc(self, method: str, metadata: Mapping[str, Any]) -> AbstractContextManager[Span]:
        """The span of an RPC, a child of the one that the metadata name, if they do."""

    def kms(self, operation: str) -> AbstractContextManager[Span]:
        """The span of a request to KMS."""

    def close(self) -> None:
        """Sends what is left, within some seconds."""


class Untraced:
    """Nowhere."""

    def note(self, **attributes: str | int | None) -> None:
        pass

    def link(self, span: object | None) -> None:
        pass

    def fail(self) -> None:
        pass

    @contextmanager
    def rpc(self, method: str, metadata: Mapping[str, Any]) -> Iterator[Span]:
        _ = method, metadata
        yield self

    @contextmanager
    def kms(self, operation: str) -> Iterator[Span]:
        _ = operation
        yield self

    def close(self) -> None:
        pass


class OpenTelemetry:
    """To a collector, by OTLP over gRPC; from a thread of the SDK's own, so that no request waits for it."""

    def __init__(self, endpoint: str) -> None:
        """Begins to send to the endpoint, a URL."""
        # Imported here: whoever sends no traces need not have it, nor pay for its import.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(resource=Resource.create({"service.name": "keybroker"}))
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        # By itself the SDK takes every exception for a failure, gRPC's way to refuse among them, and tells its text.
        self._begin = partial(
            self._provider.get_tracer("keybroker").start_as_current_span,
            record_exception=False,
            set_status_on_exception=False,
        )
        self._requests: Lru[str, Any] = Lru(_REMEMBERED)  # spans of requests to KMS, by KMS's id of them

    @contextmanager
    def rpc(self, method: str, metadata: Mapping[str, Any]) -> Iterator[Span]:
        parent = self._propagator.extract({name: value for name, value in metadata.items() if isinstance(value, str)})
        service, _, name = method.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with self._begin(method.lstrip("/"), parent, self._trace.SpanKind.SERVER, attributes) as span:
            yield _Recording(span, self._link, self._trace.StatusCode.ERROR)

    @contextmanager
    def kms(self, operation: str) -> Iterator[Span]:
        attributes = {"rpc.system": "aws-api", "rpc.service": "KMS", "rpc.method": operation}
        with self._begin(f"KMS.{operation}", None, self._trace.SpanKind.CLIENT, attributes) as span:
            yield _Recording(span, self._remember, self._trace.StatusCode.ERROR)

    def _remember(self, span: Any, request_id: str) -> None:
        self._requests[request_id] = span.get_span_context()

    def _link(self, span: Any, request_id: str) -> None:
        if context := self._requests.get(request_id):
            span.add_link(context)

    def close(self) -> None:
        # The SDK waits for a collector that is away for longer than the broker may take to end.
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH)


class _Recording:
    def __init__(self, span: Any, on_request_id: Any, error: Any) -> None:
        self.context = span.get_span_context()
        self._span = span
        self._on_request_id = on_request_id
        self._error = error

    def note(self, **attributes: str | int | None) -> None:
        for name, value in attributes.items():
            if value not in {None, ""}:
                self._span.set_attribute(_NAMES.get(name, f"keybroker.{name}"), value)
        if request_id := attributes.get("aws_request_id"):
            self._on_request_id(self._span, request_id)

    def link(self, span: object | None) -> None:
        if isinstance(span, _Recording):
            self._span.add_link(span.context)

    def fail(self) -> None:
        self._span.set_status(self._error)
