"""Loops that run beside the requests, for as long as the broker does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keybroker.clock import Clock

_log = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds after which a loop that failed is begun again."""


async def kept_up(loop: Callable[[], Coroutine[Any, Any, None]], name: str, clock: Clock) -> None:
    """Runs a loop until it returns or is cancelled. Nobody waits for it who would notice that it has failed."""
    while True:
        try:
            return await loop()
        except Exception:  # noqa: BLE001 -- whatever it is, the log has it, and the loop goes on
            _log.exception("a background loop failed, and is begun again", extra={"loop": name})
        await clock.sleep(PAUSE)
