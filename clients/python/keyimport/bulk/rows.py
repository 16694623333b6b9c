"""One row of a manifest, with every fault of it found at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from keyimport.material import KEY_SPECS, Form
from keyimport.requests import description_fault, material_id_fault, text_fault
from keyimport.v1.key_import_pb2 import ImportType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COLUMNS: Final = (
    "key_id",
    "material",
    "form",
    "generate",
    "save",
    "valid_to",
    "never_expires",
    "import_type",
    "key_material_id",
    "description",
)
LONGEST_VALIDITY: Final = timedelta(days=365)
"""The longest that KMS lets key material live if it expires at all."""

_PREFIX: Final = "IMPORT_TYPE_"
_IMPORT_TYPES: Final = tuple(name.removeprefix(_PREFIX) for name in ImportType.keys() if not name.endswith("IED"))  # noqa: SIM118  no dict
_KEY_ID: Final = re.compile(
    r"(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/)?"
    r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
)
_FILES: Final = frozenset({"material", "form", "generate", "save"})
_YES_AND_NO: Final = {"true": True, "false": False, "": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of a manifest.

    Attributes:
        line: where, counted from 1; 0 where it is the file itself.
        field: which column; empty where it is the whole row.
        message: what is wrong, without the value of anything that may be secret.
    """

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.field}: {self.message}" if self.field else f"{where}{self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One key to import into. What does not apply is empty.

    Attributes:
        line: its line in the manifest, counted from 1.
        key_id: a key id or key ARN.
        material: the file with the key material, as the manifest names it.
        form: in which form the material is.
        generate: the key spec to generate material for.
        save: the file that takes what is generated.
        valid_to: when the material expires; None if it never does.
        import_type: NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL.
        key_material_id: the id KMS gave to known material.
        description: the note stored with the material.
    """

    line: int
    key_id: str
    material: str
    form: str
    generate: str
    save: str
    valid_to: datetime | None
    import_type: str
    key_material_id: str
    description: str

    @property
    def import_type_number(self) -> ImportType.ValueType:
        """`import_type` as the API has it."""
        return ImportType.Value(_PREFIX + (self.import_type or "UNSPECIFIED"))


def parse(line: int, cells: Mapping[str, str], problems: list[Problem]) -> Row | None:
    """The row in these cells, whose faults are added to `problems`; None if they leave open what files it has."""
    found = [Problem(line=line, field=field, message=message) for field, message in _faults(cells)]
    problems += found
    faulty = {problem.field for problem in found}
    if faulty & _FILES:
        return None
    texts = {name: cells.get(name, "") for name in COLUMNS if name not in ("valid_to", "never_expires")}
    return Row(line=line, valid_to=None if "valid_to" in faulty else _time(cells.get("valid_to", "")), **texts)


def _faults(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, text in cells.items():
        if name not in COLUMNS:
            yield name, f"unknown column; there are {', '.join(COLUMNS)}"
        elif fault := text_fault(text):
            yield name, fault
    yield from _key_faults(cells)
    yield from _source_faults(cells)
    yield from _expiration_faults(cells)
    yield from _symmetric_faults(cells)


def _key_faults(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    key_id = cells.get("key_id", "")
    if not key_id:
        yield "key_id", "is missing"
    elif key_id.startswith("alias/") or ":alias/" in key_id:
        yield "key_id", "is an alias, which can be pointed elsewhere at any time; give the key ARN"
    elif not _KEY_ID.fullmatch(key_id):
        yield "key_id", "is neither a key id nor a key ARN"


def _source_faults(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    material, generate = cells.get("material", ""), cells.get("generate", "")
    if material and generate:
        yield "generate", "material is given, so that none is generated"
    elif material:
        if cells.get("form", "") not in list(Form):
            yield "form", f"is none of {', '.join(Form)}"
        if cells.get("save"):
            yield "save", "is for generated material"
    elif generate:
        if generate not in KEY_SPECS:
            yield "generate", f"is none of {', '.join(KEY_SPECS)}"
        if cells.get("form"):
            yield "form", "is for material that is there; what is generated is saved as KMS takes it"
        if not cells.get("save"):
            yield "save", "is missing: material that is kept nowhere cannot be imported again"
    else:
        yield "material", "is missing, and generate too"


def _expiration_faults(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    valid_to, never = cells.get("valid_to", ""), cells.get("never_expires", "").lower()
    if never not in _YES_AND_NO:
        yield "never_expires", "is neither true nor false"
    elif valid_to and _YES_AND_NO[never]:
        yield "never_expires", "valid_to is given too; choose one"
    elif not valid_to and not _YES_AND_NO[never]:
        yield "valid_to", "is missing, and never_expires is not true; choose one"
    if valid_to:
        try:
            if _time(valid_to, check=True) is None:
                yield "valid_to", "has no timezone, such as Z or +01:00"
        except (ValueError, OverflowError):
            yield "valid_to", "is no time such as 2030-01-31T12:00:00Z"


def _symmetric_faults(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    import_type, material_id = cells.get("import_type", ""), cells.get("key_material_id", "")
    if import_type and import_type not in _IMPORT_TYPES:
        yield "import_type", f"is none of {', '.join(_IMPORT_TYPES)}"
    if import_type == "EXISTING_KEY_MATERIAL" and cells.get("generate"):
        yield "import_type", "what is generated now is new to every key"
    if fault := material_id_fault(material_id):
        yield "key_material_id", fault
    if material_id and import_type != "EXISTING_KEY_MATERIAL":
        yield "key_material_id", "names known material, so that import_type must be EXISTING_KEY_MATERIAL"
    if fault := description_fault(cells.get("description", "")):
        yield "description", fault


def _time(text: str, *, check: bool = False) -> datetime | None:
    """The time in UTC; None if there is none, or, where it is checked, none with a timezone."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None and check:
        return None
    return time.astimezone(UTC)
