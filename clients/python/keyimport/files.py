"""Files for its owner alone, that are there whole or not at all, and never in the place of others."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_new(path: Path, content: bytes) -> None:
    """Write a file that did not exist, mode 0600, on disk when this returns.

    Raises:
        FileExistsError: there is one already; it is left as it is.
        OSError: it cannot be written; nothing is left of it.
    """
    temporary = _beside(path)
    try:
        _write(temporary, content)
        _link(temporary, path)
    except OSError as error:
        # The path is named that the caller knows, instead of the temporary one.
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(temporary.parent)


def write_new_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory of mode 0700 with files of mode 0600, all at once, on disk when this returns.

    Raises:
        FileExistsError: there is something already, other than an empty directory.
        OSError: it cannot be written; nothing is left of it.
    """
    require_new_directory(path)
    temporary = _beside(path)
    try:
        temporary.mkdir(mode=0o700)
        for name, content in files.items():
            _write(temporary / name, content)
        _sync_directory(temporary)
        temporary.rename(path.absolute())
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "there is something in it already", str(path)) from error
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_directory(temporary.parent)


def require_new_directory(path: Path) -> None:
    """FileExistsError if there is anything at the path but an empty directory; OSError if nothing can be made there."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(errno.EEXIST, "there is something else already", str(path))
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(errno.EEXIST, "the directory is not empty", str(path))
    _require_writable_parent(path)


def require_new_file(path: Path) -> None:
    """FileExistsError if there is anything at the path; OSError if nothing can be made there."""
    if path.is_symlink() or path.exists():
        raise FileExistsError(errno.EEXIST, "the file exists already", str(path))
    _require_writable_parent(path)


def _require_writable_parent(path: Path) -> None:
    # Found out before a parameter set is spent, rather than after.
    parent = path.absolute().parent
    if not parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the directory cannot be written to", str(parent))


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name, unless another has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "the file exists already", str(path)) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        # The file systems of memory sticks know no links.
        require_new_file(path)
        temporary.rename(path)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _beside(path: Path) -> Path:
    """A name of its own in the same directory, whatever the path is called: ``.`` has no name by itself."""
    place = path.absolute()
    return place.with_name(f".{place.name}.{secrets.token_hex(8)}.partial")
