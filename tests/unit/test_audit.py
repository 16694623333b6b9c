"""What the audit's file holds after a disk was full, and what it may be."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from keybroker import audit
from keybroker.audit import Audit
from keybroker.telemetry import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@contextmanager
def room_for(more: int, file: Path) -> Iterator[None]:
    """The system writes no more than so many bytes to the file, and the last line in part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the audit goes."""
    return tmp_path / "audit.log"


def _record(rpc: str = "An/Rpc") -> audit.Record:
    return audit.begin(rpc, "0123456789abcdef", NOW)


@pytest.mark.parametrize("begun_anew", [True, False])
def test_a_line_that_was_cut_short_spoils_no_other(file: Path, *, begun_anew: bool) -> None:
    """Neither the mark of the gap nor what a new process, or one told to open the file again, writes after it."""
    log = Audit(str(file))
    log.write(_record())
    with room_for(20, file), pytest.raises(OSError, match="File too large"):
        log.write(_record("Cut/Short"))
    if begun_anew:
        log.close()
        log = Audit(str(file))
        log.reopen()
    else:
        log.require_writable(_record())
    log.write(_record())
    log.close()

    first, cut, *after = file.read_text().splitlines()
    assert json.loads(first)["rpc"] == "An/Rpc"
    assert len(cut) == 20
    assert [json.loads(line)["rpc"] for line in after] == (["An/Rpc"] if begun_anew else ["audit", "An/Rpc"])


def test_a_whole_file_is_gone_on_with(file: Path) -> None:
    """No empty line where nothing is torn."""
    for _ in range(2):
        log = Audit(str(file))
        log.write(_record())
        log.reopen()
        log.write(_record())
        log.close()

    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 4


def test_the_log_says_what_kept_a_line_from_being_written(file: Path) -> None:
    """By the system's own word; the text of an exception is in no log."""
    log = Audit(str(file))
    try:
        with room_for(20, file):
            log.write(_record())
    except OSError:
        record = logging.LogRecord("keybroker", logging.CRITICAL, "", 0, "refused", (), sys.exc_info())
    log.close()

    assert json.loads(JsonFormatter().format(record))["exception"]["errno"] == "EFBIG"


def test_a_pipe_that_nobody_reads_holds_nobody_up(file: Path) -> None:
    """It cannot be opened; once it is read it can, and is written to as any other."""
    os.mkfifo(file)
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        Audit(str(file))
    reading = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    log = Audit(str(file))
    log.write(_record())
    read = os.read(reading, 4096)
    os.close(reading)
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        log.reopen()
    blocking = os.get_blocking(log._descriptor)
    log.close()

    assert json.loads(read)["rpc"] == "An/Rpc"
    assert blocking
