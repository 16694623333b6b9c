"""What became of every row, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields
from datetime import UTC
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from keyimport.bulk.items import Item

SUFFIXES: Final = (".csv", ".json")
"""What a report's name may end in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """What became of one row. What is not known is empty.

    Attributes:
        line: its line in the manifest, counted from 1.
        key_id: the key as the manifest names it.
        key_arn: the key's ARN.
        outcome: imported, failed, unknown or not_imported.
        key_material_id: the id KMS gave to the material.
        public_key_sha256: the fingerprint of the wrapping key, in hexadecimal.
        found_by: of what was imported: "answer", or "status" where the answer was lost.
        reason: why not, as the bare word of an ErrorReason or the name of an error of this library.
        message: why not, as a sentence.
        time: when it ended so, in UTC.
    """

    line: int
    key_id: str
    key_arn: str
    outcome: str
    key_material_id: str
    public_key_sha256: str
    found_by: str
    reason: str
    message: str
    time: str


def report(items: Iterable[Item]) -> tuple[ReportRow, ...]:
    """One row for each of the manifest, in its order."""
    return tuple(_reported(item) for item in items)


def write(path: Path, rows: Sequence[ReportRow]) -> None:
    """Write the report as CSV or JSON, as the file's name ends; OSError leaves what was there before."""
    if path.suffix.lower() == ".json":
        text = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    else:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, [field.name for field in fields(ReportRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        text = buffer.getvalue()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _reported(item: Item) -> ReportRow:
    known = item.end or item.importing
    return ReportRow(
        line=item.row.line,
        key_id=item.row.key_id,
        key_arn=known.key_arn if known else "",
        outcome=item.outcome.value,
        key_material_id=item.end.key_material_id if item.end else "",
        public_key_sha256=known.public_key_sha256 if known else "",
        found_by=item.end.found_by if item.end else "",
        reason=item.end.reason if item.end else "",
        message=item.end.message if item.end else "",
        time=known.time.astimezone(UTC).isoformat(timespec="seconds") if known else "",
    )
