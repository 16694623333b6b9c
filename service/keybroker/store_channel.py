"""What replicas tell each other at once, by the store's channel: heard for as long as there is a store."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.store_exchange import Exchange

_log = logging.getLogger(__name__)

CHANNEL = "keybroker:events"

SILENCE = 2.0
"""Seconds without a message after which the store is asked whether it is still there, and that it has to answer."""

_AGAIN = 0.5
"""Seconds between two attempts to listen."""

_DEAF = 10
"""Attempts in a row that fail while the store answers otherwise, and are then told of."""

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_LONGEST_EVENT = 512


class Channel:
    """The channel of the fleet."""

    def __init__(self, *, client: Any, exchange: Exchange, clock: Clock, metrics: Metrics) -> None:
        """Not yet listening.

        Args:
            client: redis.asyncio's, of any kind.
            exchange: told when the store is heard of.
            clock: paces the attempts.
            metrics: counts failures.
        """
        self._client = client
        self._exchange = exchange
        self._clock = clock
        self._metrics = metrics
        self._failures = 0

    async def listen(self, hear: Callable[[dict[str, str]], None]) -> None:
        """Hears each event, its ids by name, for as long as it runs."""
        while True:
            try:
                await self._client.initialize()  # a cluster's client does not know its nodes before
                async with self._client.pubsub() as said:
                    await said.subscribe(CHANNEL)
                    await self._hear_all(said, hear)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next attempt may do
                self._note_failure(error)
            await self._clock.sleep(_AGAIN)

    async def _hear_all(self, said: Any, hear: Callable[[dict[str, str]], None]) -> None:
        """Until the connection breaks. One whose other end is gone without a word never does by itself."""
        asked = False
        while True:
            message = await said.get_message(timeout=SILENCE)
            if message is None:
                if asked:
                    raise RedisConnectionError("no answer to a ping")
                await said.ping()
            elif message["type"] == "subscribe":
                self._exchange.try_again()
                self._note_heard()
            elif message["type"] == "message":
                hear(_event(message["data"]))
            asked = message is None

    def _note_failure(self, error: Exception) -> None:
        self._metrics.store_failures.inc()
        self._failures += not self._exchange.away  # what is known to be away has been told of
        if self._failures == _DEAF:
            _log.error("other replicas are not heard: is subscribing forbidden?", extra={"cause": error})

    def _note_heard(self) -> None:
        if self._failures >= _DEAF:
            _log.warning("other replicas are heard again")
        self._failures = 0


def _event(data: bytes) -> dict[str, str]:
    """What is said, by name. Whoever can write the store can say anything: what is no id is left out."""
    if len(data) > _LONGEST_EVENT:
        return {}
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(event, dict):
        return {}
    return {name: value for name, value in event.items() if isinstance(value, str) and _ID.fullmatch(value)}
