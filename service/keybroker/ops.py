"""The operators' HTTP port: /metrics for Prometheus, /livez and /readyz for whoever restarts or routes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from keybroker.metrics import Metrics


@asynccontextmanager
async def ops_server(host: str, port: int, *, metrics: Metrics, ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Serves until the context is left, and gives the port.

    Args:
        host: an address.
        port: 0 for a free one.
        metrics: what /metrics shows.
        ready: whether requests can be served; asks nobody, least of all KMS.

    Raises:
        OSError: the address cannot be had.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")  # that the event loop answers is all it says

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(text="not ready\n", status=503)

    app = web.Application(client_max_size=1024)
    app.add_routes([web.get("/metrics", show_metrics), web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
