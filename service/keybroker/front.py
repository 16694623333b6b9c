"""What callers meet: the listeners' servers, and how they are given up without losing a caller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from keybroker import listeners
from keybroker.certificates import Certificates
from keybroker.errors import StartError
from keybroker.interceptors import LONGEST_DEADLINE, Interceptor
from keybroker.limits import RateLimit
from keybroker.reflection import SERVICE, add_reflection
from keybroker.servicer import KeyImportServicer
from keyimport.v1 import key_import_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from keybroker.audit import Audit
    from keybroker.broker import Broker
    from keybroker.build import Ground
    from keybroker.settings_listeners import Listener

DRAIN = 10.0
"""Seconds that requests under way have to finish after SIGTERM."""

NEWS = 0.2
NEWS_AT_MOST = 2.0
"""Once health says NOT_SERVING, calls are served until none has come for so many seconds, or so many have passed."""

LAST_WORDS = 1.0
"""Seconds in which the callers of what is not finished by then are told so."""


class Front:
    """A server for each listener, with one health for all."""

    def __init__(self, ground: Ground, audit: Audit, broker: Callable[[], Broker]) -> None:
        """Not listening.

        Args:
            ground: the settings, and what all parts share.
            audit: where each request is noted.
            broker: the broker, or raises why there is none yet.
        """
        self._ground = ground
        self._audit = audit
        self._broker = broker
        self._servers: list[grpc.aio.Server] = []
        self._interceptors: list[Interceptor] = []
        self._certificates: list[Certificates] = []
        self._health = health_aio.HealthServicer()
        rate = ground.settings.limits.requests_per_second
        self._requests = RateLimit(rate=rate, burst=2 * rate, clock=ground.clock)
        self.ports: list[int] = []

    def bind(self) -> None:
        """Takes every listener's address, and answers nobody yet.

        Raises:
            StartError: one cannot be had, or its certificates cannot be used.
        """
        try:
            for index, listener in enumerate(self._ground.settings.listeners):
                self._bind(index, listener)
        except StartError:
            # gRPC removes the sockets of servers that have been started, and these have not.
            for bound in self._ground.settings.listeners[: len(self.ports)]:
                if bound.socket_path:
                    Path(bound.socket_path).unlink(missing_ok=True)
            raise

    def _bind(self, index: int, listener: Listener) -> None:
        settings, clock, metrics = self._ground.settings, self._ground.clock, self._ground.metrics
        certificates = self._certificates_of(index, listener)
        interceptor = Interceptor(audit_log=self._audit, clock=clock, metrics=metrics, tracer=self._ground.tracer)
        self._interceptors.append(interceptor)
        server = grpc.aio.server(
            interceptors=[interceptor],
            options=listeners.options(listener, settings.limits, LONGEST_DEADLINE),
        )
        servicer = KeyImportServicer(
            broker=self._broker,
            identify=listeners.identity(listener, certificates, clock),
            requests=self._requests,
            clock=clock,
            metrics=metrics,
        )
        key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add_reflection(server)
        self._servers.append(server)
        self.ports.append(listeners.bind(server, listener, certificates))

    def _certificates_of(self, index: int, listener: Listener) -> Certificates | None:
        if listener.tls is None:
            return None
        path = f"listeners[{index}].tls"
        certificates = Certificates(listener.tls, path=path, metrics=self._ground.metrics, clock=self._ground.clock)
        self._certificates.append(certificates)
        return certificates

    async def start(self) -> None:
        """Answers whoever comes."""
        for each in self._servers:
            await each.start()

    async def set_health(self, *, serving: bool) -> None:
        """What health checks are told from now on."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)

    def reload_certificates(self) -> None:
        """Uses the certificate files as they are now, if they are good."""
        for certificates in self._certificates:
            certificates.reload()

    async def watch_certificates(self, interval: float) -> None:
        """Looks at them every so many seconds; returns at once if there are none."""
        while self._certificates:
            await self._ground.clock.sleep(interval)
            self.reload_certificates()

    async def stop(self) -> None:
        """Tells everyone that it stops, answers what it can, and accepts nothing new."""
        await self._health.enter_graceful_shutdown()
        await self._until_the_news_is_out()
        stopping = asyncio.gather(*(server.stop(DRAIN + LAST_WORDS) for server in self._servers))
        await self._until_answered(DRAIN)
        for interceptor in self._interceptors:
            interceptor.end_watches()
        await stopping

    async def _until_the_news_is_out(self) -> None:
        """Serves whoever comes meanwhile: the calls that meet gRPC's stop end with CANCELLED, which nobody retries."""
        loop = asyncio.get_running_loop()
        until = loop.time() + NEWS_AT_MOST
        before, begun = -1, self._begun()
        while before < begun and loop.time() < until:
            await asyncio.sleep(NEWS)
            before, begun = begun, self._begun()

    def _begun(self) -> int:
        return sum(interceptor.begun for interceptor in self._interceptors)

    async def _until_answered(self, seconds: float) -> None:
        """Past that time, those who still wait are told that the broker is stopping."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while running := {call for interceptor in self._interceptors for call in interceptor.running}:
            if loop.time() >= until:
                for interceptor in self._interceptors:
                    interceptor.end_calls()
                return
            await asyncio.wait(running, timeout=until - loop.time())
