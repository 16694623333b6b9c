"""Which errors are only a matter of time, and how long they are waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import grpc

from keyimport.errors import KeyImportError, TryLater

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Answer = TypeVar("_Answer")

# The client itself has tried for its whole timeout by then.
_AWAY_SECONDS: Final = 2.0
_LEAST_SECONDS: Final = 0.1
_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


def seconds_to_wait(error: KeyImportError) -> float | None:
    """How long until the same request can succeed, by the broker's word or because it is away; None if it cannot."""
    if isinstance(error, TryLater):
        return max(error.retry_after.total_seconds(), _LEAST_SECONDS) if error.retry_after else _AWAY_SECONDS
    return _AWAY_SECONDS if is_away(error) else None


def is_away(error: KeyImportError) -> bool:
    """Whether no broker has answered, or it stopped in the middle of the call."""
    return not error.reason and error.code in _AWAY


async def patiently(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """What the call returns in the end. It must change nothing, for it is made again and again.

    Raises:
        KeyImportError: one that time does not mend.
    """
    while True:
        try:
            return await call()
        except KeyImportError as error:
            delay = seconds_to_wait(error)
            if delay is None:
                raise
        await asyncio.sleep(delay)


def awaited(error: KeyImportError) -> str:
    """What is waited for after this error, in a word."""
    return error.reason or (error.code.name if error.code else type(error).__name__)
