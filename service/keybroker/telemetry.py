"""The log: one JSON object a line, with the correlation id of the request it belongs to."""

from __future__ import annotations

import errno
import json
import logging
import sys
import time
import traceback
from typing import Any

from keybroker.lines import Lines
from keybroker.tasks import correlation_id

_PATIENCE = 0.05
"""Seconds to wait for a reader of the log who is behind."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Renders a record and its extra fields; of an exception, its class, errno and frames but never its text."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identifier := getattr(record, "correlation_id", "") or correlation_id.get():
            line["correlation_id"] = identifier
        for name, value in vars(record).items():
            if name not in _STANDARD and value not in (None, ""):
                line[name] = _described(value) if isinstance(value, BaseException) else value
        if record.exc_info and record.exc_info[1]:
            line["exception"] = _described(record.exc_info[1])
        return json.dumps(line, default=str)


def _described(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    described: dict[str, Any] = {
        "class": type(error).__name__,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]],
    }
    if isinstance(error, OSError) and (word := errno.errorcode.get(error.errno or 0)):
        described["errno"] = word  # the system's own, which tells no secret
    if error.__cause__:
        described["cause"] = _described(error.__cause__)
    return described


class LineHandler(logging.Handler):
    """Writes records to a descriptor. Those that nobody reads are lost, and counted in the next one's `lost_before`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._lines = Lines(descriptor)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, or notes that it could not."""
        if self._lost:
            record.lost_before = self._lost
        try:
            self._lines.append(self.format(record).encode() + b"\n", 0.0 if self._lost else _PATIENCE)
        except OSError:
            self._lost += 1
        except Exception:  # noqa: BLE001 -- of the formatting; handled as every handler does
            self.handleError(record)
        else:
            self._lost = 0


def set_up_logging() -> None:
    """Sends the whole process's log to standard error."""
    handler = LineHandler(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
