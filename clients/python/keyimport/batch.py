"""The messages of a batch as news of its keys: each key's outcome once, and checked like a single answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyimport import wrapping
from keyimport.errors import KeyImportError, WrappingKeyRejected
from keyimport.results import BatchParameters, BatchProgress, BatchRefusal
from keyimport.rpc_errors import duration, from_status
from keyimport.v1.key_import_pb2 import GetParametersForImportRequest

if TYPE_CHECKING:
    from datetime import timedelta

    from keyimport.results import BatchNews
    from keyimport.v1.key_import_pb2 import BatchGetParametersForImportRequest, BatchGetParametersForImportResponse


class BatchReader:
    """Reads the answers to one request, and knows which of its keys are still without one."""

    def __init__(self, asked: BatchGetParametersForImportRequest) -> None:
        self._asked = asked
        self._open = dict.fromkeys(asked.key_ids)

    def read(self, answer: BatchGetParametersForImportResponse) -> BatchNews | None:
        """The news in one message; None if it holds nothing this library knows.

        Raises:
            WrappingKeyRejected: it is of a key that was not asked for, or has had its answer.
        """
        key_id = answer.key_id
        if key_id not in self._open:
            raise WrappingKeyRejected(f"the broker's answer is refused: {key_id!r} is not a key that waits for one")
        match answer.WhichOneof("result"):
            case "progress":
                wait: timedelta | None = duration(answer.progress.expected_wait)
                if wait is None:
                    return None
                return BatchProgress(key_id=key_id, position=answer.progress.position, expected_wait=wait)
            case "parameters":
                del self._open[key_id]
                return self._parameters(answer)
            case "error":
                del self._open[key_id]
                return BatchRefusal(key_id=key_id, error=from_status(answer.error))
            case _:
                return None

    def finish(self) -> None:
        """The stream has ended; KeyImportError if keys were left without an answer."""
        for key_id in self._open:
            more = f" and {len(self._open) - 1} more" if len(self._open) > 1 else ""
            raise KeyImportError(f"the broker ended the batch without an answer for {key_id!r}{more}")

    def _parameters(self, answer: BatchGetParametersForImportResponse) -> BatchParameters | BatchRefusal:
        asked = GetParametersForImportRequest(
            key_id=answer.key_id,
            wrapping_algorithm=self._asked.wrapping_algorithm,
            wrapping_key_spec=self._asked.wrapping_key_spec,
        )
        try:
            parameters = wrapping.checked(answer.parameters, asked)
        except WrappingKeyRejected as error:
            return BatchRefusal(key_id=answer.key_id, error=error)
        return BatchParameters(key_id=answer.key_id, parameters=parameters)
