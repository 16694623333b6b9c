"""Many callers of one key at once, when no set for it is in the cache and when one is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.bench_load import GET, PATIENCE
from keyimport.v1 import key_import_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from tests.kms_double import KmsDouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What came of it.

    Attributes:
        callers: how many.
        kms_calls: how often KMS was asked for a set for the key.
        joined: callers whose answer came from KMS, having waited for it; the others came later, and found it cached.
        errors: callers who were not served, or not with the one set.
        alone: seconds until one caller of a cold key was served.
        cold: seconds until all callers of a cold key were.
        cached: seconds until all callers of a cached key were.
    """

    callers: int
    kms_calls: int
    joined: int
    errors: int
    alone: float
    cold: float
    cached: float

    @property
    def calls(self) -> int:
        """How many calls that were."""
        return 1 + 2 * self.callers


async def crowd(double: KmsDouble, channel: grpc.aio.Channel, callers: int) -> Crowd:
    """Has one caller ask for a new key, then all for another one, then all for that again."""
    alone, one = await _ask(channel, double.add_key(), 1)
    arn = double.add_key()
    cold, first = await _ask(channel, arn, callers)
    cached, again = await _ask(channel, arn, callers)
    tokens = [answer.import_token for answer in (*first, *again)]
    return Crowd(
        callers=callers,
        kms_calls=sum(call.operation == "GetParametersForImport" and call.key_id == arn for call in double.calls),
        joined=sum(answer.source == pb.PARAMETERS_SOURCE_KMS for answer in first),
        errors=1 - len(one) + 2 * callers - (tokens.count(tokens[0]) if tokens else 0),
        alone=alone,
        cold=cold,
        cached=cached,
    )


async def _ask(
    channel: grpc.aio.Channel, arn: str, callers: int
) -> tuple[float, Sequence[pb.GetParametersForImportResponse]]:
    """The seconds until all were answered, and the answers."""
    get: Any = channel.unary_unary(GET)
    request = pb.GetParametersForImportRequest(key_id=arn).SerializeToString()
    began = time.perf_counter()
    calls = (get(request, timeout=PATIENCE) for _ in range(callers))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    seconds = time.perf_counter() - began
    answers = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    return seconds, [pb.GetParametersForImportResponse.FromString(answer) for answer in answers]
