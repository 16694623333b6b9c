"""Callers that never try again: a failed call is a failed call, whatever its reason."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import read_refusal
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

SPEC = pb.WRAPPING_KEY_SPEC_RSA_2048
ALGORITHM = pb.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256
PATIENCE = 30.0  # seconds for one call, on a busy machine
MATERIAL = bytes(range(32))

_PAUSE = 0.1  # seconds between two calls of one caller


class Callers:
    """What is asked, and what came of it; `calling(...)` starts them.

    Attributes:
        answered: how many calls of each RPC were answered.
        failed: those that were not, in words.
        refusals: those that were not, by RPC and reason, or code where there was none.
    """

    def __init__(self, add_key: Callable[[], str], warm: list[str]) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.refusals: Counter[tuple[str, str]] = Counter()
        self._add_key = add_key
        self._warm = warm
        self._stopping = asyncio.Event()
        self._begun = time.monotonic()

    def stop(self) -> None:
        """No new calls."""
        self._stopping.set()

    async def read(self, stub: Any, number: int) -> None:
        """Asks for sets that are in the cache, one key after the other."""
        for arn in itertools.cycle(self._warm[number % len(self._warm) :] + self._warm):
            if self._stopping.is_set():
                return
            await self.ask("GetParametersForImport", stub.GetParametersForImport(get(arn), timeout=PATIENCE))
            await asyncio.sleep(_PAUSE)

    async def read_many(self, stub: Any, _: int) -> None:
        """Asks for all of them in one stream."""
        request = pb.BatchGetParametersForImportRequest(key_ids=self._warm, wrapping_key_spec=SPEC)
        while not self._stopping.is_set():
            stream = stub.BatchGetParametersForImport(request, timeout=PATIENCE)
            await self.ask("BatchGetParametersForImport", _read_to_end(stream))
            await asyncio.sleep(_PAUSE)

    async def perform(self, stub: Any, _: int) -> None:
        """Gives new keys their key material, each with a look at the key afterwards."""
        while not self._stopping.is_set():
            arn = self._add_key()
            parameters = await self.ask(
                "GetParametersForImport", stub.GetParametersForImport(get(arn), timeout=PATIENCE)
            )
            if parameters:
                request = import_request(parameters)
                await self.ask("ImportKeyMaterial", stub.ImportKeyMaterial(request, timeout=PATIENCE))
            status = pb.GetKeyImportStatusRequest(key_id=arn)
            await self.ask("GetKeyImportStatus", stub.GetKeyImportStatus(status, timeout=PATIENCE))
            await asyncio.sleep(_PAUSE)

    async def ask(self, rpc: str, call: Awaitable[Any]) -> Any:
        """The answer; None if there is none."""
        asked = time.monotonic() - self._begun
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            refusal = read_refusal(error)
            self.refusals[rpc, refusal.reason or refusal.code.name] += 1
            self.failed.append(f"{asked:.2f} s, {rpc}: {refusal.reason} {refusal.code.name} {refusal.message}")
            return None
        self.answered[rpc] += 1
        return answer

    def summary(self) -> str:
        """For the figures."""
        return f"{self.answered.total()} answered ({dict(self.answered)}), {len(self.failed)} failed"


def get(arn: str) -> pb.GetParametersForImportRequest:
    """Asks for a set."""
    return pb.GetParametersForImportRequest(key_id=arn, wrapping_algorithm=ALGORITHM, wrapping_key_spec=SPEC)


def import_request(parameters: Any, material: bytes = MATERIAL) -> pb.ImportKeyMaterialRequest:
    """Imports with a set."""
    return pb.ImportKeyMaterialRequest(
        key_id=parameters.key_arn,
        import_token=parameters.import_token,
        encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", material),
        never_expires=True,
    )


async def _read_to_end(stream: Any) -> list[Any]:
    return [message async for message in stream]


@asynccontextmanager
async def calling(
    callers: Callers, channels: Iterable[grpc.aio.Channel], *work: Callable[[Any, int], Awaitable[None]]
) -> AsyncIterator[None]:
    """Have a caller at each channel until the context is left; then every call has ended.

    Args:
        callers: who keeps the record.
        channels: of their own; closed at the end.
        work: what they do, by turns.
    """
    async with AsyncExitStack() as stack:
        running = []
        for number, (channel, one) in enumerate(zip(channels, itertools.cycle(work), strict=False)):
            await stack.enter_async_context(channel)
            stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
            running.append(asyncio.ensure_future(one(stub, number)))
        try:
            yield
            callers.stop()
            await asyncio.gather(*running)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
