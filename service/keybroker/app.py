"""The composition root: builds everything in the order it depends on, and takes it down in the reverse."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from keybroker import errors, listeners
from keybroker.audit import Audit
from keybroker.background import kept_up
from keybroker.build import Ground, build_broker, open_store, policy_of, upkeep
from keybroker.certificates import Certificates
from keybroker.home import find_home
from keybroker.interceptors import LONGEST_DEADLINE, Interceptor
from keybroker.kms import CALL_LIMIT
from keybroker.limits import RateLimit
from keybroker.metrics import Metrics
from keybroker.notify import notify
from keybroker.ops import ops_server
from keybroker.reflection import SERVICE, add_reflection
from keybroker.servicer import KeyImportServicer
from keybroker.settings import SettingsError
from keybroker.tasks import Tasks
from keybroker.tracing import OpenTelemetry, Untraced
from keyimport.v1 import key_import_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keybroker.broker import Broker
    from keybroker.clock import Clock
    from keybroker.settings import Settings
    from keybroker.settings_listeners import Listener
    from keybroker.store import Store

_log = logging.getLogger(__name__)

DRAIN = 10.0
"""Seconds that requests under way have to finish after SIGTERM."""

NEWS = 0.2
NEWS_AT_MOST = 2.0
"""Once health says NOT_SERVING, calls are served until none has come for so many seconds, or so many have passed."""

LAST_WORDS = 1.0
"""Seconds in which the callers of what is not finished by then are told so."""

LIMIT = 29
"""Seconds after SIGTERM at which the process ends, whatever holds it up; others wait for 30 before they kill it."""

LOOP_INTERVAL = 0.5
"""Seconds between two measurements of how late the event loop is, and how many tasks it has."""

CERTIFICATE_CHECK = 5.0
"""Seconds between two looks at the certificate files."""

_STOPS = (signal.SIGTERM, signal.SIGINT)


class App:
    """The whole broker process."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        reload: Callable[[], Settings] | None = None,
        call_limit: float = CALL_LIMIT,
        certificate_check: float = CERTIFICATE_CHECK,
    ) -> None:
        """A broker not yet listening.

        Args:
            settings: the whole file.
            clock: the only source of time.
            reload: reads the settings again; raises SettingsError.
            call_limit: seconds that one call to KMS may take.
            certificate_check: seconds between two looks at the certificate files.
        """
        self._settings = settings
        self._clock = clock
        self._reload_settings = reload
        self._certificate_check = certificate_check
        self._ground = Ground(
            settings=settings,
            clock=clock,
            tasks=Tasks(),
            changes=Tasks(),
            metrics=Metrics(),
            tracer=OpenTelemetry(settings.otel.endpoint) if settings.otel else Untraced(),
            clients=AsyncExitStack(),
            call_limit=call_limit,
        )
        self._servers: list[grpc.aio.Server] = []
        self._interceptors: list[Interceptor] = []
        self._certificates: list[Certificates] = []
        self._health = health_aio.HealthServicer()
        self._requests = RateLimit(
            rate=settings.limits.requests_per_second, burst=2 * settings.limits.requests_per_second, clock=clock
        )
        self._broker: Broker | None = None
        self._not_ready: errors.BrokerError = errors.KmsUnavailable("starting", retry_after=1.0)
        self._stop = asyncio.Event()
        self._insisted = False
        self._store: Store | None = None
        self._listening: asyncio.Task[None] | None = None
        self._upkeep: list[asyncio.Task[None]] = []
        self.ports: list[int] = []
        self.ops_port: int | None = None

    async def serve(self) -> None:
        """Listens at once, becomes ready when AWS lets it, and returns when it has been stopped and has drained.

        Raises:
            StartError: a socket, a certificate, the audit file or a seal key cannot be had, or the credentials belong
                to another account than the settings say.
        """
        loop = asyncio.get_running_loop()
        for number in _STOPS:
            loop.add_signal_handler(number, self._stop.set)
            signal.signal(number, self._insist)
        try:
            self._audit = Audit(self._settings.audit.file)
        except OSError as error:
            raise errors.StartError(f"audit.file: cannot be opened to append: {error.strerror}") from error
        try:
            async with self._ground.clients:
                await self._set_health(serving=False)
                try:
                    self._store = await open_store(self._ground)
                    if self._store:
                        self._listening = self._keep_up(self._store.listen, "store")
                    self._bind_all()
                    if self._settings.ops:
                        host, port = self._settings.ops.host_and_port
                        server = ops_server(host, port, metrics=self._ground.metrics, ready=self._is_ready)
                        try:
                            self.ops_port = await self._ground.clients.enter_async_context(server)
                        except OSError as error:
                            raise errors.StartError(f"ops.address: cannot be had: {error.strerror}") from error
                    loop.add_signal_handler(signal.SIGHUP, self.reload)
                    for each in self._servers:
                        await each.start()
                    addresses = [listener.address for listener in self._settings.listeners]
                    _log.info("listening", extra={"addresses": addresses})
                    await self._run()
                finally:
                    await self._drain()
        finally:
            self._audit.close()
            if self._insisted:
                for number in _STOPS:
                    loop.remove_signal_handler(number)
                    signal.signal(number, signal.SIG_IGN)  # one more would end what has ended well with an error

    def _insist(self, *_: object) -> None:
        """Called beside what the loop does at a signal: should it do nothing any more, the system ends the process."""
        if not self._insisted:
            self._insisted = True
            signal.alarm(LIMIT)

    def stop(self) -> None:
        """As SIGTERM."""
        self._stop.set()

    def reload(self) -> None:
        """As SIGHUP: policy and callers from the settings file, all or nothing; certificates; a new audit file."""
        for certificates in self._certificates:
            certificates.reload()
        try:
            self._audit.reopen()
        except OSError as error:
            _log.error("audit file not reopened, the old one is kept", extra={"cause": error})
        if self._reload_settings is None:
            return
        try:
            settings = self._reload_settings()
        except SettingsError as error:
            self._ground.metrics.settings_reload_failures.inc()
            _log.error("settings not reloaded, the last good ones are kept: %s", error)
            return
        self._settings = self._settings.model_copy(update={"policy": settings.policy, "callers": settings.callers})
        if self._broker:
            self._broker.policy = policy_of(self._settings)
        _log.info("policy and callers reloaded", extra={"config_version": self._settings.version})
        if settings != self._settings:
            _log.warning("the settings file has other changes, which need a restart")

    async def _run(self) -> None:
        starting = asyncio.create_task(self._become_ready())
        watching = self._keep_up(self._watch_certificates, "certificates")
        measuring = self._keep_up(self._measure_loop, "event loop")
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()  # raises WrongAccount
                await stopping
        finally:
            tasks = (starting, watching, measuring, stopping, *self._upkeep)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _keep_up(self, loop: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(kept_up(loop, name, self._clock))

    async def _watch_certificates(self) -> None:
        while self._certificates:
            await self._clock.sleep(self._certificate_check)
            for certificates in self._certificates:
                certificates.reload()

    async def _measure_loop(self) -> None:
        """Real time, whatever the clock is: what is measured is this very process."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_INTERVAL
            await asyncio.sleep(LOOP_INTERVAL)
            self._ground.metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))
            self._ground.metrics.tasks.set(len(asyncio.all_tasks()))

    def _bind_all(self) -> None:
        try:
            for index, listener in enumerate(self._settings.listeners):
                self._bind(index, listener)
        except errors.StartError:
            # gRPC removes the sockets of servers that have been started, and these have not.
            for bound in self._settings.listeners[: len(self.ports)]:
                if bound.socket_path:
                    Path(bound.socket_path).unlink(missing_ok=True)
            raise

    def _bind(self, index: int, listener: Listener) -> None:
        certificates = self._certificates_of(index, listener)
        interceptor = Interceptor(
            audit_log=self._audit, clock=self._clock, metrics=self._ground.metrics, tracer=self._ground.tracer
        )
        self._interceptors.append(interceptor)
        server = grpc.aio.server(
            interceptors=[interceptor],
            options=listeners.options(listener, self._settings.limits, LONGEST_DEADLINE),
        )
        servicer = KeyImportServicer(
            broker=self._ready_broker,
            identify=listeners.identity(listener, certificates, self._clock),
            requests=self._requests,
            clock=self._clock,
            metrics=self._ground.metrics,
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
        certificates = Certificates(listener.tls, path=path, metrics=self._ground.metrics, clock=self._clock)
        self._certificates.append(certificates)
        return certificates

    def _is_ready(self) -> bool:
        return self._broker is not None and not self._stop.is_set()

    def _ready_broker(self) -> Broker:
        if self._broker is None:
            raise self._not_ready.with_traceback(None)
        return self._broker

    async def _become_ready(self) -> None:
        """Finds the account and builds the broker; tries until it can."""
        delay = 0.5
        while self._broker is None:
            try:
                home, session = await find_home(self._settings.kms)
                self._broker = await build_broker(self._ground, home, session, self._store)
            except (errors.KmsUnavailable, errors.BrokerCredentials) as error:
                self._not_ready = error
                _log.warning("not ready", extra={"reason": error.reason, "cause": error.__cause__})
                await self._clock.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads a fleet's attempts
                delay = min(delay * 2, 30.0)
        broker = self._broker
        self._upkeep = [self._keep_up(each.run, each.NAME) for each in upkeep(self._ground, home, broker)]
        await self._set_health(serving=True)
        notify("READY=1")
        _log.info("serving", extra={"account": home.account, "partition": home.partition, "regions": home.regions})

    async def _set_health(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)

    async def _drain(self) -> None:
        notify("STOPPING=1")
        await self._health.enter_graceful_shutdown()
        await self._until_the_news_is_out()
        stopping = asyncio.gather(*(server.stop(DRAIN + LAST_WORDS) for server in self._servers))
        await self._until_answered(DRAIN)
        for interceptor in self._interceptors:
            interceptor.end_watches()
        if self._listening:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await stopping
        await self._ground.changes.drain(self._ground.call_limit)
        await self._ground.tasks.drain(0)
        await asyncio.to_thread(self._ground.tracer.close)
        _log.info("stopped")

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
