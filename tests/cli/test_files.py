"""A file is there whole or not at all, for its owner alone, and never in the place of another."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

import pytest

from keyimport.files import require_new_directory, require_new_file, write_new, write_new_directory

if TYPE_CHECKING:
    from pathlib import Path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the process's umask is."""
    before = os.umask(0)
    try:
        write_new(tmp_path / "file", b"content")
        write_new_directory(tmp_path / "folder", {"file": b"content"})
    finally:
        os.umask(before)

    assert (tmp_path / "file").read_bytes() == b"content"
    assert [_mode(tmp_path / name) for name in ("file", "folder", "folder/file")] == [0o600, 0o700, 0o600]
    assert _names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    """Not even what a link names."""
    path = tmp_path / "path"
    if kind == "file":
        path.write_bytes(b"old")
    elif kind == "folder":
        path.mkdir()
        (path / "old").touch()
    else:
        path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError, match="path"):
        write_new(path, b"new")
    with pytest.raises(FileExistsError, match="path"):
        write_new_directory(path, {"file": b"new"})
    with pytest.raises(FileExistsError):
        require_new_directory(path)
    with pytest.raises(FileExistsError):
        require_new_file(path)

    assert _names(tmp_path) == ["path"]
    assert kind != "file" or path.read_bytes() == b"old"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told with the name that was asked for."""

    def full(_descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(OSError, match="No space left on device: .*/file'"):
        write_new(tmp_path / "file", b"new")
    with pytest.raises(OSError, match="No space left on device: .*/folder'"):
        write_new_directory(tmp_path / "folder", {"file": b"new"})

    assert _names(tmp_path) == []


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a memory stick a file is still not overwritten."""

    def no_links(_source: Path, _target: Path) -> NoReturn:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)

    write_new(tmp_path / "path", b"old")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "path", b"new")

    assert (tmp_path / "path").read_bytes() == b"old"
    assert _names(tmp_path) == ["path"]


def test_an_empty_directory_stays_the_one_it_is(tmp_path: Path) -> None:
    """A process may stand in it or a file system be mounted on it; the first name to go is the last to come."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    before = folder.stat().st_ino

    write_new_directory(folder, {"first": b"1", "last": b"2"})

    assert (folder.stat().st_ino, _mode(folder)) == (before, 0o700)
    assert [(name, _mode(folder / name)) for name in _names(folder)] == [("first", 0o600), ("last", 0o600)]
    assert _names(tmp_path) == ["folder"]


def test_an_empty_directory_is_empty_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what was in it already, and with the mode that it had."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    link = os.link

    def full(source: Path, target: Path) -> None:
        if target.name == "last":
            raise OSError(errno.ENOSPC, "No space left on device")
        link(source, target)

    monkeypatch.setattr("os.link", full)

    with pytest.raises(OSError, match="No space left on device: .*/folder'"):
        write_new_directory(folder, {"first": b"1", "last": b"2"})

    assert (_names(folder), _mode(folder)) == ([], 0o755)


def test_a_directory_without_modes_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory stick refuses to change them."""

    def no_modes(_path: Path, _mode: int, **_more: object) -> NoReturn:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.chmod", no_modes)

    write_new_directory(tmp_path, {"file": b"content"})

    assert _names(tmp_path) == ["file"]


def test_a_directory_that_cannot_be_read_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its names cannot be forced to the disk then, and the file is there."""
    opened = os.open

    def unreadable(path: Path, flags: int, *mode: int) -> int:
        if path == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr("os.open", unreadable)

    write_new(tmp_path / "file", b"content")

    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("place", ["folder", "folder/new"])
def test_a_directory_that_cannot_be_written_to_is_found_out_before(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is to take the files itself, or the one that is to take it."""
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path / "folder")

    with pytest.raises(PermissionError, match="folder"):
        require_new_directory(tmp_path / place)


@pytest.mark.parametrize("require", [require_new_file, require_new_directory])
def test_a_place_that_is_none_is_found_out_before(require: object, tmp_path: Path) -> None:
    """Nobody spends a parameter set on files that cannot be written."""
    assert callable(require)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        require(tmp_path / "nowhere" / "path")

    require(tmp_path / "path")
