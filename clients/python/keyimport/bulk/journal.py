"""The journal of a bulk import: each entry is on disk before the next step begins, and no two runs share one.

| the process dies | the journal says | the key is | the next run |
|---|---|---|---|
| before material is generated | nothing, or `generating` | PendingImport | generates it and saves it |
| after it is saved | `generating` | PendingImport | imports what is in the file; it generates nothing anew |
| while an `importing` line is written | half a line, which is dropped | PendingImport | begins the row anew |
| between that line and the RPC | `importing` | PendingImport | looks until the settling time is over, then anew |
| while the RPC is under way | `importing` | PendingImport, soon Enabled | looks; it is Enabled: `imported`, by status |
| | | PendingImport for good | looks until the settling time is over, then anew |
| after the answer, before its line | `importing` | Enabled | looks: `imported`, by status |
| while the `imported` line is written | `importing`, half a line | Enabled | the same |
| after the `imported` line | `imported` | Enabled | leaves the row alone |
| after OUTCOME_UNKNOWN | `importing`, perhaps `unknown` | any | the same as while the RPC is under way |
| after a refusal, before its line | `importing` | PendingImport | looks until the settling time is over, then anew |
| after `not_imported` or `failed` | that | PendingImport | begins the row anew |

An `importing` line notes the key's state as KMS told it just before. PendingImport then, and Enabled or Disabled now
with the expiration that was asked for, means that this import, the only one under way, has happened. Nothing can be
concluded for a key that held material before (rows with an import_type), or that expires otherwise: the row stays
`unknown`, is never sent again, and a person has to look.

PendingImport after `importing` does not mean at once that the import did not happen: the broker ends what it has sent
to KMS even when its caller is gone, and KMS shows a change only after a while. It is believed when the settling time
has passed since the `importing` line. Only an answer tells the key_material_id: of a row found by status it is unknown.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from keyimport.bulk.entries import Entry
from keyimport.files import sync_directory

if TYPE_CHECKING:
    from pathlib import Path

_KIND: Final = "keyimport bulk"
_VERSION: Final = 1
_MODE: Final = 0o600


class JournalError(Exception):
    """The journal cannot be used, or not any more; the message is fit to be shown."""


class JournalLocked(JournalError):
    """Another run has it."""


class JournalForeign(JournalError):
    """It is another manifest's, or no journal at all."""


class JournalFailed(JournalError):
    """It could be opened, and cannot be written any more."""


class Journal:
    """An open journal, locked until it is closed.

    Attributes:
        entries: what was in it when it was opened.
        dropped: how many bytes of a torn last line were dropped.
    """

    def __init__(self, path: Path, manifest_sha256: str) -> None:
        """Open the journal, or make it.

        Args:
            path: the file; made with mode 0600, never opened through a symbolic link.
            manifest_sha256: what it must be the journal of.

        Raises:
            JournalError: see the subclasses.
        """
        self._path = path
        self._broken = False
        self.dropped = 0
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, _MODE)
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}") from error
        try:
            self._take()
            self.entries = self._read(manifest_sha256)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, entry: Entry) -> None:
        """Return when the entry is on disk.

        Raises:
            JournalFailed: it may not be; nothing can be written any more.
        """
        if self._broken:
            raise JournalFailed(f"{self._path}: an entry before could not be written")
        self._write(entry.line())

    def close(self) -> None:
        """Give up the lock; nothing if it was done before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._broken = True
            os.close(fd)

    def _take(self) -> None:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise JournalForeign(f"{self._path} is no file of this user's")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalLocked(f"{self._path}: another run is using this journal") from error
        if not self._path.exists() or self._path.stat().st_ino != status.st_ino:
            raise JournalError(f"{self._path} was replaced while it was opened")
        os.fchmod(self._fd, _MODE)

    def _read(self, manifest_sha256: str) -> tuple[Entry, ...]:
        content = b""
        while chunk := os.pread(self._fd, 1 << 20, len(content)):
            content += chunk
        lines = content.split(b"\n")
        whole = [line + b"\n" for line in lines[:-1]]
        # Every line was on disk before the next was begun, so that only the last one can be torn: without its end, or
        # with blocks of zeros in it after the machine itself has crashed.
        if whole and not lines[-1] and not _is_json(whole[-1]):
            whole.pop()
        kept = sum(map(len, whole))
        self.dropped = len(content) - kept
        if self.dropped and not whole and not content.startswith(_header_start()[: len(content)].encode()):
            raise JournalForeign(f"{self._path} is no journal of keyimport bulk")  # and must not be cut
        if whole:
            self._require_header(whole[0], manifest_sha256)
        try:
            entries = tuple(Entry.parse(line.decode()) for line in whole[1:])
        except ValueError as error:
            raise JournalForeign(f"{self._path} is damaged before its last line") from error
        if self.dropped:
            os.ftruncate(self._fd, kept)
            os.fsync(self._fd)
        if not whole:
            self._write(_header(manifest_sha256))
            # The file's name is to be as durable as what is in it.
            sync_directory(self._path.parent)
        return entries

    def _require_header(self, line: bytes, manifest_sha256: str) -> None:
        header = json.loads(line) if _is_json(line) else None
        if not isinstance(header, dict) or header.get("journal") != _KIND:
            raise JournalForeign(f"{self._path} is no journal of keyimport bulk")
        if header.get("version") != _VERSION:
            raise JournalForeign(f"{self._path} was written by another version of keyimport")
        if header.get("manifest_sha256") != manifest_sha256:
            raise JournalForeign(
                f"{self._path} is the journal of another manifest, or of this one before it was changed"
            )

    def _write(self, line: str) -> None:
        content = line.encode() + b"\n"
        # What follows half a line would be lost with it, and what fsync refused once it may forget to refuse again.
        self._broken = True
        try:
            written = os.write(self._fd, content)
            os.fsync(self._fd)
        except OSError as error:
            raise JournalFailed(f"{self._path}: {error.strerror}") from error
        if written != len(content):
            raise JournalFailed(f"{self._path}: only a part of an entry could be written")
        self._broken = False


def _header_start() -> str:
    return json.dumps({"journal": _KIND})[:-1]


def _header(manifest_sha256: str) -> str:
    time = datetime.now(UTC).isoformat()
    return json.dumps({"journal": _KIND, "version": _VERSION, "manifest_sha256": manifest_sha256, "time": time})


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
