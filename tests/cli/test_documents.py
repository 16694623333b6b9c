"""What docs/command-line.md says is so: its commands run, its options exist, its exit codes are the command's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from keyimport import WrappingKeySpec
from keyimport.cli.commands import keyimport
from keyimport.cli.exits import MEANINGS
from tests.client import openssl
from tests.client.fake_broker import KEY_ARN, KEY_ID, FakeBroker

if TYPE_CHECKING:
    from tests.cli.command import Command

DOCUMENT = (Path(__file__).parents[2] / "docs/command-line.md").read_text()
CANARY = b"canary in plain text, 32 bytes.."
IMPORT = "ImportKeyMaterial"


def _scripts(text: str) -> list[str]:
    """The shell blocks, without the indentation of the list they stand in."""
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", script, flags=re.MULTILINE) for indent, script in blocks]


EXAMPLES, CEREMONY = (_scripts(part) for part in DOCUMENT.split("\n## An offline ceremony"))


async def test_the_examples_run(broker: FakeBroker, command: Command) -> None:
    """One after the other as they stand there, each import with what the ones before it have made."""
    (command.folder / "key_material.bin").write_bytes(CANARY)

    for script in EXAMPLES:
        outcome = await command.shell(f"KEY={KEY_ID}\n{script}")
        assert outcome.code == 0, script + outcome.err

    assert broker.calls.count(IMPORT) == 3
    assert (command.folder / "key_backup.bin").stat().st_size == 32


async def test_the_offline_ceremony_runs(
    broker: FakeBroker, command: Command, private_keys: dict[WrappingKeySpec.ValueType, Path]
) -> None:
    """Its steps, with the fingerprint that the second prints typed in the fifth, import the key material."""
    (command.folder / "key_material.bin").write_bytes(CANARY)
    fingerprint = ""

    for script in CEREMONY:
        outcome = await command.shell(f"KEY={KEY_ARN} FINGERPRINT={fingerprint}\n{script}")
        assert outcome.code == 0, script + outcome.err
        if found := re.search(r"^fingerprint.*: ([0-9a-f]{64})$", outcome.out, re.MULTILINE):
            fingerprint = fingerprint or found[1]

    (taken,) = broker.imports
    private_key = private_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096]
    wrapped = taken.request.encrypted_key_material
    assert openssl.unwrap(wrapped, private_key=private_key, algorithm="RSAES_OAEP_SHA_256") == CANARY


def test_the_exit_codes_are_the_commands() -> None:
    """The table and `keyimport --help` say the same."""
    table = re.findall(r"^\| (\d+) \| (.*) \|$", DOCUMENT, re.MULTILINE)

    assert [(int(code), meaning) for code, meaning in table] == [(code.value, text) for code, text in MEANINGS.items()]


@pytest.mark.parametrize("name", ["get", "wrap", "import", "status", "delete", "discard"])
def test_every_option_is_told(name: str) -> None:
    """No option of a command is missing from the document."""
    command = keyimport.get_command(click.Context(keyimport), name)
    assert command is not None
    options = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}

    assert {flag for flag in options if flag not in DOCUMENT} == set()


def test_every_option_that_is_told_exists() -> None:
    """No option in the document is misspelt, or was taken away."""
    known = {"--help"}
    for name in keyimport.list_commands(click.Context(keyimport)):
        command = keyimport.get_command(click.Context(keyimport), name)
        assert command is not None
        known |= {flag for parameter in command.params for flag in parameter.opts}

    assert set(re.findall(r"--[a-z][a-z-]+", DOCUMENT)) - known == set()


def test_every_environment_variable_is_told() -> None:
    """What a service unit can set stands in the document."""
    named = {str(parameter.envvar) for parameter in keyimport.params if parameter.envvar}

    assert named == set(re.findall(r"KEYIMPORT_[A-Z_]+", DOCUMENT))
