"""Files for its owner alone, that are there whole or not at all, and never in the place of others."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
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
    sync_directory(temporary.parent)


def write_new_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files of mode 0600 into a directory of mode 0700 that is new or empty, on disk when this returns.

    A new directory is there with all of them at once; one that was there gets them in their order.

    Raises:
        FileExistsError: there is something already, other than an empty directory.
        OSError: it cannot be written; nothing is left of it.
    """
    require_new_directory(path)
    try:
        if path.is_dir():
            _fill(path, files)
        else:
            _make(path, files)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "there is something in it already", str(path)) from error
        raise type(error)(error.errno, error.strerror, str(path)) from error


def require_new_directory(path: Path) -> None:
    """FileExistsError if there is anything at the path but an empty directory; OSError if nothing can be made there."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(errno.EEXIST, "there is something else already", str(path))
    if path.is_dir():
        if any(path.iterdir()):
            raise FileExistsError(errno.EEXIST, "the directory is not empty", str(path))
        _require_writable(path)
    else:
        _require_writable(path.absolute().parent)


def require_new_file(path: Path) -> None:
    """FileExistsError if there is anything at the path; OSError if nothing can be made there."""
    if path.is_symlink() or path.exists():
        raise FileExistsError(errno.EEXIST, "the file exists already", str(path))
    _require_writable(path.absolute().parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory as durable as what is in the files, where whoever may write to it may read it."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _require_writable(directory: Path) -> None:
    # Found out before a parameter set is spent, rather than after.
    if not directory.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(directory))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the directory cannot be written to", str(directory))


def _make(path: Path, files: Mapping[str, bytes]) -> None:
    temporary = _beside(path)
    try:
        temporary.mkdir(mode=0o700)
        for name, content in files.items():
            _write(temporary / name, content)
        sync_directory(temporary)
        temporary.rename(path.absolute())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(temporary.parent)


def _fill(directory: Path, files: Mapping[str, bytes]) -> None:
    # No other directory takes its place: somebody may stand in it, and a file system may be mounted on it.
    before = directory.stat()
    written: list[Path] = []
    try:
        if before.st_uid == os.geteuid():
            _change_mode(directory, 0o700)
        for name, content in files.items():
            write_new(directory / name, content)
            written.append(directory / name)
    except BaseException:
        for file in written:
            file.unlink()
        _change_mode(directory, stat.S_IMODE(before.st_mode))
        raise


def _change_mode(directory: Path, mode: int) -> None:
    with suppress(PermissionError):  # another's directory, or a file system without modes
        directory.chmod(mode)


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


def _beside(path: Path) -> Path:
    """A name of its own in the same directory, whatever the path is called: ``.`` has no name by itself."""
    place = path.absolute()
    return place.with_name(f".{place.name}.{secrets.token_hex(8)}.partial")
