"""What stands round every handler: the record, the error's way out, the deadline; in this order from the outside."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from keybroker import audit, errors
from keybroker.status import CODES, to_metadata, to_status
from keybroker.tasks import correlation_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from google.protobuf.message import Message

    from keybroker.audit import Audit, Record
    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.tracing import Tracer

    Context = grpc.aio.ServicerContext[Any, Any]
    Behaviour = Callable[[Any, Context], Awaitable[Message | None]]

_log = logging.getLogger(__name__)

DEFAULT_DEADLINE = 60.0
"""Seconds a request has whose caller set no deadline."""

LONGEST_DEADLINE = 900.0
"""Seconds any request has at most."""

RETURN_OVERHEAD = 0.02
"""Seconds kept back, so that our own answer reaches the caller before its deadline's blunt one does."""

UNREADABLE = object()
"""Stands for a request whose bytes are none of its message; refused like any other, once it is known who sent it."""

_OURS = "/keyimport.v1."
_WATCH = "/grpc.health.v1.Health/Watch"
# As the labels of grpc_server_handled_total have them everywhere.
_CAMEL = {code.name: "".join(map(str.capitalize, code.name.split("_"))) for code in grpc.StatusCode} | {
    "OK": "OK",
    "CANCELLED": "Canceled",
}
# OpenTelemetry's rule for servers: the other codes tell of the caller's mistakes.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_STOPPING = "The broker is stopping."
_TOO_LATE = "The request's deadline passed before KMS answered."


def time_left(context: Context) -> float:
    """Seconds this request may still take."""
    given: float | None = context.time_remaining()  # the types say float
    left = min(given, LONGEST_DEADLINE) if given is not None else DEFAULT_DEADLINE
    return left - min(RETURN_OVERHEAD, left / 10)


class Interceptor(grpc.aio.ServerInterceptor):
    """Stands round every handler of our own services; health and reflection stay as they are.

    Attributes:
        begun: how many calls of our own services there were so far.
        running: those under way.
    """

    def __init__(self, *, audit_log: Audit, clock: Clock, metrics: Metrics, tracer: Tracer) -> None:
        self._audit = audit_log
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self.begun = 0
        self.running: set[asyncio.Task[Any]] = set()
        self._watching: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._watches_end = False

    def end_calls(self) -> None:
        """Tells those who wait for an answer that the broker is stopping."""
        self._ending = True
        for call in self.running:
            call.cancel()

    def end_watches(self) -> None:
        """Ends the calls that would last as long as the server, and those of them yet to come."""
        self._watches_end = True
        for call in self._watching:
            call.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)  # the types know no aio handlers
        method = handler_call_details.method
        if method == _WATCH:
            return grpc.unary_stream_rpc_method_handler(
                partial(self._watched, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler is None or not method.startswith(_OURS):
            return handler
        behaviour = partial(_streamed, handler.unary_stream) if handler.response_streaming else handler.unary_unary
        inner = _translated(_within_deadline(behaviour))
        wrap = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return wrap(
            partial(self._counted, handler, method, partial(self._recorded, method.rpartition("/")[2], inner)),
            request_deserializer=partial(_deserialized, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _note_running(self) -> None:
        self.begun += 1
        if task := asyncio.current_task():
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def _counted(
        self, handler: Any, method: str, behaviour: Behaviour, request: Any, context: Context
    ) -> Message | None:
        """By the names that gRPC's other servers give these counts."""
        service, _, name = method[1:].partition("/")
        call = ("server_stream" if handler.response_streaming else "unary", service, name)
        self._metrics.started.labels(*call).inc()
        started = self._clock.monotonic()
        with self._tracer.rpc(method, dict(context.invocation_metadata() or ())) as span:
            try:
                return await behaviour(request, context)
            finally:
                record = audit.current()
                code = grpc.StatusCode[record.code or "UNKNOWN"]
                if code in _FAULTS:
                    span.fail()
                span.note(
                    correlation_id=record.correlation_id,
                    status_code=code.value[0],
                    reason=record.reason,
                    source=record.source,
                    aws_request_id=record.aws_request_id,
                )
                if not record.aws_request_id:  # KMS did not answer, so there is no id to link by
                    span.link(record.kms_span)
                self._metrics.handled.labels(*call, _CAMEL[code.name]).inc()
                self._metrics.handling.labels(*call).observe(self._clock.monotonic() - started)
                self._metrics.note_refusal(record.reason)

    async def _watched(self, behaviour: Behaviour, request: Any, context: Context) -> None:
        """A health Watch that can be ended: one left open would hold up the server's stop."""
        if self._watches_end:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _STOPPING)
        watch = asyncio.ensure_future(behaviour(request, context))
        self._watching.add(watch)
        watch.add_done_callback(self._watching.discard)
        try:
            await asyncio.wait({watch})
        except asyncio.CancelledError:
            watch.cancel()
            raise
        if watch.cancelled():
            await context.abort(grpc.StatusCode.UNAVAILABLE, _STOPPING)
        watch.result()

    async def _recorded(self, rpc: str, behaviour: Behaviour, request: Any, context: Context) -> Message | None:
        """Answers once the answer is on record, and otherwise refuses."""
        self._note_running()
        correlation_id.set(secrets.token_hex(8))
        record = audit.begin(rpc, correlation_id.get(), self._clock.now(), self._audit)
        try:
            self._audit.require_writable(record)
            response = await behaviour(request, context)
            record.code = "OK"
            self._audit.write(record)
        except asyncio.CancelledError:
            if self._ending:
                await self._end(context, record)
            self._record_cancelled(record)
            raise
        except TimeoutError:
            record.code = "DEADLINE_EXCEEDED"
            self._write_or_log(record)
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, _TOO_LATE)
            raise
        except OSError as error:
            self._note_audit_failure(error)
            await _abort(context, errors.OutcomeUnknown() if record.change else errors.Internal(), record)
            raise
        except errors.BrokerError as refusal:
            _note(refusal, record)
            written = self._write_or_log(record)
            await _abort(context, refusal if written else errors.Internal(), record)
            raise
        return response

    async def _end(self, context: Context, record: Record) -> None:
        """The broker does not wait for it any longer; gRPC by itself would say CANCELLED, as if the caller had left."""
        if record.change:
            unknown = errors.OutcomeUnknown()
            _note(unknown, record)
            self._write_or_log(record)
            await _abort(context, unknown, record)
        record.code = grpc.StatusCode.UNAVAILABLE.name
        self._write_or_log(record)
        await context.abort(grpc.StatusCode.UNAVAILABLE, _STOPPING)

    def _record_cancelled(self, record: Record) -> None:
        """The caller has left. What it had KMS do goes on, and its line waits for how that ends."""
        record.code = "CANCELLED"
        if record.change:
            record.change.add_done_callback(lambda _: self._write_or_log(record))
        else:
            self._write_or_log(record)

    def _write_or_log(self, record: Record) -> bool:
        try:
            self._audit.write(record)
        except OSError as error:
            self._note_audit_failure(error)
            return False
        return True

    def _note_audit_failure(self, error: OSError) -> None:
        self._metrics.audit_failures.inc()
        _log.critical("the audit cannot be written, requests are refused", extra={"cause": error})


def _deserialized(deserialize: Callable[[bytes], Any], body: bytes) -> Any:
    """What gRPC would answer by itself, with the exception's text, and before anything here has seen the call."""
    try:
        return deserialize(body)
    except DecodeError:
        return UNREADABLE


async def _streamed(stream: Callable[..., AsyncGenerator[Message, None]], request: Any, context: Context) -> None:
    async with aclosing(stream(request, context)) as messages:
        async for message in messages:
            await context.write(message)


def _within_deadline(behaviour: Behaviour) -> Behaviour:
    async def bounded(request: Any, context: Context) -> Message | None:
        # The handler keeps to the deadline by itself, and says more; this is for one that does not.
        async with asyncio.timeout(time_left(context) + RETURN_OVERHEAD / 2):
            return await behaviour(request, context)

    return bounded


def _translated(behaviour: Behaviour) -> Behaviour:
    """Nothing unforeseen may reach the caller with its text."""

    async def translated(request: Any, context: Context) -> Message | None:
        try:
            return await behaviour(request, context)
        except errors.BrokerError as error:
            log_refusal(error)
            raise
        except TimeoutError:
            raise
        except Exception as error:
            _log.error("unhandled exception", extra={"cause": error})
            raise errors.Internal from error

    return translated


def log_refusal(error: errors.BrokerError) -> None:
    """Why a request was refused: what the caller is not told."""
    level = logging.ERROR if isinstance(error, errors.Failure) else logging.INFO
    extra = {"reason": error.reason, "detail": error.detail, "cause": error.__cause__}
    _log.log(level, "request refused", extra=extra)


def _note(refusal: errors.BrokerError, record: Record) -> None:
    record.code = CODES[refusal.reason].name
    record.note_refusal(refusal)


async def _abort(context: Context, refusal: errors.BrokerError, record: Record) -> None:
    _note(refusal, record)  # metrics and traces tell what is sent, be the record written or not
    status = to_status(refusal, record.correlation_id or "")
    await context.abort(CODES[refusal.reason], status.message, to_metadata(refusal, status))
