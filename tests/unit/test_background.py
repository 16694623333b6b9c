"""A loop that nobody waits for goes on, whatever happens in it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from keybroker.background import PAUSE, kept_up
from keybroker.telemetry import JsonFormatter
from tests.clock import settle

if TYPE_CHECKING:
    import pytest

    from tests.clock import FakeClock


async def test_a_loop_that_fails_is_begun_again_after_a_pause(clock: FakeClock) -> None:
    """Each time."""
    begun = []

    async def loop() -> None:
        begun.append(clock.monotonic())
        await clock.sleep(1)
        raise RuntimeError

    running = asyncio.ensure_future(kept_up(loop, "a loop", clock))
    await clock.advance(3 * (1 + PAUSE))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert [at - begun[0] for at in begun] == [0, 1 + PAUSE, 2 + 2 * PAUSE, 3 + 3 * PAUSE]


async def test_the_log_says_which_and_where_and_no_more(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception may hold anything."""

    async def loop() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("secret")

    running = asyncio.ensure_future(kept_up(loop, "a loop", clock))
    await settle()
    running.cancel()

    line = JsonFormatter().format(caplog.records[0])
    told = json.loads(line)
    assert (told["level"], told["loop"], told["exception"]["class"]) == ("error", "a loop", "RuntimeError")
    assert told["exception"]["frames"][-1].endswith(" loop")
    assert "secret" not in line


async def test_a_loop_may_end(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Having nothing to do is no failure."""

    async def loop() -> None:
        await asyncio.sleep(0)

    await kept_up(loop, "a loop", clock)

    assert caplog.records == []
