"""A journal is believed as far as it is whole, and belongs to one manifest and to one run at a time."""

from __future__ import annotations

import json
import os
import resource
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyimport.bulk.entries import Entry, Event, histories
from keyimport.bulk.journal import Journal, JournalError, JournalForeign, JournalLocked

if TYPE_CHECKING:
    from pathlib import Path

SHA = "ab" * 32
TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "manifest.csv.journal"


def _entry(event: Event, key_id: str = "k", message: str = "") -> Entry:
    return Entry(event=event, key_id=key_id, time=TIME, key_arn="arn", key_state="PendingImport", message=message)


def _write(path: Path, *events: Event) -> None:
    with Journal(path, SHA) as journal:
        for event in events:
            journal.append(_entry(event))


def _read(path: Path) -> tuple[Entry, ...]:
    with Journal(path, SHA) as journal:
        return journal.entries


def test_what_was_appended_is_read(path: Path) -> None:
    """Entry by entry, as it was; the file is its owner's alone."""
    _write(path, Event.IMPORTING, Event.IMPORTED)

    assert (_entry(Event.IMPORTING), _entry(Event.IMPORTED)) == _read(path)
    assert 0o600 == path.stat().st_mode & 0o777


def test_an_entry_is_on_disk_when_append_returns(path: Path) -> None:
    """Whoever looks at the file then finds it whole."""
    with Journal(path, SHA) as journal:
        journal.append(_entry(Event.IMPORTING))

        assert "importing" == json.loads(path.read_text().splitlines()[1])["event"]


def test_cut_anywhere_the_whole_lines_are_believed(path: Path) -> None:
    """For every length a crash can leave behind: the lines that are whole, and after them new ones."""
    _write(path, Event.IMPORTING, Event.UNKNOWN, Event.IMPORTED)
    content = path.read_bytes()

    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = max(0, content[:length].count(b"\n") - 1)
        with Journal(path, SHA) as journal:
            assert whole == len(journal.entries)
            assert bool(length) == bool(journal.dropped or content[:length].endswith(b"\n"))
            journal.append(_entry(Event.FAILED))
        assert [Event.FAILED] == [entry.event for entry in _read(path)[whole:]]


@pytest.mark.parametrize("end", [b"\0\0\0\0", b"\0\0\0\0\n", b'{"event": "imp\0\0', b'\0\0\0\0"IMPORTED"}\n'])
def test_blocks_of_zeros_at_the_end_are_dropped(path: Path, end: bytes) -> None:
    """What a machine that lost its power may leave of the last line."""
    _write(path, Event.IMPORTING)
    path.write_bytes(path.read_bytes() + end)

    with Journal(path, SHA) as journal:
        assert len(end) == journal.dropped
        assert (_entry(Event.IMPORTING),) == journal.entries


@pytest.mark.parametrize("line", [b"\n", b"7\n", b"{}\n", b'{"event": "dancing"}\n', b"\0\0\0\n"])
def test_damage_before_the_last_line_is_refused(path: Path, line: bytes) -> None:
    """No crash leaves that behind, so that nobody can say what else is missing; the file is left as it is."""
    _write(path, Event.IMPORTING, Event.IMPORTED)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + line + third)
    before = path.read_bytes()

    with pytest.raises(JournalForeign):
        Journal(path, SHA)
    assert before == path.read_bytes()


def test_the_journal_of_another_manifest_is_refused(path: Path) -> None:
    """Its rows would be taken for others."""
    _write(path, Event.IMPORTED)

    with pytest.raises(JournalForeign):
        Journal(path, "cd" * 32)


@pytest.mark.parametrize("content", [b"key_id,material\n", b"secret", b"{}\n", b'{"journal": "another"}\n', b"\0" * 32])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    """--journal may name the wrong file."""
    path.write_bytes(content)

    with pytest.raises(JournalForeign):
        Journal(path, SHA)
    assert content == path.read_bytes()


def test_a_journal_of_another_version_is_refused(path: Path) -> None:
    """What it means is not known here."""
    _write(path)
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))

    with pytest.raises(JournalForeign):
        Journal(path, SHA)


def test_two_runs_cannot_share_it(path: Path) -> None:
    """The second is refused as long as the first has it."""
    with Journal(path, SHA), pytest.raises(JournalLocked):
        Journal(path, SHA)

    assert () == _read(path)


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Another user could point it at a file of this user's."""
    (tmp_path / "target").touch()
    path.symlink_to(tmp_path / "target")

    with pytest.raises(JournalError):
        Journal(path, SHA)


def test_what_is_no_file_is_refused(path: Path) -> None:
    """A pipe keeps nothing."""
    os.mkfifo(path)

    with pytest.raises(JournalError):
        Journal(path, SHA)


def test_nothing_follows_an_entry_that_could_not_be_written(path: Path) -> None:
    """When the disk is full, half a line is left; the journal takes nothing more, and the next run drops it."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, SHA) as journal:
        journal.append(_entry(Event.IMPORTING))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, usual[1]))
        try:
            with pytest.raises(JournalError):
                journal.append(_entry(Event.IMPORTED))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        with pytest.raises(JournalError):
            journal.append(_entry(Event.IMPORTED))

    assert (_entry(Event.IMPORTING),) == _read(path)


def test_a_closed_journal_takes_nothing(path: Path) -> None:
    """The lock is another's by then."""
    journal = Journal(path, SHA)
    journal.close()

    with pytest.raises(JournalError):
        journal.append(_entry(Event.IMPORTED))


@pytest.mark.parametrize(
    ("events", "imported", "open_import", "generating"),
    [
        ([], False, False, False),
        ([Event.GENERATING], False, False, True),
        ([Event.GENERATING, Event.IMPORTING], False, True, True),
        ([Event.IMPORTING], False, True, False),
        ([Event.IMPORTING, Event.UNKNOWN], False, True, False),
        ([Event.IMPORTING, Event.UNKNOWN, Event.IMPORTED], True, False, False),
        ([Event.IMPORTING, Event.NOT_IMPORTED], False, False, False),
        ([Event.IMPORTING, Event.NOT_IMPORTED, Event.IMPORTING], False, True, False),
        ([Event.FAILED], False, False, False),
        ([Event.GENERATING, Event.FAILED], False, False, True),
        ([Event.IMPORTING, Event.IMPORTED], True, False, False),
    ],
)
def test_a_history_says_what_is_left_to_do(
    events: list[Event], imported: bool, open_import: bool, generating: bool
) -> None:
    """Only an importing entry without an end leaves an outcome open."""
    history = histories([_entry(Event.IMPORTED, "another"), *map(_entry, events)]).get("k")

    found = (False, False, False)
    if history:
        found = (history.imported, history.open_import is not None, history.generating)
    assert (imported, open_import, generating) == found


@given(message=st.text(), event=st.sampled_from(Event))
def test_an_entry_is_one_line_whatever_is_in_it(message: str, event: Event) -> None:
    """No message can end a line or begin another."""
    entry = _entry(event, message=message)

    line = entry.line()

    assert 1 == len(line.splitlines())
    assert entry == Entry.parse(line)
