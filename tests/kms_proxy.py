"""A reverse proxy before any KMS that counts what passes, can hold it at a gate, and can be down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

from tests.kms_calls import CallLog, read_call
from tests.kms_serving import REQUEST_ID, serving

# These belong to one connection, not to the message. The Host header passes, as the signature covers it.
_OF_THE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"})
_UPSTREAM_SECONDS = 60.0


class KmsProxy(CallLog):
    """The proxy itself; `kms_proxy(upstream)` starts one."""

    def __init__(self, *, upstream: str, session: ClientSession) -> None:
        super().__init__()
        self.endpoint = ""
        self._upstream = upstream
        self._session = session
        self._gate = asyncio.Event()
        self._gate.set()
        self._unavailable = False
        self._server = AsyncExitStack()

    def pause(self) -> None:
        """Hold what arrives from now on at the gate, after it was counted."""
        self._gate.clear()

    def resume(self) -> None:
        """Open the gate."""
        self._gate.set()

    def unavailable(self) -> None:
        """Answer 503 to everything, until `up()`; nothing reaches the upstream."""
        self._unavailable = True

    async def down(self) -> None:
        """Close every connection and refuse new ones, until `up()`."""
        await self._server.aclose()

    async def up(self) -> None:
        """Serve, on the same port as before."""
        self._unavailable = False
        await self._server.aclose()
        port = int(self.endpoint.rpartition(":")[2] or 0) if self.endpoint else 0
        self.endpoint = await self._server.enter_async_context(serving(self._pass_on, port))

    async def _pass_on(self, http: web.Request) -> web.StreamResponse:
        call = await read_call(http)
        http[REQUEST_ID] = call.request_id
        await self._record(call)
        await self._gate.wait()
        if self._unavailable:
            return web.Response(status=503)
        headers = [(name, value) for name, value in http.headers.items() if name.lower() not in _OF_THE_CONNECTION]
        try:
            async with self._session.request(
                http.method,
                f"{self._upstream}{http.path_qs}",
                headers=headers,
                data=await http.read(),
                allow_redirects=False,
            ) as response:
                return web.Response(
                    status=response.status,
                    body=await response.read(),
                    headers=[(k, v) for k, v in response.headers.items() if k.lower() not in _OF_THE_CONNECTION],
                )
        except (ClientError, TimeoutError):
            return web.Response(status=502)


@asynccontextmanager
async def kms_proxy(upstream: str) -> AsyncIterator[KmsProxy]:
    """Run a proxy in this loop: `proxy.endpoint` is where."""
    async with ClientSession(
        connector=TCPConnector(limit=0),
        timeout=ClientTimeout(total=_UPSTREAM_SECONDS),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        proxy = KmsProxy(upstream=upstream, session=session)
        await proxy.up()
        try:
            yield proxy
        finally:
            proxy.resume()
            await proxy.down()
