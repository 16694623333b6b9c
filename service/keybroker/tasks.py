"""Work that belongs to the broker, not to the caller who started it."""

from __future__ import annotations

import asyncio
import contextvars
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""Of the request under way; its lines in the log carry it."""


class Tasks:
    """Detached tasks: kept alive, in a context of their own, their failures never lost in the garbage collector."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _T], *, for_request: bool = False) -> asyncio.Task[_T]:
        """Starts the work; whoever waits for the task with asyncio.wait or shield can leave without touching it.

        Args:
            work: what to do.
            for_request: whether its lines in the log carry the correlation id of the request that starts it.
        """
        context = contextvars.Context()
        if for_request:
            context.run(correlation_id.set, correlation_id.get())
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, for the case that every waiter has left

    async def drain(self, seconds: float) -> None:
        """Lets the running work finish, then cancels what is left."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=1)
