"""The service on the wire: message to value, one call of the broker, value to message."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from keybroker import audit, batch, errors, wire
from keybroker.interceptors import UNREADABLE, log_refusal, time_left
from keybroker.status import CODES, to_status
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import grpc

    from keybroker.broker import Broker
    from keybroker.clock import Clock
    from keybroker.fetches import Waiting
    from keybroker.limits import RateLimit
    from keybroker.metrics import Metrics
    from keybroker.model import Caller, ParameterSet, ParametersRequest, Source

    Context = grpc.aio.ServicerContext[Any, Any]


class KeyImportServicer(pb_grpc.KeyImportServiceServicer):
    """KeyImportService, for the callers of one listener."""

    def __init__(
        self,
        *,
        broker: Callable[[], Broker],
        identify: Callable[[Context], Caller],
        requests: RateLimit,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Serves the broker.

        Args:
            broker: the broker; raises errors.TryAgain while it is not ready.
            identify: who calls; raises errors.CallerUnauthenticated.
            requests: what a caller may ask for.
            clock: for deadlines and expirations.
            metrics: counts the keys of a batch that are refused for the load.
        """
        self._broker = broker
        self._identify = identify
        self._requests = requests
        self._clock = clock
        self._metrics = metrics

    async def GetParametersForImport(  # noqa: N802 -- the RPC's name
        self, request: pb.GetParametersForImportRequest, context: Context
    ) -> pb.GetParametersForImportResponse:
        caller = self._admit(request, context)
        wanted = wire.parameters_request(request)
        parameters, source = await self._broker().parameters(caller, wanted, self._deadline(context))
        return wire.parameters_response(parameters, source)

    async def ImportKeyMaterial(  # noqa: N802 -- the RPC's name
        self, request: pb.ImportKeyMaterialRequest, context: Context
    ) -> pb.ImportKeyMaterialResponse:
        caller = self._admit(request, context)
        wanted = wire.import_request(request, self._clock.now())
        change = await self._broker().import_key_material(caller, wanted, self._deadline(context))
        return pb.ImportKeyMaterialResponse(key_arn=str(change.key), key_material_id=change.key_material_id)

    async def DeleteImportedKeyMaterial(  # noqa: N802 -- the RPC's name
        self, request: pb.DeleteImportedKeyMaterialRequest, context: Context
    ) -> pb.DeleteImportedKeyMaterialResponse:
        caller = self._admit(request, context)
        material_id = wire.key_material_id(request.key_material_id)
        change = await self._broker().delete_imported_key_material(
            caller, request.key_id, material_id, self._deadline(context)
        )
        return pb.DeleteImportedKeyMaterialResponse(key_arn=str(change.key), key_material_id=change.key_material_id)

    async def DiscardParameters(  # noqa: N802 -- the RPC's name
        self, request: pb.DiscardParametersRequest, context: Context
    ) -> pb.DiscardParametersResponse:
        caller = self._admit(request, context)
        await self._broker().discard(caller, request.key_id, wire.import_token(request.import_token))
        return pb.DiscardParametersResponse()

    async def BatchGetParametersForImport(  # noqa: N802 -- the RPC's name
        self, request: pb.BatchGetParametersForImportRequest, context: Context
    ) -> AsyncGenerator[pb.BatchGetParametersForImportResponse, None]:
        caller = self._admit(request, context)
        wanted = wire.batch_request(request)
        broker, deadline = self._broker(), self._deadline(context)

        async def get(one: ParametersRequest, waiting: Waiting) -> tuple[ParameterSet, Source]:
            self._requests.spend(caller.name)
            return await broker.parameters(caller, one, deadline, waiting)

        async with aclosing(batch.answers(get, wanted, clock=self._clock, deadline=deadline)) as news:
            async for told in news:
                yield self._told(told)

    async def GetKeyImportStatus(  # noqa: N802 -- the RPC's name
        self, request: pb.GetKeyImportStatusRequest, context: Context
    ) -> pb.GetKeyImportStatusResponse:
        caller = self._admit(request, context)
        return wire.status_response(await self._broker().status(caller, request.key_id))

    def _told(self, told: batch.Answer | batch.Progress) -> pb.BatchGetParametersForImportResponse:
        """What is told of one key of many; an answer once it is on record."""
        message = pb.BatchGetParametersForImportResponse(key_id=told.key_id)
        if isinstance(told, batch.Progress):
            message.progress.CopyFrom(wire.progress(told.outlook))
        elif isinstance(told.outcome, errors.BrokerError):
            log_refusal(told.outcome)
            self._metrics.note_refusal(told.outcome.reason)
            told.record.end(CODES[told.outcome.reason].name, told.outcome)
            message.error.CopyFrom(to_status(told.outcome, told.record.correlation_id or ""))
        else:
            told.record.end("OK")
            message.parameters.CopyFrom(wire.parameters_response(*told.outcome))
        return message

    def _admit(self, request: object, context: Context) -> Caller:
        caller = self._identify(context)
        audit.current().note_caller(caller)
        self._requests.spend(caller.name)
        if request is UNREADABLE:
            raise errors.RequestMalformed("The request's bytes are no message of this RPC.")
        return caller

    def _deadline(self, context: Context) -> float:
        return self._clock.monotonic() + time_left(context)
