"""A broker for the client to talk to: it keeps sets like the real one, and can be told to fail or to lie."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

from keyimport import ParametersSource, WrappingAlgorithm, WrappingKeySpec
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY_ARN = f"arn:aws:kms:us-east-1:111122223333:key/{KEY_ID}"
MATERIAL_ID = "ab" * 32

_Answer = TypeVar("_Answer")
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How one call is to fail."""

    code: grpc.StatusCode
    trailer: bytes | None
    message: str = "A sentence for the caller."

    def status(self) -> status_pb2.Status:
        """The failure as a message carries it."""
        status = status_pb2.Status.FromString(self.trailer or b"")
        status.code = self.code.value[0]
        status.message = self.message
        return status


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import that the broker took."""

    request: pb.ImportKeyMaterialRequest
    handed_out: pb.GetParametersForImportResponse


def _pending() -> pb.GetKeyImportStatusResponse:
    return pb.GetKeyImportStatusResponse(key_spec="SYMMETRIC_DEFAULT", key_state="PendingImport", external_origin=True)


@dataclass(slots=True, kw_only=True)
class FakeBroker(key_import_pb2_grpc.KeyImportServiceServicer):
    """Keys of one account and Region, whose sets live until an import consumes them.

    Attributes:
        public_keys: DER SubjectPublicKeyInfo of the wrapping key of each spec.
        default: the algorithm and spec handed out where none is asked for.
        lie: changes an answer just before it leaves.
        failures: per RPC, how the next calls fail, each used once.
        stalled: the RPCs that are never answered; a batch is answered and never ended.
        pause: seconds that each call takes.
        received: every request as bytes, in order.
        calls: the names of the RPCs called, in order.
        timeouts: the seconds each call was given, in order.
        imports: the imports taken, in order.
        sets: the sets handed out and not consumed, by token.
        status: what is told of each key beside its ARN.
        progress: what a batch tells of each key before its answer.
        batch_failures: how keys of a batch are refused, by the key as it is asked for.
        broken_after: how many messages of a batch are sent before the call fails; None for all.
        cancelled: the names of the RPCs that the caller left before their end.
    """

    public_keys: dict[WrappingKeySpec.ValueType, bytes]
    default: tuple[WrappingAlgorithm.ValueType, WrappingKeySpec.ValueType]
    lie: Callable[[Any], None] = lambda _answer: None
    failures: dict[str, deque[Failure]] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    pause: float = 0
    received: list[bytes] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    sets: dict[bytes, pb.GetParametersForImportResponse] = field(default_factory=dict)
    status: pb.GetKeyImportStatusResponse = field(default_factory=_pending)
    progress: list[pb.ParametersProgress] = field(default_factory=list)
    batch_failures: dict[str, Failure] = field(default_factory=dict)
    broken_after: int | None = None
    cancelled: list[str] = field(default_factory=list)

    def fail(self, rpc: str, *failures: Failure) -> None:
        """Let the next calls of an RPC fail, one after the other."""
        self.failures.setdefault(rpc, deque()).extend(failures)

    async def GetParametersForImport(  # noqa: N802 -- the name of the RPC
        self, request: pb.GetParametersForImportRequest, context: Context
    ) -> pb.GetParametersForImportResponse:
        """Hand out the slot's set, or make one."""
        await self._receive("GetParametersForImport", request, context)
        return self._changed(self._hand_out(request.key_id, request.wrapping_algorithm, request.wrapping_key_spec))

    async def ImportKeyMaterial(  # noqa: N802 -- the name of the RPC
        self, request: pb.ImportKeyMaterialRequest, context: Context
    ) -> pb.ImportKeyMaterialResponse:
        """Take wrapped key material under a token that is known, and consume its set."""
        await self._receive("ImportKeyMaterial", request, context)
        handed_out = self.sets.pop(request.import_token, None)
        if handed_out is None:
            await _abort(context, refusal(grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_TOKEN_INVALID"))
        self.imports.append(Import(request=request, handed_out=handed_out))
        return self._changed(pb.ImportKeyMaterialResponse(key_arn=arn_of(request.key_id), key_material_id=MATERIAL_ID))

    async def DeleteImportedKeyMaterial(  # noqa: N802 -- the name of the RPC
        self, request: pb.DeleteImportedKeyMaterialRequest, context: Context
    ) -> pb.DeleteImportedKeyMaterialResponse:
        """Say that the key material is gone."""
        await self._receive("DeleteImportedKeyMaterial", request, context)
        material_id = request.key_material_id or MATERIAL_ID
        return self._changed(
            pb.DeleteImportedKeyMaterialResponse(key_arn=arn_of(request.key_id), key_material_id=material_id)
        )

    async def DiscardParameters(  # noqa: N802 -- the name of the RPC
        self, request: pb.DiscardParametersRequest, context: Context
    ) -> pb.DiscardParametersResponse:
        """Forget the set."""
        await self._receive("DiscardParameters", request, context)
        self.sets.pop(request.import_token, None)
        return pb.DiscardParametersResponse()

    async def GetKeyImportStatus(  # noqa: N802 -- the name of the RPC
        self, request: pb.GetKeyImportStatusRequest, context: Context
    ) -> pb.GetKeyImportStatusResponse:
        """Tell of the key."""
        await self._receive("GetKeyImportStatus", request, context)
        answer = pb.GetKeyImportStatusResponse()
        answer.CopyFrom(self.status)
        answer.key_arn = arn_of(request.key_id)
        return self._changed(answer)

    async def BatchGetParametersForImport(  # noqa: N802 -- the name of the RPC
        self, request: pb.BatchGetParametersForImportRequest, context: Context
    ) -> AsyncIterator[pb.BatchGetParametersForImportResponse]:
        """Tell each key's progress and then its set or refusal, key after key."""
        rpc = "BatchGetParametersForImport"
        try:
            await self._receive(rpc, request, context)
            for number, answer in enumerate(self._batch(request)):
                if number == self.broken_after:
                    await _abort(context, Failure(code=grpc.StatusCode.UNAVAILABLE, trailer=None))
                yield self._changed(answer)
            if rpc in self.stalled:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(rpc)
            raise

    def _batch(
        self, request: pb.BatchGetParametersForImportRequest
    ) -> Iterator[pb.BatchGetParametersForImportResponse]:
        for key_id in request.key_ids:
            for progress in self.progress:
                yield pb.BatchGetParametersForImportResponse(key_id=key_id, progress=progress)
            if key_id in self.batch_failures:
                error = self.batch_failures[key_id].status()
                yield pb.BatchGetParametersForImportResponse(key_id=key_id, error=error)
            else:
                handed_out = self._hand_out(key_id, request.wrapping_algorithm, request.wrapping_key_spec)
                yield pb.BatchGetParametersForImportResponse(key_id=key_id, parameters=handed_out)

    async def _receive(self, rpc: str, request: message.Message, context: Context) -> None:
        self.calls.append(rpc)
        self.received.append(request.SerializeToString())
        self.timeouts.append(context.time_remaining() or 0)
        if rpc in self.stalled and not rpc.startswith("Batch"):
            await asyncio.Event().wait()
        await asyncio.sleep(self.pause)
        if self.failures.get(rpc):
            await _abort(context, self.failures[rpc].popleft())

    def _hand_out(
        self, key_id: str, asked_algorithm: WrappingAlgorithm.ValueType, asked_spec: WrappingKeySpec.ValueType
    ) -> pb.GetParametersForImportResponse:
        """A copy of the slot's set, or of one made for it."""
        algorithm = asked_algorithm or self.default[0]
        spec = asked_spec or self.default[1]
        answer = pb.GetParametersForImportResponse()
        for known in self.sets.values():
            slot = (known.key_arn, known.wrapping_algorithm, known.wrapping_key_spec)
            if slot == (arn_of(key_id), algorithm, spec):
                answer.CopyFrom(known)
                answer.source = ParametersSource.PARAMETERS_SOURCE_CACHE
                return answer
        made = pb.GetParametersForImportResponse(
            key_arn=arn_of(key_id),
            public_key=self.public_keys[spec],
            import_token=secrets.token_bytes(1024),
            wrapping_algorithm=algorithm,
            wrapping_key_spec=spec,
            public_key_sha256=hashlib.sha256(self.public_keys[spec]).digest(),
            source=ParametersSource.PARAMETERS_SOURCE_KMS,
        )
        made.parameters_valid_to.FromDatetime(datetime.now(UTC) + timedelta(hours=24))
        self.sets[made.import_token] = made
        answer.CopyFrom(made)
        return answer

    def _changed(self, answer: _Answer) -> _Answer:
        self.lie(answer)
        return answer


def arn_of(key_id: str) -> str:
    """The ARN of a key that is asked for by its id or its ARN."""
    return key_id if key_id.startswith("arn:") else KEY_ARN.replace(KEY_ID, key_id)


def refusal(code: grpc.StatusCode, reason: str, *, domain: str = "keyimport", **metadata: str) -> Failure:
    """A failure as the broker sends it: one ErrorInfo."""
    return Failure(
        code=code,
        trailer=details(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)),
    )


def try_later(reason: str, after: timedelta, *, code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED) -> Failure:
    """A refusal that says when the same request can succeed."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(after)
    return Failure(code=code, trailer=details(error_details_pb2.ErrorInfo(reason=reason, domain="keyimport"), retry))


def details(*messages: message.Message) -> bytes:
    """The messages as the value of grpc-status-details-bin."""
    trailer: bytes = status_pb2.Status(details=packed(messages)).SerializeToString()
    return trailer


def packed(messages: Sequence[message.Message]) -> list[any_pb2.Any]:
    """Each message in an Any."""
    wrapped = []
    for one in messages:
        wrapped.append(any_pb2.Any())
        wrapped[-1].Pack(one)
    return wrapped


async def _abort(context: Context, failure: Failure) -> NoReturn:
    trailer = () if failure.trailer is None else (("grpc-status-details-bin", failure.trailer),)
    await context.abort(failure.code, failure.message, trailing_metadata=trailer)
    raise AssertionError  # not reached: abort raises
