"""The end of a bulk import: what became of the rows, and the exit code that follows from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from keyimport.bulk import report as reports
from keyimport.bulk.items import Outcome
from keyimport.cli import output
from keyimport.cli.exits import Exit, failure_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keyimport.bulk.items import Item
    from keyimport.bulk.report import ReportRow

# What nobody knows is the worst, then what may stop every row, then what is of single rows.
_WORST_FIRST: Final = (
    Exit.OUTCOME_UNKNOWN,
    Exit.INTERRUPTED,
    Exit.INTERNAL,
    Exit.BROKER_FAULT,
    Exit.SET_REFUSED,
    Exit.CALLER_REFUSED,
    Exit.REQUEST_REFUSED,
    Exit.KEY_REFUSED,
    Exit.MATERIAL_REFUSED,
    Exit.TRY_LATER,
)


def exit_of(items: Sequence[Item]) -> Exit:
    """OK only if all are imported, otherwise the code of the worst that befell one."""
    codes = {_code(item) for item in items}
    return next((code for code in _WORST_FIRST if code in codes), Exit.OK)


def show(items: Sequence[Item], *, journal: Path, file: Path | None, as_json: bool) -> None:
    """Print the report, all of it for programs and the counts and what is amiss for people; write it to the file."""
    rows = reports.report(items)
    code = exit_of(items) or Exit.NOT_TOLD
    try:
        with output.printing(f"the run has ended, and {journal} says what became of each row", code=code):
            _print(rows, journal=journal, file=file, as_json=as_json)
    finally:
        if file:
            reports.write(file, rows)


def _print(rows: Sequence[ReportRow], *, journal: Path, file: Path | None, as_json: bool) -> None:
    counts = {outcome.value: sum(row.outcome == outcome for row in rows) for outcome in Outcome}
    amiss = [row for row in rows if row.outcome not in (Outcome.IMPORTED, Outcome.NOT_IMPORTED)]
    if amiss and not as_json:
        cells = [
            (str(row.line), row.key_id.rpartition("/")[2], row.outcome, f"{row.reason} {row.message}") for row in amiss
        ]
        output.table(("line", "key", "outcome", "why"), cells)
    told = {name.replace("_", " "): str(count) for name, count in counts.items()} | {"journal": str(journal)}
    if file:
        told["report"] = str(file)
    data = {**counts, "journal": str(journal), "rows": [asdict(row) for row in rows]}
    output.show(told, data, as_json=as_json)


def _code(item: Item) -> Exit:
    match item.outcome:
        case Outcome.IMPORTED:
            return Exit.OK
        case Outcome.FAILED if item.error:
            return failure_of(item.error).code
        case Outcome.NOT_IMPORTED:
            return Exit.INTERRUPTED
        case _:
            return Exit.OUTCOME_UNKNOWN
