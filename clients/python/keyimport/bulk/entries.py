"""What a journal says of a row: one entry for each step, and what follows from the entries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable


class Event(StrEnum):
    """What happened to a row."""

    GENERATING = "generating"
    """Material is about to be generated and saved: from here on, the file is this run's."""
    IMPORTING = "importing"
    """ImportKeyMaterial is about to be sent."""
    NOT_IMPORTED = "not_imported"
    """That import did not happen; the row is tried again."""
    IMPORTED = "imported"
    FAILED = "failed"
    """Nothing was imported; the row is tried again in the next run."""
    UNKNOWN = "unknown"
    """An import was sent, and nobody can say (yet) what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a journal. Nothing in it is secret. What does not apply is empty.

    Attributes:
        event: what happened.
        key_id: the row's key, as the manifest names it.
        time: when, in UTC.
        key_arn: the key's ARN.
        key_state: importing: the key's state just before, in KMS's words.
        public_key_sha256: the fingerprint of the wrapping key, in hexadecimal.
        encrypted_key_material_sha256: importing: SHA-256 of the wrapped material, in hexadecimal.
        key_material_id: imported: the id KMS gave to the material.
        found_by: imported: "answer", or "status" where the answer was lost and the key's state told it.
        reason: why not, as the bare word of an ErrorReason or the name of an error of this library.
        message: why not, as a sentence.
    """

    event: Event
    key_id: str
    time: datetime
    key_arn: str = ""
    key_state: str = ""
    public_key_sha256: str = ""
    encrypted_key_material_sha256: str = ""
    key_material_id: str = ""
    found_by: str = ""
    reason: str = ""
    message: str = ""

    def line(self) -> str:
        """The entry as JSON on one line, without what is empty."""
        content = asdict(self) | {"time": self.time.isoformat()}
        return json.dumps({name: value for name, value in content.items() if value != ""})

    @classmethod
    def parse(cls, line: str) -> Self:
        """The entry in a line; ValueError if there is none."""
        content = json.loads(line)
        try:
            event, time = Event(content.pop("event")), datetime.fromisoformat(content.pop("time"))
            entry = cls(event=event, time=time.astimezone(UTC), **content)
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError("the line is no entry of a journal") from error
        if not all(isinstance(value, str) for value in content.values()):
            raise ValueError("the line is no entry of a journal")
        return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the journal says of one row.

    Attributes:
        last: its last entry that is not about generating; None if there is none.
        importing: its last importing entry; None if there is none.
        generating: whether the file of generated material is its own.
    """

    last: Entry | None = None
    importing: Entry | None = None
    generating: bool = False

    @property
    def imported(self) -> bool:
        """Whether the row is done for ever."""
        return self.last is not None and self.last.event is Event.IMPORTED

    @property
    def open_import(self) -> Entry | None:
        """The importing entry of an import whose outcome is unknown; None if there is none."""
        if self.last and self.last.event in (Event.IMPORTING, Event.UNKNOWN):
            return self.importing
        return None


def histories(entries: Iterable[Entry]) -> dict[str, History]:
    """The history of every row that has one, by its key as the manifest names it."""
    found: dict[str, History] = {}
    for entry in entries:
        before = found.get(entry.key_id, History())
        if entry.event is Event.GENERATING:
            found[entry.key_id] = History(last=before.last, importing=before.importing, generating=True)
            continue
        importing = entry if entry.event is Event.IMPORTING else before.importing
        found[entry.key_id] = History(last=entry, importing=importing, generating=before.generating)
    return found
