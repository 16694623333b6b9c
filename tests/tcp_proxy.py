"""A TCP proxy that does what networks do: delays, refuses, cuts in mid-reply, swallows; and heals."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CHUNK = 65_536


class TcpProxy:
    """The proxy itself; `tcp_proxy(host, port)` starts one. Its faults begin at once and last until `heal()`.

    Attributes:
        upstream: host and port of what is behind it; a change holds for connections made from then on.
        port: where it listens, on 127.0.0.1.
        connections: how many were accepted, ever.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.port = 0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay = 0.0
        self._cut_after: int | None = None
        self._refusing = False

    @property
    def url(self) -> str:
        """As the settings of a store take it."""
        return f"redis://127.0.0.1:{self.port}"

    async def heal(self) -> None:
        """Ends every fault; what was held back flows on."""
        self._delay, self._cut_after, self._refusing = 0.0, None, False
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def delay(self, seconds: float) -> None:
        """Passes every piece of a reply on so much later."""
        self._delay = seconds

    def cut_replies_after(self, size: int) -> None:
        """Passes so many bytes of replies on from now, on each connection, and then resets it."""
        self._cut_after = size

    def freeze(self) -> None:
        """Accepts everything and passes nothing on."""
        self._flowing.clear()

    def abandon(self) -> None:
        """Passes nothing on any more on the connections there are, as where the other end's machine is gone."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def cut(self) -> None:
        """Resets every connection there is; new ones are welcome."""
        for writer in list(self._open):
            writer.transport.abort()

    async def refuse(self) -> None:
        """Resets every connection and refuses new ones."""
        self._refusing = True
        server, self._server = self._server, None
        if server:
            server.close()
            self.cut()
            await server.wait_closed()

    async def close(self) -> None:
        """Refuses, for good; returns when nothing of it runs any more."""
        await self.refuse()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.ensure_future(self._pass_on(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            if self._refusing:  # accepted just before the server was closed
                return
            with suppress(OSError):
                behind, before = await asyncio.open_connection(*self.upstream)
                self._open.add(before)
                try:
                    await self._pump_both((reader, before), (behind, writer))
                finally:
                    self._open.discard(before)
                    before.transport.abort()
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pump_both(
        self,
        requests: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        replies: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(*requests, replies=False)),
            asyncio.ensure_future(self._pump(*replies, replies=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        flowing = self._flowing
        left: int | None = None  # of what may still be passed on, once it is to be cut
        while data := await reader.read(_CHUNK):
            if replies and self._delay:
                await asyncio.sleep(self._delay)
            await flowing.wait()
            if replies and self._cut_after is not None:
                left = self._cut_after if left is None else left
                data, left = data[:left], left - len(data)
            else:
                left = None
            writer.write(data)
            await writer.drain()
            if left is not None and left <= 0:
                await asyncio.sleep(0)  # what was written is on its way before the reset
                return


@asynccontextmanager
async def tcp_proxy(host: str, port: int) -> AsyncIterator[TcpProxy]:
    """Run a proxy in this loop before a server on this host and port."""
    proxy = TcpProxy((host, port))
    await proxy.heal()
    try:
        yield proxy
    finally:
        await proxy.close()
