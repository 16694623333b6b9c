"""Where a row's key material comes from: a file of the person's, or one that is made once and never made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyimport import files
from keyimport.bulk.rows import LONGEST_VALIDITY, Problem
from keyimport.errors import MaterialUnsuitable
from keyimport.material import Form, check_kind, decode, generate
from keyimport.wrapping import check_material

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from keyimport.bulk.manifest import Manifest
    from keyimport.bulk.rows import Row
    from keyimport.v1.key_import_pb2 import WrappingAlgorithm, WrappingKeySpec

# An RSA_4096 key as PEM has some 3 KiB.
_MOST_BYTES: Final = 64 * 1024


def problems(
    manifest: Manifest,
    row: Row,
    *,
    own_file: bool,
    algorithm: WrappingAlgorithm.ValueType,
    spec: WrappingKeySpec.ValueType,
    now: datetime,
) -> Iterator[Problem]:
    """What is wrong with the row's files and times as they are now.

    Args:
        manifest: says where the files are.
        row: a row that is to be imported.
        own_file: whether the file of generated material may be there, because an earlier run has made it.
        algorithm: what the material will be wrapped with, if it is known.
        spec: what it will be wrapped under, if it is known.
        now: the time.
    """
    try:
        if row.generate and not own_file:
            files.require_new_file(manifest.file(row.save))
        elif row.material or manifest.file(row.save).exists():
            found = material(manifest, row)
            check_kind(found, row.generate)
            check_material(found, algorithm=algorithm, spec=spec)
    except (MaterialUnsuitable, OSError) as error:
        message = error.message if isinstance(error, MaterialUnsuitable) else _said(error)
        yield Problem(line=row.line, field="save" if row.generate else "material", message=message)
    if row.valid_to and row.valid_to <= now:
        yield Problem(line=row.line, field="valid_to", message="is past")
    elif row.valid_to and row.valid_to > now + LONGEST_VALIDITY:
        yield Problem(line=row.line, field="valid_to", message="is more than 365 days ahead")


def material(manifest: Manifest, row: Row) -> bytes:
    """The row's key material as KMS takes it, from the file of the person's or of an earlier run.

    Raises:
        MaterialUnsuitable: it cannot be read. Nothing of it is told.
    """
    path = manifest.file(row.save or row.material)
    try:
        content = _read(path)
    except OSError as error:
        raise MaterialUnsuitable(f"{path}: {_said(error)}") from error
    return decode(content, Form.RAW if row.generate else Form(row.form), passphrase=_no_passphrase)


def require_free(manifest: Manifest, row: Row) -> None:
    """Refuse with MaterialUnsuitable to generate material for a file that is there, or that cannot be made."""
    path = manifest.file(row.save)
    try:
        files.require_new_file(path)
    except OSError as error:
        raise MaterialUnsuitable(f"{path}: {_said(error)}") from error


def made(manifest: Manifest, row: Row) -> bytes:
    """Fresh key material, on disk when this returns.

    Raises:
        MaterialUnsuitable: it cannot be saved, or there is a file already.
    """
    path = manifest.file(row.save)
    content = generate(row.generate)
    try:
        files.write_new(path, content)
    except OSError as error:
        raise MaterialUnsuitable(f"{path}: {_said(error)}") from error
    return content


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise MaterialUnsuitable(f"{path} is no regular file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise MaterialUnsuitable(f"{path} is larger than any key material")
    return content


def _no_passphrase() -> bytes:
    raise MaterialUnsuitable("the private key is encrypted, and there is no one to ask for hundreds of passphrases")


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__
