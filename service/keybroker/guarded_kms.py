"""KMS counted and timed, and left alone while it is down: then callers are told at once instead of waiting for it."""

from __future__ import annotations

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
"""After so many failures in a row KMS is left alone for so many seconds; then one request at a time tries it."""


class GuardedKms:
    """One Region's KMS; raises errors.KmsUnavailable without asking while KMS is taken to be down."""

    def __init__(self, kms: Kms, *, region: str, clock: Clock, metrics: Metrics, tracer: Tracer) -> None:
        self._kms = kms
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self._away_gauge = metrics.kms_away.labels(region)
        self._failures = 0
        self._open_until = 0.0
        self._trying = False

    async def describe_key(self, key: KeyArn) -> KeyDescription:
        return await self._ask("DescribeKey", partial(self._kms.describe_key, key))

    async def get_parameters_for_import(self, slot: Slot) -> ParameterSet:
        return await self._ask("GetParametersForImport", partial(self._kms.get_parameters_for_import, slot))

    async def import_key_material(self, key: KeyArn, request: ImportRequest) -> MaterialChange:
        return await self._ask("ImportKeyMaterial", partial(self._kms.import_key_material, key, request))

    async def delete_imported_key_material(self, key: KeyArn, key_material_id: str | None) -> MaterialChange:
        delete = partial(self._kms.delete_imported_key_material, key, key_material_id)
        return await self._ask("DeleteImportedKeyMaterial", delete)

    async def _ask(self, operation: str, call: Callable[[], Awaitable[_T]]) -> _T:
        trying = self._require_let_through()
        started, outcome = self._clock.monotonic(), "cancelled"
        with self._tracer.kms(operation) as span:
            try:
                answer = await call()
            except errors.BrokerError as error:
                outcome = error.reason
                # An import that KMS did not answer is OutcomeUnknown, because of KmsUnavailable.
                self._note(
                    down=isinstance(error, errors.KmsUnavailable) or isinstance(error.__cause__, errors.KmsUnavailable)
                )
                span.note(reason=outcome)
                raise
            else:
                outcome = "ok"
                self._note(down=False)
                span.note(aws_request_id=getattr(answer, "aws_request_id", None))
                return answer
            finally:
                self._trying = self._trying and not trying
                self._metrics.kms_requests.labels(operation, outcome).inc()
                self._metrics.kms_request_seconds.labels(operation).observe(self._clock.monotonic() - started)

    def _require_let_through(self) -> bool:
        """Whether this request is the one that tries whether KMS is back."""
        if self._failures < FAILURES:
            return False
        wait = self._open_until - self._clock.monotonic()
        if wait > 0 or self._trying:
            raise errors.KmsUnavailable("left alone", retry_after=max(wait, 1.0))
        self._trying = True
        return True

    def _note(self, *, down: bool) -> None:
        self._failures = self._failures + 1 if down else 0
        if self._failures >= FAILURES:
            self._open_until = self._clock.monotonic() + AWAY
        self._away_gauge.set(self._failures >= FAILURES)
