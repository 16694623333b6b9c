"""Connections to Redis or Valkey: one server, Sentinel, or Cluster; short limits, and no retries of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from keybroker.settings import StoreSettings

_LIMIT = 0.15
"""Seconds to connect, and for each answer. The client's defaults would let a frozen server hold a request for 20 s."""

_CONNECTIONS = 32


def connect(settings: StoreSettings) -> Any:
    """An asyncio client; nothing is sent yet.

    Raises:
        OSError: the password file cannot be read.
    """
    scheme, _, rest = settings.url.partition("://")
    encrypted = scheme.startswith("rediss")
    common: dict[str, Any] = {
        "socket_timeout": _LIMIT,
        "socket_connect_timeout": _LIMIT,
        "username": settings.username,
        "password": Path(settings.password_file).read_text(encoding="utf-8").strip()
        if settings.password_file
        else None,
    }
    if encrypted:
        common["ssl_ca_certs"] = settings.ca
    retry = Retry(NoBackoff(), 0)
    hosts, _, service = rest.partition("/")
    addresses = [_address(host) for host in hosts.split(",")]
    if scheme.endswith("+cluster"):
        host, port = addresses[0]
        return RedisCluster(host=host, port=port, ssl=encrypted, max_connections=_CONNECTIONS, **common)
    if scheme.endswith("+sentinel"):
        sentinel: Any = cast("Any", Sentinel)(
            addresses, sentinel_kwargs=common | {"ssl": encrypted}, ssl=encrypted, retry=retry, **common
        )
        return sentinel.master_for(service, max_connections=_CONNECTIONS)
    ((host, port),) = addresses
    # One that waits for a free connection: the plain pool raises at once.
    pool = BlockingConnectionPool(
        host=host,
        port=port,
        retry=retry,
        max_connections=_CONNECTIONS,
        timeout=_LIMIT,
        connection_class=SSLConnection if encrypted else Connection,
        **common,
    )
    return Redis.from_pool(pool)


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or 6379
