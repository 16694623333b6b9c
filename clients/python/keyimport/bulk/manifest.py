"""A manifest, CSV or JSON lines, read as a whole: every fault of it is told at once, and then nothing is done."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from keyimport.bulk.rows import COLUMNS, Problem, Row, parse
from keyimport.requests import text_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

_MOST_BYTES: Final = 64 * 1024 * 1024
_Cells = tuple[int, "Mapping[str, str]"]


class ManifestRefused(ValueError):
    """A manifest with faults.

    Attributes:
        problems: every fault, in the order of the lines.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The rows, in their order, and where they were read.

    Attributes:
        path: the file; the files it names are relative to its directory.
        rows: at least one, each of another key.
        sha256: SHA-256 of the rows in hexadecimal: equal for CSV and JSON lines, whatever the order of the columns.
    """

    path: Path
    rows: tuple[Row, ...]
    sha256: str

    def file(self, name: str) -> Path:
        """The file that a row names."""
        return self.path.parent / name


def read(path: Path, look: Callable[[Manifest], Iterable[Problem]] | None = None) -> Manifest:
    """The manifest in a file whose name ends in .csv or .jsonl.

    Args:
        path: the file.
        look: what is wrong besides, such as with the files that the rows name. It is given the rows that name any, of
            which some may have faults already.

    Raises:
        ManifestRefused: it cannot be read, or has faults.
    """
    problems: list[Problem] = []
    lines = list(_cells(path, problems))
    rows = [row for line, cells in lines if (row := parse(line, cells, problems))]
    problems += _duplicates(path.parent, lines)
    if not rows and not problems:
        problems.append(Problem(line=0, field="", message="the manifest has no rows"))
    manifest = Manifest(path=path, rows=tuple(rows), sha256=_digest(rows))
    if look:
        problems += look(manifest)
    if problems:
        raise ManifestRefused(problems)
    return manifest


def _cells(path: Path, problems: list[Problem]) -> Iterator[_Cells]:
    reader = {".csv": _csv, ".jsonl": _json_lines}.get(path.suffix.lower())
    message = ""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if reader is None:
            message = "the manifest's name ends neither in .csv nor in .jsonl"
        elif len(content) > _MOST_BYTES:
            message = "the manifest is larger than 64 MiB"
        else:
            yield from reader(content.decode("utf-8-sig"), problems)
    except UnicodeDecodeError:
        message = "the manifest is not UTF-8"
    except OSError as error:
        message = f"the manifest cannot be read: {error.strerror}"
    if message:
        problems.append(Problem(line=0, field="", message=message))


def _csv(text: str, problems: list[Problem]) -> Iterator[_Cells]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        problems.append(Problem(line=1, field="", message=f"is no CSV: {error}"))
        return
    for name in dict.fromkeys(header):
        if name not in COLUMNS:
            message = f"unknown column; there are {', '.join(COLUMNS)}"
            problems.append(Problem(line=1, field=name or "(no name)", message=message))
        elif header.count(name) > 1:
            problems.append(Problem(line=1, field=name, message="the column is there twice"))
    while True:
        line = reader.line_num + 1  # where the row begins: a quoted cell may go over several lines
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problems.append(Problem(line=line, field="", message=f"is no CSV: {error}"))
            continue
        if cells is None:
            return
        if not any(cells):
            continue
        if len(cells) > len(header):
            problems.append(Problem(line=line, field="", message="the row has more cells than there are columns"))
        pairs = zip(header, cells, strict=False)
        yield line, {name: cell.strip() for name, cell in pairs if name in COLUMNS}


def _json_lines(text: str, problems: list[Problem]) -> Iterator[_Cells]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_without_twins)
        except (ValueError, RecursionError) as error:
            message = str(error) if isinstance(error, _TwiceError) else "is no JSON"
            problems.append(Problem(line=line, field="", message=message))
            continue
        if not isinstance(row, dict):
            problems.append(Problem(line=line, field="", message="is no JSON object"))
            continue
        yield line, dict(_texts(line, row, problems))


def _texts(line: int, row: Mapping[str, object], problems: list[Problem]) -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if value is None:
            continue
        if isinstance(value, bool) and name == "never_expires":
            yield name, str(value).lower()
        elif isinstance(value, str):
            yield name, value
        else:
            problems.append(Problem(line=line, field=name, message="is no text"))
            yield name, ""


class _TwiceError(ValueError):
    """A name stands twice in one object, and readers differ in which of the values they take."""


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _TwiceError("a field is there twice")
    return row


def _duplicates(folder: Path, rows: Iterable[_Cells]) -> Iterator[Problem]:
    """Rows of the same key, and rows that would save into the same file."""
    keys: dict[str, dict[str, int]] = {}  # by the bare id: how it is named, and in which line
    saved: dict[Path, int] = {}
    for line, cells in rows:
        key_id, save = cells.get("key_id", ""), cells.get("save", "")
        bare = key_id.rpartition("/")[2]
        named = keys.setdefault(bare, {})
        # The ARNs of a multi-Region key and its replicas differ in the Region alone, and are different keys.
        twin = next((name for name in named if name == key_id or bare in (name, key_id)), None)
        if bare and twin is not None:
            how = "" if twin == key_id else ", under another name"
            yield Problem(line=line, field="key_id", message=f"the key is in line {named[twin]} already{how}")
        named.setdefault(key_id, line)
        if save and not text_fault(save):
            file = (folder / save).resolve()  # a file can be named in many ways
            if file in saved:
                yield Problem(line=line, field="save", message=f"line {saved[file]} saves into this file already")
            saved.setdefault(file, line)


def _digest(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        content = asdict(row) | {"valid_to": row.valid_to.isoformat() if row.valid_to else ""}
        del content["line"]
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
