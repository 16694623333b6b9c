"""`keybroker seal-key`: a new seal key on standard output, ready to be a key file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keybroker.seal import read_key
from tests.keybroker_process import run

if TYPE_CHECKING:
    from pathlib import Path


async def test_prints_one_key_and_nothing_else() -> None:
    """What `keybroker seal-key > FILE` leaves in the file is a seal key, and nothing is said on the side."""
    ended = await run("seal-key")

    assert (ended.code, ended.errors) == (0, "")
    assert ended.output.count("\n") == 1
    assert ended.output.endswith("\n")
    assert len(read_key(ended.output)) == 32


async def test_every_key_is_new() -> None:
    """No two runs print the same key."""
    keys = {read_key((await run("seal-key")).output) for _ in range(3)}

    assert len(keys) == 3


async def test_takes_no_settings(tmp_path: Path) -> None:
    """A key belongs to no settings file: --config is refused, and no key is printed beside the refusal."""
    ended = await run("seal-key", "--config", tmp_path / "keybroker.toml")

    assert (ended.code, ended.output) == (2, "")
    assert "unrecognized arguments: --config" in ended.errors


async def test_the_help_names_it() -> None:
    """Someone who looks for it finds it."""
    ended = await run("--help")

    assert ended.code == 0
    assert "seal-key" in ended.output
