"""The record of every request: one JSON line each, written before the reply. AWS keeps none of the keys it issued."""

from __future__ import annotations

import json
import os
import stat
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keybroker.errors import BrokerError, OutcomeUnknown
from keybroker.lines import Lines

if TYPE_CHECKING:
    import asyncio

    from keybroker.model import Caller, KeyArn, MaterialChange, ParameterSet, Source

STANDARD_OUTPUT = "-"

# Without O_NONBLOCK, a named pipe that nobody reads would hold the whole process at the opening; with it, that fails.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_PATIENCE = 0.25
"""Seconds that all requests wait for a reader of the audit who is behind; none while he has not caught up."""


@dataclass(slots=True)
class Record:
    """What is known of a request so far, in the order of the line's fields; what does not apply stays None."""

    time: str
    rpc: str
    caller: str | None = None
    listener: str | None = None
    key_arn: str | None = None
    wrapping_algorithm: str | None = None
    wrapping_key_spec: str | None = None
    public_key_sha256: str | None = None
    source: str | None = None
    valid_to: str | None = None
    aws_request_id: str | None = None
    code: str | None = None
    reason: str | None = None
    config_version: str | None = None
    correlation_id: str | None = None
    change: asyncio.Task[MaterialChange] | None = None
    kms_span: object | None = None
    audit: Audit | None = None

    def note_caller(self, caller: Caller) -> None:
        """Who asks."""
        self.caller = caller.name
        self.listener = caller.listener

    def note_decision(self, key: KeyArn, config_version: str) -> None:
        """What is asked for, and by which rules it is judged."""
        self.key_arn = str(key)
        self.config_version = config_version

    def note_parameters(self, parameters: ParameterSet, source: Source) -> None:
        """Which set is handed out."""
        self.wrapping_algorithm = str(parameters.slot.wrapping.algorithm)
        self.wrapping_key_spec = str(parameters.slot.wrapping.key_spec)
        self.public_key_sha256 = parameters.public_key_sha256.hex()
        self.source = str(source)
        self.valid_to = parameters.valid_to.isoformat(timespec="seconds")
        self.aws_request_id = parameters.aws_request_id

    def note_used_set(self, parameters: ParameterSet) -> None:
        """Which set an import uses, if the broker knows it."""
        self.wrapping_algorithm = str(parameters.slot.wrapping.algorithm)
        self.wrapping_key_spec = str(parameters.slot.wrapping.key_spec)
        self.public_key_sha256 = parameters.public_key_sha256.hex()

    def note_refusal(self, refusal: BrokerError) -> None:
        """Why it is refused, and the request to KMS that was the cause, if one was."""
        self.reason = refusal.reason
        self.aws_request_id = refusal.origin.aws_request_id or self.aws_request_id
        self.kms_span = refusal.origin.kms_span

    def end(self, code: str, refusal: BrokerError | None = None) -> None:
        """Notes how it ended, and writes the line.

        Raises:
            OSError: it is not written.
        """
        self.code = code
        if refusal:
            self.note_refusal(refusal)
        if self.audit:
            self.audit.write(self)

    def follow(self, change: asyncio.Task[MaterialChange]) -> None:
        """What KMS is being asked to do; noted when it is known, though the caller may have left."""
        self.change = change
        change.add_done_callback(self._note_change)

    def _note_change(self, change: asyncio.Task[MaterialChange]) -> None:
        if change.cancelled():
            self.reason = OutcomeUnknown.reason
        elif isinstance(error := change.exception(), BrokerError):
            self.note_refusal(error)
        elif error is None:
            self.aws_request_id = change.result().aws_request_id


_FIELDS = tuple(field.name for field in fields(Record) if field.name not in {"change", "kms_span", "audit"})
_current: ContextVar[Record | None] = ContextVar("audit_record", default=None)


def begin(rpc: str, correlation_id: str, now: datetime, audit: Audit | None = None) -> Record:
    """A new record, the current one of this request's context; `audit` is where `end` writes it."""
    record = Record(time=_told(now), rpc=rpc, correlation_id=correlation_id, audit=audit)
    _current.set(record)
    return record


def begin_part(now: datetime) -> Record:
    """A record of its own for one of many keys, the current one of its task."""
    whole = current()
    record = replace(whole, time=_told(now))
    _current.set(record)
    return record


def _told(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds")


def current() -> Record:
    """The record of the request under way; one that nobody reads where there is none."""
    return _current.get() or Record(time="", rpc="")


class Audit:
    """Where the lines go."""

    def __init__(self, file: str) -> None:
        """Opens a file to append to, with permissions for the owner alone, or standard output.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = file
        self._failed = False
        self._descriptor, self._lines = self._open()

    def _open(self) -> tuple[int, Lines]:
        if self._file == STANDARD_OUTPUT:
            descriptor = os.dup(1)
            return descriptor, Lines(descriptor)
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS, 0o600)
        os.set_blocking(descriptor, True)
        return descriptor, Lines(descriptor, torn=self._ends_torn(descriptor))

    def _ends_torn(self, descriptor: int) -> bool:
        """Whether the file ends within a line, as after a full disk and a restart; no, where it may not be read."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        try:
            reading = os.open(self._file, os.O_RDONLY | _FLAGS)
        except OSError:
            return False
        with os.fdopen(reading, "rb") as file:
            return os.pread(file.fileno(), 1, status.st_size - 1) != b"\n"

    def reopen(self) -> None:
        """Goes on in a new file where the old one was moved away; stays with the old one if it cannot.

        Raises:
            OSError
        """
        descriptor, lines = self._open()
        os.close(self._descriptor)
        self._descriptor, self._lines = descriptor, lines

    def write(self, record: Record) -> None:
        """Appends one line, whole or not at all as far as the system allows.

        Raises:
            OSError: it is not written.
        """
        values = {name: getattr(record, name) for name in _FIELDS}
        line = json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"
        patience, self._failed = 0.0 if self._failed else _PATIENCE, True
        self._lines.append(line.encode(), patience)
        self._failed = False

    def require_writable(self, record: Record) -> None:
        """Refuses to go on while lines cannot be written: before anything is done, and not after it.

        Raises:
            OSError: the last line was not written, and neither is one that says so.
        """
        if self._failed:
            self.write(Record(time=record.time, rpc="audit", reason="RESUMED"))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)
