"""Connections to Redis or Valkey: one server, Sentinel, or Cluster; short limits, and no retries of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from keybroker.store_exchange import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keybroker.settings_store import StoreSettings

_LIMIT = 0.15
"""Seconds to connect, and for each answer. The client's defaults would let a frozen server hold a request for 20 s."""

_POOL = CONNECTIONS + 2
"""Connections to a server: for the exchanges, for the channel, and for what the client wants to know by itself."""


@asynccontextmanager
async def connected(settings: StoreSettings) -> AsyncIterator[Any]:
    """An asyncio client, closed with the context; nothing is sent yet.

    Raises:
        OSError: the password file cannot be read.
    """
    password = _read(settings.password_file) if settings.password_file else None
    client, *others = _clients(settings, password)
    try:
        yield client
    finally:
        for each in (client, *others):
            with suppress(RedisError, OSError):
                await each.aclose()


def _clients(settings: StoreSettings, password: str | None) -> list[Any]:
    """The client, and those it needs to find its server."""
    scheme, _, rest = settings.url.partition("://")
    encrypted = scheme.startswith("rediss")
    common: dict[str, Any] = {
        "socket_timeout": _LIMIT,
        "socket_connect_timeout": _LIMIT,
        "username": settings.username,
        "password": password,
        "ssl": encrypted,
        "retry": Retry(NoBackoff(), 0),
    }
    if encrypted:
        common["ssl_ca_certs"] = settings.ca
    hosts, _, service = rest.partition("/")
    addresses = [_address(host) for host in hosts.split(",")]
    if scheme.endswith("+sentinel"):
        sentinel: Any = cast("Any", Sentinel)(addresses, sentinel_kwargs=common, **common)
        client = sentinel.master_for(service, max_connections=_POOL)
        client.auto_close_connection_pool = True
        return [client, *sentinel.sentinels]
    if scheme.endswith("+cluster"):
        nodes = [ClusterNode(host, port) for host, port in addresses]
        return [RedisCluster(startup_nodes=nodes, max_connections=_POOL, **common)]
    ((host, port),) = addresses
    return [Redis(host=host, port=port, max_connections=_POOL, **common)]


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip()


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or 6379
