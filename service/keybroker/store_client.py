"""Connections to Redis or Valkey: one server, Sentinel, or Cluster; short limits, and no retries of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keybroker.settings import StoreSettings

_LIMIT = 0.15
"""Seconds to connect, and for each answer. The client's defaults would let a frozen server hold a request for 20 s."""

_CONNECTIONS = 32


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
    }
    if encrypted:
        common["ssl_ca_certs"] = settings.ca
    retry = Retry(NoBackoff(), 0)
    hosts, _, service = rest.partition("/")
    addresses = [_address(host) for host in hosts.split(",")]
    if scheme.endswith("+cluster"):
        host, port = addresses[0]
        return [RedisCluster(host=host, port=port, ssl=encrypted, max_connections=_CONNECTIONS, **common)]
    if scheme.endswith("+sentinel"):
        sentinel: Any = cast("Any", Sentinel)(
            addresses, sentinel_kwargs=common | {"ssl": encrypted}, ssl=encrypted, retry=retry, **common
        )
        client = sentinel.master_for(service, max_connections=_CONNECTIONS)
        client.auto_close_connection_pool = True
        return [client, *sentinel.sentinels]
    ((host, port),) = addresses
    # One that waits for a free connection, within the limit of the whole exchange: the plain pool raises at once.
    pool = BlockingConnectionPool(
        host=host,
        port=port,
        retry=retry,
        max_connections=_CONNECTIONS,
        timeout=None,
        connection_class=SSLConnection if encrypted else Connection,
        **common,
    )
    return [Redis.from_pool(pool)]


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip()


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or 6379
