"""The composition root: builds everything in the order it depends on, and takes it down in the reverse."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from keybroker import aws, errors, listeners
from keybroker.broker import Broker, Region
from keybroker.grants import Grant, NamePattern, local_grants
from keybroker.interceptors import Interceptor
from keybroker.keys import Keys
from keybroker.kms import CALL_LIMIT, AwsKms
from keybroker.kms_errors import map_error
from keybroker.model import Home
from keybroker.parameters import Parameters
from keybroker.policy import Policy
from keybroker.quota import Quota
from keybroker.servicer import KeyImportServicer
from keybroker.tasks import Tasks
from keyimport.v1 import key_import_pb2, key_import_pb2_grpc

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.settings import Settings

_log = logging.getLogger(__name__)

SERVICE = key_import_pb2.DESCRIPTOR.services_by_name["KeyImportService"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

DRAIN = 10.0
"""Seconds that requests under way have to finish after SIGTERM."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # on by default: a second broker would silently share the port
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    # Below these, gRPC answers CANCELLED by itself when thousands of callers wait for one set.
    ("grpc.server.max_pending_requests", 65_536),
    ("grpc.server.max_pending_requests_hard_limit", 131_072),
)


class WrongAccount(Exception):
    """The credentials belong to another account than the settings say, or to a partition that lacks a served Region."""


class App:
    """The whole broker process."""

    def __init__(self, settings: Settings, clock: Clock, *, call_limit: float = CALL_LIMIT) -> None:
        """A broker not yet listening.

        Args:
            settings: the whole file.
            clock: the only source of time.
            call_limit: seconds that one call to KMS may take.
        """
        self._settings = settings
        self._call_limit = call_limit
        self._clock = clock
        self._tasks = Tasks()
        self._clients = AsyncExitStack()
        self._servers: list[grpc.aio.Server] = []
        self._health = health_aio.HealthServicer()
        self._broker: Broker | None = None
        self._not_ready: errors.BrokerError = errors.KmsUnavailable("starting", retry_after=1.0)
        self._stop = asyncio.Event()
        self.ports: list[int] = []

    async def serve(self) -> None:
        """Listens at once, becomes ready when AWS lets it, and returns when it has been stopped and has drained.

        Raises:
            listeners.ListenError: a socket cannot be had.
            WrongAccount: the credentials are not the settings' account's.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with self._clients:
            await self._set_health(serving=False)
            try:
                self._bind()
                for server in self._servers:
                    await server.start()
                _log.info("listening", extra={"addresses": [listener.address for listener in self._settings.listeners]})
                await self._run()
            finally:
                await self._drain()

    def stop(self) -> None:
        """As SIGTERM."""
        self._stop.set()

    async def _run(self) -> None:
        starting = asyncio.create_task(self._become_ready())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()  # raises WrongAccount
                await stopping
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    def _bind(self) -> None:
        for listener in self._settings.listeners:
            server = grpc.aio.server(interceptors=[Interceptor()], options=_OPTIONS)
            servicer = KeyImportServicer(
                broker=self._ready_broker, identify=listeners.identity(listener), clock=self._clock
            )
            key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(servicer, server)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            _add_reflection(server)
            self._servers.append(server)
            self.ports.append(listeners.bind(server, listener))

    def _ready_broker(self) -> Broker:
        if self._broker is None:
            raise self._not_ready.with_traceback(None)
        return self._broker

    async def _become_ready(self) -> None:
        """Finds the account and builds the broker; tries until it can."""
        delay = 0.5
        while True:
            try:
                home = await self._find_home()
                self._broker = await self._build(home)
                break
            except (errors.KmsUnavailable, errors.BrokerCredentials) as error:
                self._not_ready = error
                _log.warning("not ready", extra={"reason": error.reason, "cause": error.__cause__})
            await self._clock.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads a fleet's attempts
            delay = min(delay * 2, 30.0)
        await self._set_health(serving=True)
        _log.info("serving", extra={"account": home.account, "partition": home.partition, "regions": home.regions})

    async def _find_home(self) -> Home:
        settings = self._settings.kms
        try:
            async with aws.client("sts", region=settings.regions[0], endpoint=settings.sts) as sts:
                async with asyncio.timeout(10):
                    partition, account = aws.parse_identity(await sts.get_caller_identity())
        except Exception as error:
            mapped = map_error(error)
            if not isinstance(mapped, errors.TryAgain):
                mapped = errors.KmsUnavailable("GetCallerIdentity failed", retry_after=5.0)
            raise mapped from error
        if settings.account not in (None, account):
            raise WrongAccount(f"kms.account: is {settings.account}, but the credentials belong to {account}")
        if foreign := [region for region in settings.regions if aws.partition_of(region) != partition]:
            raise WrongAccount(f"kms.regions: {foreign[0]} is not in {partition}, where the credentials belong")
        return Home(partition=partition, account=account, regions=settings.regions)

    async def _build(self, home: Home) -> Broker:
        settings = self._settings
        policy = Policy(
            algorithms=frozenset(settings.policy.wrapping_algorithms),
            key_specs=frozenset(settings.policy.wrapping_key_specs),
            grants=_grants(settings),
        )
        return Broker(
            home=home,
            policy=policy,
            regions={region: await self._build_region(region, policy) for region in home.regions},
            clock=self._clock,
            tasks=self._tasks,
            min_remaining=settings.parameters.min_remaining,
            reuse_until_expiry=settings.parameters.reuse == "until-expiry",
        )

    async def _build_region(self, region: str, policy: Policy) -> Region:
        settings = self._settings
        client = await self._clients.enter_async_context(
            aws.client("kms", region=region, endpoint=settings.kms.endpoint)
        )
        kms = AwsKms(client=client, clock=self._clock, call_limit=self._call_limit)
        keys = Keys(kms=kms, clock=self._clock, tasks=self._tasks, max_entries=settings.parameters.max_entries)
        quota = Quota(
            rate=settings.kms.requests_per_second, limit=settings.kms.queue, clock=self._clock, tasks=self._tasks
        )
        parameters = Parameters(
            kms=kms,
            quota=quota,
            keys=keys,
            clock=self._clock,
            tasks=self._tasks,
            require_suitable=policy.require_suitable,
            max_entries=settings.parameters.max_entries,
            supersede=settings.parameters.supersede,
        )
        return Region(kms=kms, keys=keys, parameters=parameters)

    async def _set_health(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)

    async def _drain(self) -> None:
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(DRAIN) for server in self._servers))
        await self._tasks.drain(0)
        _log.info("stopped")


def _grants(settings: Settings) -> tuple[Grant, ...]:
    if not settings.callers:
        return local_grants(frozenset(listener.caller for listener in settings.listeners))
    return tuple(
        Grant(
            caller=NamePattern(caller.id),
            keys=tuple(map(NamePattern, caller.keys)),
            operations=frozenset(caller.operations),
        )
        for caller in settings.callers
    )


def _add_reflection(server: grpc.aio.Server) -> None:
    names = (
        SERVICE,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        _REFLECTION_V1,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)
    # v1 differs from v1alpha in its name only; grpcio-reflection has no code for it yet.
    servicer: Any = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": handler}),)
    )
