"""KMS counted and timed, and left alone while it is down: then callers are told at once instead of waiting for it.

Each operation by itself, and a key that KMS answers with its own errors counts once: no caller can make KMS seem down
for the others with a key that it has trouble with.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from keybroker import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keybroker.clock import Clock
    from keybroker.kms import Kms
    from keybroker.metrics import Metrics
    from keybroker.model import ImportRequest, KeyArn, KeyDescription, MaterialChange, ParameterSet, Slot
    from keybroker.tracing import Tracer

_T = TypeVar("_T")

FAILURES = 3
AWAY = 3.0
"""After so many failures in a row an operation is left alone for so many seconds; then one request at a time tries it.
"""


class GuardedKms:
    """One Region's KMS; raises errors.KmsUnavailable without asking while an operation is taken to be down."""

    def __init__(self, kms: Kms, *, region: str, clock: Clock, metrics: Metrics, tracer: Tracer) -> None:
        self._kms = kms
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self._away_gauge = metrics.kms_away.labels(region)
        self._breakers: defaultdict[str, _Breaker] = defaultdict(partial(_Breaker, clock))

    async def describe_key(self, key: KeyArn) -> KeyDescription:
        return await self._ask("DescribeKey", key, partial(self._kms.describe_key, key))

    async def get_parameters_for_import(self, slot: Slot) -> ParameterSet:
        get = partial(self._kms.get_parameters_for_import, slot)
        return await self._ask("GetParametersForImport", slot.key, get)

    async def import_key_material(self, key: KeyArn, request: ImportRequest) -> MaterialChange:
        return await self._ask("ImportKeyMaterial", key, partial(self._kms.import_key_material, key, request))

    async def delete_imported_key_material(self, key: KeyArn, key_material_id: str | None) -> MaterialChange:
        delete = partial(self._kms.delete_imported_key_material, key, key_material_id)
        return await self._ask("DeleteImportedKeyMaterial", key, delete)

    async def _ask(self, operation: str, key: KeyArn, call: Callable[[], Awaitable[_T]]) -> _T:
        breaker = self._breakers[operation]
        trying = breaker.require_let_through()
        started, outcome = self._clock.monotonic(), "cancelled"
        with self._tracer.kms(operation) as span:
            try:
                answer = await call()
            except errors.BrokerError as error:
                outcome = error.reason
                breaker.note(error, key, trying=trying)
                span.fail()
                span.note(reason=outcome, aws_request_id=error.origin.aws_request_id)
                error.origin.kms_span = span
                raise
            else:
                outcome = "ok"
                breaker.note(None, key, trying=trying)
                span.note(aws_request_id=getattr(answer, "aws_request_id", None))
                return answer
            finally:
                breaker.end(trying=trying)
                self._away_gauge.set(any(each.open for each in self._breakers.values()))
                self._metrics.kms_requests.labels(operation, outcome).inc()
                self._metrics.kms_request_seconds.labels(operation).observe(self._clock.monotonic() - started)


class _Breaker:
    """Whether one operation is left alone: one that fails says nothing of the others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: set[object] = set()
        self._open_until = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether the operation is left alone, but for one request that tries it."""
        return len(self._failures) >= FAILURES

    def require_let_through(self) -> bool:
        """Whether this request is the one that tries whether KMS is back."""
        if not self.open:
            return False
        wait = self._open_until - self._clock.monotonic()
        if wait > 0 or self._trying:
            raise errors.KmsUnavailable("left alone", retry_after=max(wait, 1.0))
        self._trying = True
        return True

    def note(self, error: errors.BrokerError | None, key: KeyArn, *, trying: bool) -> None:
        """How a request ended. Of those begun before it opened only an answer is news."""
        down = error and error.origin  # of an import that KMS did not answer, what is behind OutcomeUnknown
        if not isinstance(down, errors.KmsUnavailable):
            self._failures.clear()
        elif trying:
            self._open_until = self._clock.monotonic() + AWAY
        elif not self.open:
            # KMS that answers may have trouble with this one key; whoever repeats it must not have it counted again.
            self._failures.add(key if down.answered else object())
            self._open_until = self._clock.monotonic() + AWAY

    def end(self, *, trying: bool) -> None:
        """The request has ended, be it that its caller left; another may try."""
        self._trying = self._trying and not trying
