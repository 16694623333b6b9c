"""Brokers as a load balancer has them: real processes on mutual TLS, stopped, killed and started again by a test."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from demo.broker_process import broker_process
from tests.certificates import Authority, TlsFiles
from tests.keybroker_process import settings_file, unix
from tests.kms_double import kms_double
from tests.kms_wrapping import next_wrapping_key

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.certificates import Identity
    from tests.kms_double import KmsDouble

_TLS = 'tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }'
_MORE = """
[limits]
lookups_per_second = 2000

[audit]
file = "{directory}/audit.log"

[[callers]]
id = "spiffe://corp.example/ns/load/sa/*"
keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]
operations = ["GetParametersForImport", "ImportKeyMaterial", "GetKeyImportStatus"]
"""


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """One broker: its settings and files in a directory, its port, and its process while it runs."""

    directory: Path
    port: int
    process: Process | None = None
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        """Starts it, and returns when it is SERVING."""
        running = broker_process(
            self.directory / "keybroker.toml", f"unix:{self.directory}/probe.sock", log=self.directory / "broker.log"
        )
        self.process = await self._running.enter_async_context(running)

    async def stop(self) -> int | None:
        """Asks it to end, waits until it has, and gives its exit code."""
        process, self.process = self.process, None
        await self._running.aclose()
        return process.returncode if process else None

    async def kill(self) -> None:
        """Ends it with SIGKILL."""
        assert self.process
        self.process.kill()
        await self.process.wait()
        await self.stop()

    def audited(self) -> list[dict[str, Any]]:
        """The audit so far; of a last line cut off by SIGKILL, nothing."""
        lines = (self.directory / "audit.log").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def log(self) -> str:
        """What it wrote, for whoever looks into a failure."""
        return (self.directory / "broker.log").read_text(errors="replace")


@dataclass(slots=True, kw_only=True)
class Replicas:
    """The brokers, the KMS they share, and the way to them."""

    double: KmsDouble
    all: list[Replica]
    server_ca: Authority
    client_ca: Authority

    def channel(self, name: str, service_config: str, *, first: int = 0, **options: int) -> grpc.aio.Channel:
        """A client's channel to all of them, with connections and a certificate of its own.

        Args:
            name: the last part of its SPIFFE ID.
            service_config: gRPC's, in JSON.
            first: which of them heads its list.
            options: of the channel, without the prefix.
        """
        client: Identity = self.client_ca.client(f"spiffe://corp.example/ns/load/sa/{name}")
        credentials = grpc.ssl_channel_credentials(self.server_ca.pem, client.key_pem, client.pem)
        given: dict[str, Any] = {
            "grpc.service_config": service_config,
            "grpc.use_local_subchannel_pool": 1,
            "grpc.ssl_target_name_override": "localhost",
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.min_reconnect_backoff_ms": 1000,
            "grpc.max_reconnect_backoff_ms": 1000,
        } | {f"grpc.{key}": value for key, value in options.items()}
        target = "ipv4:" + ",".join(f"127.0.0.1:{replica.port}" for replica in self.all[first:] + self.all[:first])
        return grpc.aio.secure_channel(target, credentials, options=list(given.items()))


@asynccontextmanager
async def replicas(directory: Path, count: int = 2, *, more: str = "") -> AsyncIterator[Replicas]:
    """Run brokers, and a KMS for them, until the context is left.

    Args:
        directory: private, and with a short path: sockets are in it.
        count: how many brokers.
        more: further tables of their settings.
    """
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(kms_double())
        await next_wrapping_key(2048)
        made = Replicas(double=double, all=[], server_ca=Authority("server CA"), client_ca=Authority("client CA"))
        for port in _free_ports(count):
            home = directory / str(len(made.all))
            home.mkdir(mode=0o700)
            TlsFiles.write(home, made.server_ca.server(), made.client_ca)
            listeners = (unix(home / "probe.sock"), f'address = "tcp:127.0.0.1:{port}"\n{_TLS}')
            tables = _MORE.format(directory=home) + more
            rate = "requests_per_second = 1000.0"
            settings_file(home / "keybroker.toml", double.endpoint, *listeners, kms=rate, more=tables)
            made.all.append(Replica(directory=home, port=port))
        for replica in made.all:
            stack.push_async_callback(replica.stop)
        await asyncio.gather(*(replica.start() for replica in made.all))
        yield made


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
