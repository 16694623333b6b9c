"""One exchange with the fleet's store after another: bounded, never repeated here, and none while the store is away."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.tasks import Tasks

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

CALL_LIMIT = 0.5
"""Seconds for one exchange with the store; the client's own limits are shorter."""

CONNECTIONS = 32
"""Exchanges at once. The others wait here: the client's pools raise at once where they have no connection to spare."""

FAILURES = 3
AWAY = 5.0
"""After so many failures in a row, each of an exchange begun after the last, the store is left alone for seconds."""

_QUIET = 30.0
"""Seconds without a refused write after which writes are taken again; a full store takes some and refuses others."""


class StoreAway(Exception):
    """The store did not answer, or could not do it."""


class StoreRefuses(StoreAway):
    """It answers that it cannot: it is full, or the command is forbidden."""


class Exchange:
    """The way to the store and back.

    Attributes:
        away: true from the failures that the store is left alone for until it answers again.
    """

    def __init__(self, *, client: Any, clock: Clock, tasks: Tasks, metrics: Metrics) -> None:
        """Connects at the first exchange.

        Args:
            client: redis.asyncio's, of any kind.
            clock: monotonic time.
            tasks: closes connections that are broken.
            metrics: counts failures.
        """
        self._client = client
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._failures = 0
        self._failed_at = 0.0
        self._away_until = 0.0
        self.away = False
        self._refusing = False
        self._refused_at = 0.0

    async def script(self, script: str, names: list[str], arguments: list[Any]) -> Any:
        """What a script answers.

        Args:
            script: Lua, one of `store_scripts`.
            names: its KEYS.
            arguments: its ARGV.

        Raises:
            StoreAway
        """
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

        async def run() -> Any:
            try:
                return await self._client.evalsha(digest, len(names), *names, *arguments)
            except NoScriptError:
                return await self._client.eval(script, len(names), *names, *arguments)

        answer = await self.ask(run())
        if self._refusing and self._clock.monotonic() > self._refused_at + _QUIET:
            self._refusing = False
            _log.warning("the store takes writes again")
        return answer

    async def ask(self, question: Coroutine[Any, Any, _T]) -> _T:
        """What the store answers.

        Raises:
            StoreAway
        """
        try:
            async with self._turns:
                return await self._answer(question)
        finally:
            question.close()  # one that has not been asked would be told of by the interpreter

    async def _answer(self, question: Coroutine[Any, Any, _T]) -> _T:
        began = self._clock.monotonic()
        if began < self._away_until:
            raise StoreAway
        try:
            async with asyncio.timeout(CALL_LIMIT):
                answer = await question
        except ReadOnlyError as error:  # of a server that is the primary no more: the way to the new one is another
            self._note_failure(began, error)
            self._tasks.start(self._drop_connections(inuse=True))
            raise StoreAway from error
        except ResponseError as error:
            self._metrics.store_failures.inc()
            self._refused_at = self._clock.monotonic()
            if not self._refusing:
                self._refusing = True
                _log.error("the store refuses writes: is it full, is a command forbidden?", extra={"cause": error})
            raise StoreRefuses from error  # it answers, so it is not left alone
        except Exception as error:  # the client raises more than its own errors when a server is exchanged under it
            self._note_failure(began, error)
            raise StoreAway from error
        if self.away:
            self.away = False
            self._metrics.store_away.set(0)
            _log.warning("the store is back")
        self._failures = 0
        return answer

    def try_again(self) -> None:
        """It has been heard of: the next question is asked."""
        self._away_until = 0.0

    def _note_failure(self, began: float, error: Exception) -> None:
        self._metrics.store_failures.inc()
        if began < self._failed_at:
            return  # one stall, of this process too, fails all exchanges under way: it is one failure
        self._failed_at = self._clock.monotonic()
        self._failures += 1
        if self.away or self._failures >= FAILURES:
            self._away_until = self._clock.monotonic() + AWAY
            self._tasks.start(self._drop_connections())
            if not self.away:
                self.away = True
                self._metrics.store_away.set(1)
                _log.error("the store is away: own cache, own share of the quota", extra={"cause": error})

    async def _drop_connections(self, *, inuse: bool = False) -> None:
        """Those that are broken would fail one by one once the store is back."""
        if pool := getattr(self._client, "connection_pool", None):
            with suppress(RedisError, OSError):
                await pool.disconnect(inuse_connections=inuse)
