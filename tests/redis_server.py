"""A real Redis of one's own on the loopback, that can be frozen, killed, and started again on the same port."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_START_SECONDS = 10.0
_ATTEMPTS = 3


class RedisServerError(Exception):
    """Redis did not come up; the message is what it wrote."""


class RedisServer:
    """The server itself; `redis_server()` starts one.

    Attributes:
        port: the same for all its lives.
        url: as the settings take it.
    """

    def __init__(self, home: Path, settings: tuple[str, ...]) -> None:
        self.port = free_port()
        self._home = home
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it, empty.

        Raises:
            RedisServerError: it ended at once, or did not answer in time.
        """
        log = self._home / "redis.log"
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._home)),
                *("--save", "", "--appendonly", "no", "--daemonize", "no", *self._settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while self._process.returncode is None:
                    if await self._answers():
                        return
                    await asyncio.sleep(0.01)
        raise RedisServerError(log.read_text(errors="replace"))

    def freeze(self) -> None:
        """Stops it in its tracks: connections stay, and are still accepted, but nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on, with all it had."""
        self._running().send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Ends it with SIGKILL: connections are reset, new ones refused, and all it had is gone."""
        process, self._process = self._process, None
        if process:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """A client with all rights, whose replies are bytes."""
        async with Redis(host="127.0.0.1", port=self.port, socket_timeout=10) as client:
            yield client

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RedisServerError("it is not running")
        return self._process

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except ConnectionError:
            return False
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def redis_server(*settings: str) -> AsyncIterator[RedisServer]:
    """Run a Redis that writes nothing to disk, until the context is left.

    Args:
        settings: further words of its command line, such as "--maxmemory", "1mb".

    Raises:
        RedisServerError: it is not to be had.
    """
    with tempfile.TemporaryDirectory(prefix="keybroker-redis-") as directory:
        server = await _started(Path(directory), settings)
        try:
            yield server
        finally:
            await server.kill()


async def _started(home: Path, settings: tuple[str, ...]) -> RedisServer:
    # Between finding a free port and listening on it another process may take it: then it ends, and tries anew.
    for attempt in range(1, _ATTEMPTS + 1):
        server = RedisServer(home, settings)
        try:
            await server.start()
        except BaseException as error:
            await server.kill()
            if not isinstance(error, RedisServerError) or attempt == _ATTEMPTS:
                raise
        else:
            return server
    raise AssertionError


def free_port() -> int:
    """A port that nobody listens on, for the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
