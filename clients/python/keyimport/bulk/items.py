"""The rows of a run, each with how far it is, and all of them counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from keyimport.bulk.entries import Event, History

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyimport.bulk.entries import Entry
    from keyimport.bulk.rows import Row


class Phase(StrEnum):
    """How far a row is in this run."""

    NEW = "new"
    """Its key has not been looked at."""
    WAITING = "waiting"
    """For the time when it may be asked for."""
    ASKED = "asked"
    """In a stream, in the line for the quota."""
    PREPARING = "preparing"
    """It has a parameter set, and nothing was sent yet."""
    IMPORTING = "importing"
    SETTLING = "settling"
    """An import of it was sent, and its key is looked at to find out what became of it."""
    DONE = "done"


class Outcome(StrEnum):
    """What a report says of a row."""

    IMPORTED = "imported"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_IMPORTED = "not_imported"
    """Nothing is wrong with it, but the run ended first."""


@dataclass(slots=True, kw_only=True)
class Item:
    """One row in this run.

    Attributes:
        row: the row.
        phase: how far it is.
        importing: the importing entry of its last import; None if none was sent.
        generating: whether the file of its generated material is its own.
        end: the entry it ended with in this run or, if it was imported, in an earlier one.
        error: what `end` tells, if that is an error of this run.
        tokens_refused: how often KMS did not accept a token.
        lost: how many imports have broken off and, as was found out, did not happen.
        due: when it may be asked for (again), in the loop's time.
        crowded: whether it waits because the line for the quota was longer than the stream's deadline.
        turn: when its turn for the quota is expected, in the loop's time; None if nobody has said.
        pace: seconds for each request to KMS, as its place in the line and its expected wait tell; 0 if they do not.
        why: what it waits for, if that is not only its turn: a reason, or a gRPC status where there is none.
    """

    row: Row
    phase: Phase = Phase.NEW
    importing: Entry | None = None
    generating: bool = False
    end: Entry | None = None
    error: Exception | None = None
    tokens_refused: int = 0
    lost: int = 0
    due: float = 0.0
    crowded: bool = False
    turn: float | None = None
    pace: float = 0.0
    why: str = ""

    @property
    def outcome(self) -> Outcome:
        """What the report says."""
        if self.end is not None:
            return Outcome(self.end.event)
        return Outcome.UNKNOWN if self.phase in (Phase.IMPORTING, Phase.SETTLING) else Outcome.NOT_IMPORTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many rows are where. The first four add up to `rows`.

    Attributes:
        imported: those that are, in earlier runs too.
        failed: those that ended otherwise, without an import.
        unknown: those of which nobody can say.
        waiting: all others.
        rows: all.
        left: the seconds until the last of them has its turn for the quota, as far as is known.
        why: what most of the waiting wait for, if that is not only their turn.
    """

    imported: int
    failed: int
    unknown: int
    waiting: int
    rows: int
    left: float | None
    why: str


def begin(rows: Iterable[Row], known: Mapping[str, History]) -> tuple[Item, ...]:
    """The rows as the journal left them."""
    return tuple(_begun(row, known.get(row.key_id, History())) for row in rows)


def tally(items: Iterable[Item], now: float) -> Tally:
    """The count of them; `now` is the loop's time."""
    found = list(items)
    ended = [item.end.event for item in found if item.phase is Phase.DONE and item.end]
    imported, failed = ended.count(Event.IMPORTED), ended.count(Event.FAILED)
    reasons = Counter(item.why for item in found if item.phase is Phase.WAITING and item.why)
    return Tally(
        imported=imported,
        failed=failed,
        unknown=len(ended) - imported - failed,
        waiting=len(found) - len(ended),
        rows=len(found),
        left=_left(found, now),
        why=next((why for why, _ in reasons.most_common(1)), ""),
    )


def _left(items: Iterable[Item], now: float) -> float | None:
    """Seconds until the last turn: as it was told, or what so many requests take, since not all are in line yet."""
    waiting = [item for item in items if item.phase in (Phase.WAITING, Phase.ASKED)]
    turns = [item.turn - now for item in waiting if item.turn is not None]
    # Those far back know the pace best: the wait for the first turn is a part of every wait.
    pace = min((item.pace for item in waiting if item.pace), default=0.0)
    asked = sum(item.phase is Phase.ASKED for item in waiting)
    if not turns or (asked > 1 and not pace):
        return None
    return max(0.0, *turns, pace * asked)


def _begun(row: Row, history: History) -> Item:
    if history.imported:
        return Item(row=row, phase=Phase.DONE, importing=history.importing, end=history.last)
    if history.open_import:
        return Item(row=row, phase=Phase.SETTLING, importing=history.open_import, generating=history.generating)
    return Item(row=row, generating=history.generating)
