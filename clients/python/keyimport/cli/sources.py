"""Where key material comes from on the command line: a file or standard input, in a form that is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from keyimport.cli.exits import CommandFailed, Exit
from keyimport.errors import MaterialUnsuitable
from keyimport.material import Form, decode

if TYPE_CHECKING:
    from collections.abc import Callable

_Command = TypeVar("_Command", bound="Callable[..., Any]")

FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
"""A file that is to be read."""
FILE_OR_STDIN: Final = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path)
"""The same, or ``-`` for standard input."""
NEW_FILE: Final = click.Path(path_type=Path)
"""A file or directory that is to be written; whether it can be is found out before anything is asked for."""
DIRECTORY: Final = click.Path(exists=True, file_okay=False, path_type=Path)
"""A directory that is to be read."""

# The largest key material that KMS takes is an RSA private key of 4096 bits, 2.4 KiB, and less than twice that as PEM;
# wrapped, and a token, it has at most 6 KiB.
_LARGEST: Final = 64 * 1024


def form_options(command: _Command) -> _Command:
    """Give a command `form` and `passphrase_file`."""
    passphrase = click.option(
        "--passphrase-file",
        type=FILE,
        help="Holds the passphrase of an encrypted private key in its first line; without it a terminal is asked.",
    )
    form = click.option(
        "--form",
        type=click.Choice([form.value for form in Form]),
        default=Form.RAW.value,
        show_default=True,
        help="How the key material is written; private keys in pem and pkcs8 become what KMS takes.",
    )
    return form(passphrase(command))


def read_material(path: Path, *, form: str, passphrase_file: Path | None) -> bytes:
    """The key material in a file, or from standard input for ``-``, as KMS takes it.

    Raises:
        MaterialUnsuitable: it is not of that form; the message names the file.
        CommandFailed: a passphrase is needed, and there is nobody to ask; or a file is far too large.
        OSError: the file cannot be read.
    """
    content = read_small(path, code=Exit.MATERIAL_REFUSED)
    name = material_name(path)
    try:
        return decode(content, Form(form), passphrase=lambda: _passphrase(name, passphrase_file))
    except MaterialUnsuitable as error:
        raise MaterialUnsuitable(f"{name}: {error.message}") from error


def material_name(path: Path) -> str:
    """What people call the file."""
    return "standard input" if str(path) == "-" else str(path)


def read_small(path: Path, *, code: Exit = Exit.USAGE) -> bytes:
    """What is in a file, or in standard input for ``-``, if that is not far larger than anything that belongs there.

    Raises:
        CommandFailed: it is, with the code; a device or a pipe may have no end at all.
        OSError: the file cannot be read.
    """
    if str(path) == "-":
        content = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise CommandFailed(f"{material_name(path)}: it is far too large", code=code, next_step="Check the path.")
    return content


def _passphrase(name: str, file: Path | None) -> bytes:
    if file is not None:
        return read_small(file).partition(b"\n")[0].removesuffix(b"\r")
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{name}: the private key is encrypted", code=Exit.USAGE, next_step="Give --passphrase-file."
        )
    asked: str = click.prompt("Passphrase", hide_input=True, err=True)
    return os.fsencode(asked)
