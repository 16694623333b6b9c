"""A manifest is understood whole or refused whole: every fault at once, with its line and field."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyimport.bulk import sources
from keyimport.bulk.manifest import Manifest, ManifestRefused, read
from keyimport.bulk.rows import COLUMNS, Problem
from keyimport.v1.key_import_pb2 import WrappingAlgorithm, WrappingKeySpec

KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:us-east-1:111122223333:key/{KEY}"
OTHER = "2234abcd-12ab-34cd-56ef-1234567890ab"
GOOD = {"key_id": KEY, "material": "good.bin", "form": "raw", "never_expires": "true"}
MADE = {"key_id": KEY, "generate": "HMAC_256", "save": "made.bin", "never_expires": "true"}


def _write(folder: Path, *rows: Any) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    (folder / "good.bin").write_bytes(bytes(32))
    return path


def _refused(path: Path) -> list[tuple[int, str]]:
    with pytest.raises(ManifestRefused) as raised:
        read(path)
    return [(problem.line, problem.field) for problem in raised.value.problems]


def _at_files(manifest: Manifest, **changes: Any) -> list[tuple[int, str, str]]:
    settings: dict[str, Any] = {
        "own_file": False,
        "algorithm": WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
        "spec": WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
        "now": datetime.now(UTC),
    }
    found = [problem for row in manifest.rows for problem in sources.problems(manifest, row, **(settings | changes))]
    return [(problem.line, problem.field, problem.message) for problem in found]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"key_id": ""}, ["key_id"]),
        ({"key_id": "alias/payments"}, ["key_id"]),
        ({"key_id": ARN.replace(f"key/{KEY}", "alias/payments")}, ["key_id"]),
        ({"key_id": KEY.upper()}, ["key_id"]),
        ({"key_id": f"{ARN}\n"}, ["key_id"]),
        ({"key_id": 7}, ["key_id", "key_id"]),
        ({"material": ""}, ["material"]),
        ({"material": None}, ["material"]),
        ({"form": ""}, ["form"]),
        ({"form": "der"}, ["form"]),
        ({"generate": "HMAC_256"}, ["generate"]),
        ({"save": "made.bin"}, ["save"]),
        ({"never_expires": ""}, ["valid_to"]),
        ({"never_expires": False}, ["valid_to"]),
        ({"never_expires": "yes"}, ["never_expires"]),
        ({"valid_to": "2030-01-01T00:00:00Z"}, ["never_expires"]),
        ({"never_expires": "", "valid_to": "2030-01-01T00:00:00"}, ["valid_to"]),
        ({"never_expires": "", "valid_to": "tomorrow"}, ["valid_to"]),
        ({"import_type": "NEW"}, ["import_type"]),
        ({"import_type": "UNSPECIFIED"}, ["import_type"]),
        ({"key_material_id": "ab" * 32}, ["key_material_id"]),
        ({"key_material_id": "ab", "import_type": "EXISTING_KEY_MATERIAL"}, ["key_material_id"]),
        ({"description": "x" * 257}, ["description"]),
        ({"description": "no <brackets>"}, ["description"]),
        ({"description": "\u00e4"}, ["description"]),
        ({"description": "x\ud800"}, ["description", "description"]),
        ({"material": "x\ud800"}, ["material"]),
        ({"material": "x\0"}, ["material"]),
        ({"never_expires": "", "valid_to": "9999-12-31T23:59:59-12:00"}, ["valid_to"]),
        ({"never_expires": "", "valid_to": "0001-01-01T00:00:00+12:00"}, ["valid_to"]),
        ({"colour": "blue"}, ["colour"]),
        ({"key_id": "", "form": "", "never_expires": ""}, ["key_id", "form", "valid_to"]),
    ],
)
def test_a_fault_is_told_with_its_line_and_field(tmp_path: Path, change: dict[str, Any], fields: list[str]) -> None:
    """One of each kind, behind a row without faults."""
    path = _write(tmp_path, GOOD | {"key_id": OTHER}, GOOD | change)

    assert [(2, field) for field in fields] == _refused(path)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"generate": "AES_256"}, ["generate"]),
        ({"save": ""}, ["save"]),
        ({"form": "raw"}, ["form"]),
        ({"import_type": "EXISTING_KEY_MATERIAL"}, ["import_type"]),
        ({"save": "x\0"}, ["save"]),
        ({"save": "x\ud800"}, ["save"]),
    ],
)
def test_a_fault_of_what_is_generated_is_told(tmp_path: Path, change: dict[str, str], fields: list[str]) -> None:
    """What is generated needs a spec and a place, and is new."""
    assert [(1, field) for field in fields] == _refused(_write(tmp_path, MADE | change))


def test_every_fault_of_every_line_is_told_at_once(tmp_path: Path) -> None:
    """A person mends a manifest once."""
    path = _write(tmp_path, GOOD | {"form": ""}, "{", "[]", GOOD | {"x": "y"}, '{"key_id": "a", "key_id": "b"}')

    assert [(1, "form"), (2, ""), (3, ""), (4, "x"), (4, "key_id"), (5, "")] == _refused(path)


def test_what_is_wrong_besides_is_told_at_once_too(tmp_path: Path) -> None:
    """Files are looked at whatever else is wrong with their rows and others, unless it leaves open which they are."""
    path = _write(
        tmp_path,
        GOOD | {"material": "none.bin"},
        "{",
        GOOD | {"material": "none.bin", "key_id": OTHER, "valid_to": "soon", "never_expires": ""},
        GOOD | {"material": "none.bin", "key_id": KEY.replace("1", "3"), "form": "der"},
    )

    with pytest.raises(ManifestRefused) as raised:
        read(path, lambda manifest: (Problem(line=row.line, field="material", message="") for row in manifest.rows))

    found = [(problem.line, problem.field) for problem in raised.value.problems]
    assert [(1, "material"), (2, ""), (3, "valid_to"), (3, "material"), (4, "form")] == found


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        (KEY, KEY, True),
        (KEY, ARN, True),
        (ARN, KEY, True),
        (ARN, ARN, True),
        (ARN, ARN.replace("us-east-1", "eu-west-1"), False),
        (KEY, OTHER, False),
    ],
)
def test_a_key_is_there_once(tmp_path: Path, first: str, second: str, twins: bool) -> None:
    """Under whichever name; ARNs of two Regions are two keys, even if they are replicas of each other."""
    path = _write(tmp_path, GOOD | {"key_id": first}, GOOD | {"key_id": second})

    if twins:
        assert [(2, "key_id")] == _refused(path)
    else:
        assert 2 == len(read(path).rows)


@pytest.mark.parametrize("save", ["made.bin", "./made.bin", "link/made.bin"])
def test_two_rows_do_not_save_into_one_file(tmp_path: Path, save: str) -> None:
    """However it is named: the second would overwrite the first, or import its material."""
    (tmp_path / "link").symlink_to(tmp_path)

    assert [(2, "save")] == _refused(_write(tmp_path, MADE, MADE | {"key_id": OTHER, "save": save}))


def test_csv_and_json_lines_are_one_manifest(tmp_path: Path) -> None:
    """The journal of one is the journal of the other; the order of columns, BOM, blank lines and CRLF do not matter."""
    (tmp_path / "manifest.csv").write_text(
        f"\ufeffnever_expires,form,key_id,material\r\n\r\nTRUE,raw,{KEY},good.bin\r\n", encoding="utf-8"
    )

    from_csv, from_json = read(tmp_path / "manifest.csv"), read(_write(tmp_path, GOOD | {"never_expires": True}))

    assert from_csv.sha256 == from_json.sha256
    assert [3] == [row.line for row in from_csv.rows]


@pytest.mark.parametrize("change", [{"material": "other.bin"}, {"key_id": OTHER}, {"description": "x"}])
def test_another_row_is_another_manifest(tmp_path: Path, change: dict[str, str]) -> None:
    """Whatever a row says is in the hash."""
    before = read(_write(tmp_path, GOOD)).sha256

    after = read(_write(tmp_path, GOOD | change)).sha256

    assert before != after


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        ("", [(0, "")]),
        ("key_id,material,form,never_expires\n", [(0, "")]),
        ("key_id,colour,form,form\n", [(1, "colour"), (1, "form")]),
        (f"key_id,material,form,never_expires\n{KEY},good.bin,raw,true,more\n", [(2, "")]),
        (
            f'key_id,material,form,never_expires\n"{KEY}"x,good.bin,raw,true\nx,y,raw\n',
            [(2, ""), (3, "key_id"), (3, "valid_to")],
        ),
        ('"key_id"x\n', [(1, "")]),
        (f"key_id,material\n{KEY},good.bin\n", [(2, "form"), (2, "valid_to")]),
        ("key_id\n\xff\n", [(0, "")]),
    ],
)
def test_a_fault_of_the_csv_itself_is_told(tmp_path: Path, content: str, faults: list[tuple[int, str]]) -> None:
    """What is no table of known columns is refused."""
    path = tmp_path / "manifest.csv"
    path.write_text(content, encoding="latin-1")

    assert faults == _refused(path)


@pytest.mark.parametrize("name", ["manifest.txt", "none.csv", "folder.csv"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    """Also one whose format is not in its name."""
    (tmp_path / "manifest.txt").write_text("key_id\n")
    (tmp_path / "folder.csv").mkdir()

    assert [(0, "")] == _refused(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "content", "told"),
    [
        ({}, bytes(32), ""),
        ({}, b"", "empty"),
        ({}, bytes(33), "33"),
        ({}, b"ab" * 32 + b"\n", "hex"),
        ({"form": "hex"}, b"ab" * 32 + b"\n", ""),
        ({"form": "hex"}, b"xy" * 32, "hexadecimal"),
        ({"form": "pem"}, b"-----BEGIN PRIVATE KEY-----", "PEM"),
        ({"material": "none.bin"}, bytes(32), "No such file"),
        ({"material": "."}, bytes(32), "no regular file"),
        ({}, bytes(70_000), "larger"),
    ],
)
def test_material_that_cannot_be_imported_is_told(
    tmp_path: Path, change: dict[str, str], content: bytes, told: str
) -> None:
    """Missing, of an impossible size, or in another form; nothing of it is in the message."""
    path = _write(tmp_path, GOOD | change)
    (tmp_path / "good.bin").write_bytes(content)

    found = _at_files(read(path))

    assert ([(1, "material")] if told else []) == [(line, field) for line, field, _ in found]
    assert all(told in message and "abab" not in message for _, _, message in found)


def test_material_that_does_not_fit_under_the_wrapping_is_told(tmp_path: Path) -> None:
    """Where the algorithm and the spec are given, the size is judged by them."""
    algorithm, spec = WrappingAlgorithm.WRAPPING_ALGORITHM_SM2PKE, WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048

    found = _at_files(read(_write(tmp_path, GOOD)), algorithm=algorithm, spec=spec)

    assert [(1, "material")] == [(line, field) for line, field, _ in found]


@pytest.mark.parametrize(("days", "told"), [(-1, True), (1, False), (364, False), (366, True)])
def test_a_time_that_kms_would_refuse_is_told(tmp_path: Path, days: int, told: bool) -> None:
    """Past, or more than 365 days ahead."""
    valid_to = (datetime.now(UTC) + timedelta(days=days)).isoformat()

    found = _at_files(read(_write(tmp_path, GOOD | {"never_expires": "", "valid_to": valid_to})))

    assert ([(1, "valid_to")] if told else []) == [(line, field) for line, field, _ in found]


def test_what_is_generated_overwrites_nothing(tmp_path: Path) -> None:
    """A file that is there is another's, unless the journal says that an earlier run was about to make it."""
    manifest = read(_write(tmp_path, MADE))
    (tmp_path / "made.bin").write_bytes(bytes(32))

    assert [(1, "save")] == [(line, field) for line, field, _ in _at_files(manifest)]
    assert [] == _at_files(manifest, own_file=True)
    assert [(1, "save")] == [
        (line, field) for line, field, _ in _at_files(read(_write(tmp_path, MADE | {"save": "nowhere/made.bin"})))
    ]


def test_the_manifest_in_the_document_is_one(tmp_path: Path) -> None:
    """What docs/bulk.md shows is read without a fault, and it names every column."""
    text = Path("docs/bulk.md").read_text()
    example = text.split("```\nkey_id,material,form,generate")[1].split("```")[0]
    path = tmp_path / "manifest.csv"
    path.write_text("key_id,material,form,generate" + example)

    assert ["pem", ""] == [row.form for row in read(path).rows]
    assert [] == [name for name in COLUMNS if f"`{name}`" not in text]
