"""A small HTTP server on the loopback, inside the loop of the test that wants it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

REQUEST_ID = web.RequestKey("request_id", str)
"""Where a handler leaves the id that its response is to carry."""


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]], port: int = 0) -> AsyncIterator[str]:
    """Have every request, whatever its path, answered by `answer`; gives the server's URL.

    Who hangs up does not stop `answer`: KMS, too, finishes what it was asked for.
    """
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/{path:.*}", answer)
    app.on_response_prepare.append(_identify)
    # What still hangs when the test is over is cancelled after the pause, and its connection closed.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True, backlog=1024)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _identify(http: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("x-amzn-RequestId", http.get(REQUEST_ID) or str(uuid.uuid4()))
