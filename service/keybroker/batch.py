"""Many keys in one stream: each asked for as if alone, answered as it comes, and given up with the stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from keybroker import audit, errors
from keybroker.fetches import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from keybroker.audit import Record
    from keybroker.clock import Clock
    from keybroker.model import Outlook, ParameterSet, ParametersRequest, Source

    Get = Callable[[ParametersRequest, Waiting], Awaitable[tuple[ParameterSet, Source]]]

_FIRST_NEWS = 0.2
_NEWS = 5.0
"""Seconds after which, and between which, those who wait are told how far they are."""

Outcome: TypeAlias = "tuple[ParameterSet, Source] | errors.BrokerError"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A key's set, or why there is none; on record only once `record` has been ended."""

    key_id: str
    outcome: Outcome
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a key is."""

    key_id: str
    outlook: Outlook


async def answers(
    get: Get,
    requests: Sequence[ParametersRequest],
    *,
    clock: Clock,
    deadline: float,
) -> AsyncGenerator[Answer | Progress, None]:
    """Each key's answer as it comes, and before that how far it is.

    A caller who is past his own rate, or whom the line has no room for, is slowed down here rather than refused.

    Args:
        get: asks for one key's set; raises errors.BrokerError.
        requests: one for each key.
        clock: measures the deadline.
        deadline: monotonic.

    Raises:
        TimeoutError: the deadline has passed, and the rest of the keys are without answer.
    """
    asking: dict[asyncio.Task[Answer], tuple[str, Waiting]] = {}
    for request in requests:
        waiting = Waiting()
        asking[asyncio.create_task(_ask(get, request, waiting, clock, deadline))] = request.key_id, waiting
    news = asyncio.ensure_future(clock.sleep(_FIRST_NEWS))
    try:
        while asking:
            awaited: set[asyncio.Future[Any]] = {news, *asking}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for answer in [answer for answer in asking if answer.done()]:
                del asking[answer]
                yield answer.result()
            if news.done():
                for key_id, waiting in list(asking.values()):
                    if outlook := waiting.outlook():
                        yield Progress(key_id=key_id, outlook=outlook)
                news = asyncio.ensure_future(clock.sleep(_NEWS))
    finally:
        left: set[asyncio.Future[Any]] = {news, *asking}
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _ask(get: Get, request: ParametersRequest, waiting: Waiting, clock: Clock, deadline: float) -> Answer:
    record = audit.begin_part(clock.now())
    while True:
        try:
            outcome: Outcome = await get(request, waiting)
        except (errors.CallerRateExceeded, errors.QuotaQueueFull) as error:
            if clock.monotonic() + error.retry_after <= deadline:
                await clock.sleep(error.retry_after)
                continue
            outcome = error
        except errors.BrokerError as error:
            outcome = error
        return Answer(key_id=request.key_id, outcome=outcome, record=record)
