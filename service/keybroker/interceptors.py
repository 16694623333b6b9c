"""What stands round every handler: the log line, the error's way out, the deadline; in this order from the outside."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc

from keybroker import errors
from keybroker.status import CODES, to_metadata, to_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Message]]

_log = logging.getLogger(__name__)

DEFAULT_DEADLINE = 60.0
"""Seconds a request has whose caller set no deadline."""

LONGEST_DEADLINE = 900.0
"""Seconds any request has at most."""

RETURN_OVERHEAD = 0.02
"""Seconds kept back, so that our own answer reaches the caller before its deadline's blunt one does."""

_OURS = "/keyimport.v1."
correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


def time_left(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Seconds this request may still take."""
    given: float | None = context.time_remaining()  # the types say float
    left = min(given, LONGEST_DEADLINE) if given is not None else DEFAULT_DEADLINE
    return left - min(RETURN_OVERHEAD, left / 10)


class Interceptor(grpc.aio.ServerInterceptor):
    """Puts every unary handler of our own services inside the list; health and reflection stay as they are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS) or handler.unary_unary is None:
            return handler
        behaviour: Any = handler.unary_unary
        for wrap in (_within_deadline, _errors_to_status, _logged):  # the innermost first
            behaviour = wrap(behaviour, method)
        return grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _within_deadline(behaviour: Behaviour, _: str) -> Behaviour:
    async def bounded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        # The handler keeps to the deadline by itself, and says more; this is for one that does not.
        async with asyncio.timeout(time_left(context) + RETURN_OVERHEAD / 2):
            return await behaviour(request, context)

    return bounded


def _errors_to_status(behaviour: Behaviour, method: str) -> Behaviour:
    async def translated(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The request's deadline passed before KMS answered.")
        except errors.BrokerError as error:
            refusal = error
        except Exception as error:  # noqa: BLE001 -- nothing unforeseen may reach the caller with its text
            # Class and frames only: the text of an unforeseen exception may hold anything.
            _log.error("unhandled exception", extra={"method": method, "cause": error})
            refusal = errors.Internal()
        status = to_status(refusal, correlation_id.get())
        _note_refusal(method, refusal)
        await context.abort(CODES[refusal.reason], status.message, to_metadata(refusal, status))
        raise AssertionError  # abort always raises

    return translated


def _note_refusal(method: str, error: errors.BrokerError) -> None:
    level = logging.ERROR if isinstance(error, errors.Failure) else logging.INFO
    _log.log(
        level,
        "request refused",
        extra={"method": method, "reason": error.reason, "detail": error.detail, "cause": error.__cause__},
    )


def _logged(behaviour: Behaviour, method: str) -> Behaviour:
    async def logged(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        correlation_id.set(secrets.token_hex(8))
        started = time.monotonic()
        try:
            return await behaviour(request, context)
        finally:
            elapsed = time.monotonic() - started
            _log.debug("request answered", extra={"method": method, "seconds": round(elapsed, 6)})

    return logged
