"""The composition root: builds everything in the order it depends on, and takes it down in the reverse."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from keybroker import errors
from keybroker.audit import Audit
from keybroker.background import kept_up
from keybroker.build import Ground, build_broker, open_store, policy_of, upkeep
from keybroker.front import Front
from keybroker.home import find_home
from keybroker.kms import CALL_LIMIT
from keybroker.metrics import Metrics
from keybroker.notify import notify
from keybroker.ops import ops_server
from keybroker.settings import SettingsError
from keybroker.tasks import Tasks
from keybroker.tracing import OpenTelemetry, Untraced

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keybroker.broker import Broker
    from keybroker.clock import Clock
    from keybroker.settings import Settings
    from keybroker.store import Store

_log = logging.getLogger(__name__)

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
        self._broker: Broker | None = None
        self._not_ready: errors.BrokerError = errors.KmsUnavailable("starting", retry_after=1.0)
        self._stop = asyncio.Event()
        self._insisted = False
        self._store: Store | None = None
        self._listening: asyncio.Task[None] | None = None
        self._upkeep: list[asyncio.Task[None]] = []
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
        self._front = Front(self._ground, self._audit, self._ready_broker)
        try:
            async with self._ground.clients:
                await self._front.set_health(serving=False)
                try:
                    self._store = await open_store(self._ground)
                    if self._store:
                        self._listening = self._keep_up(self._store.listen, "store")
                    self._front.bind()
                    if self._settings.ops:
                        host, port = self._settings.ops.host_and_port
                        server = ops_server(host, port, metrics=self._ground.metrics, ready=self._is_ready)
                        try:
                            self.ops_port = await self._ground.clients.enter_async_context(server)
                        except OSError as error:
                            raise errors.StartError(f"ops.address: cannot be had: {error.strerror}") from error
                    loop.add_signal_handler(signal.SIGHUP, self.reload)
                    await self._front.start()
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

    @property
    def ports(self) -> list[int]:
        """Of the listeners, once it listens; 0 for a Unix socket."""
        return self._front.ports

    def stop(self) -> None:
        """As SIGTERM."""
        self._stop.set()

    def reload(self) -> None:
        """As SIGHUP: policy and callers from the settings file, all or nothing; certificates; a new audit file."""
        self._front.reload_certificates()
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
        watching = self._keep_up(partial(self._front.watch_certificates, self._certificate_check), "certificates")
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

    async def _measure_loop(self) -> None:
        """Real time, whatever the clock is: what is measured is this very process."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_INTERVAL
            await asyncio.sleep(LOOP_INTERVAL)
            self._ground.metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))
            self._ground.metrics.tasks.set(len(asyncio.all_tasks()))

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
        await self._front.set_health(serving=True)
        notify("READY=1")
        _log.info("serving", extra={"account": home.account, "partition": home.partition, "regions": home.regions})

    async def _drain(self) -> None:
        notify("STOPPING=1")
        await self._front.stop()
        if self._listening:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._ground.changes.drain(self._ground.call_limit)
        await self._ground.tasks.drain(0)
        await asyncio.to_thread(self._ground.tracer.close)
        _log.info("stopped")
