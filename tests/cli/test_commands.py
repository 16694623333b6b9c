"""Each command does what it says, for people and for programs, and shows nothing secret."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from keyimport import WrappingKeySpec
from tests.client.fake_broker import KEY_ARN, KEY_ID, MATERIAL_ID, FakeBroker

if TYPE_CHECKING:
    from tests.cli.command import Command

GET, IMPORT, STATUS = "GetParametersForImport", "ImportKeyMaterial", "GetKeyImportStatus"
FILES = ["ImportToken.bin", "WrappingPublicKey.der", "WrappingPublicKey.pem", "parameters.json"]
DELETE = "DeleteImportedKeyMaterial"
CANARY = b"canary in plain text, 32 bytes.."
NOBODY = "2>&1 | exec 0<&-"
RSA_4096 = WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096


async def test_options_may_stand_before_the_command(broker: FakeBroker, command: Command) -> None:
    """What is said on the command line counts before the environment, wherever it stands."""
    before = await command.done("--json", "--timeout", "17", "--target", command.target, "status", KEY_ID)
    nowhere = await command("--target", "unix:/nowhere.sock", "--timeout", "0.5", "status", KEY_ID)
    nearest = await command.done("--target", "unix:/nowhere.sock", "status", KEY_ID, "--target", command.target)

    assert before.json["key_arn"] == KEY_ARN
    assert nowhere.code == 8
    assert nearest.code == 0
    assert 10 < broker.timeouts[0] < 18  # gRPC rounds it up on its way


async def test_the_printed_commands_name_the_same_broker(command: Command) -> None:
    """What was said of the connection is in the command that imports, and nothing where it is the default."""
    outcome = await command.done("--target", command.target, "get", KEY_ID, "--out", "a set")

    assert f"keyimport --target {command.target} import --parameters 'a set' --wrapped" in outcome.out


async def test_without_the_extra_one_line_says_how_to_install_it(offline: Command) -> None:
    """A client installed without the command line is no trace-back."""
    script = "import sys; sys.modules['click'] = None\nfrom keyimport.cli import main; main()"

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=offline.environment, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert process.returncode == 1
    assert err.decode() == "keyimport: the command line is not installed. Run: pip install 'keyimport[cli]'\n"


async def test_ctrl_c_before_the_command_has_begun_is_told_in_one_line(offline: Command) -> None:
    """Whoever is quicker than the libraries are loaded sees no trace-back."""
    script = (
        "import signal, sys\n"
        "from keyimport.cli import main\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'cryptography': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting()); sys.argv[1:] = ['status', 'key']; main()"
    )

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=offline.environment, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert process.returncode == 130
    assert err.decode().split() == ["keyimport:", "interrupted."]


async def test_help_lists_commands_and_exit_codes(offline: Command) -> None:
    """The exit codes are where a script's author looks first."""
    outcome = await offline.done("--help")

    for command in ("get", "wrap", "import", "status", "delete", "discard", "bulk"):
        assert f"\n  {command} " in outcome.out
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 130):
        assert f"\n  {code:>5}  " in outcome.out


async def test_no_command_at_all_is_answered_by_the_help(offline: Command) -> None:
    """As it is printed when it is asked for, but on standard error and as a usage error."""
    helped = await offline.done("--help")

    outcome = await offline()

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == helped.out


async def test_status_tells_all(broker: FakeBroker, command: Command) -> None:
    """Programs get values, people get words."""
    broker.status.multi_region = True
    broker.status.material_valid_to.FromDatetime(datetime(2030, 1, 2, tzinfo=UTC))

    told = await command.done("status", KEY_ID, "--json")
    shown = await command.done("status", KEY_ID)

    assert told.json == {
        "key_arn": KEY_ARN,
        "key_spec": "SYMMETRIC_DEFAULT",
        "key_state": "PendingImport",
        "external_origin": True,
        "material_valid_to": "2030-01-02T00:00:00Z",
        "multi_region": True,
    }
    assert "material expires: 2030-01-02T00:00:00Z" in shown.out
    assert "\x1b" not in shown.out


@pytest.mark.parametrize("material_id", ["", "cd" * 32])
async def test_delete_deletes(material_id: str, broker: FakeBroker, command: Command) -> None:
    """Which material of a symmetric key is deleted can be said."""
    more = ["--key-material-id", material_id] if material_id else []

    outcome = await command.done("delete", KEY_ID, "--yes", "--json", *more)

    assert outcome.json == {"key_arn": KEY_ARN, "key_material_id": material_id or MATERIAL_ID}
    assert broker.calls == [STATUS, DELETE]


async def test_delete_asks_nobody_where_there_is_no_terminal(broker: FakeBroker, command: Command) -> None:
    """A script that forgot --yes deletes nothing, whatever is in its standard input."""
    outcome = await command("delete", KEY_ID, stdin=b"y\n")

    assert outcome.code == 2
    assert broker.calls == []


@pytest.mark.parametrize(("answer", "calls"), [("y", 1), ("n", 0), ("", 0)])
async def test_delete_asks_on_a_terminal(answer: str, calls: int, broker: FakeBroker, command: Command) -> None:
    """Only a yes deletes."""
    master, slave = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keyimport.cli", "delete", KEY_ID),
        cwd=command.folder,
        env=command.environment,
        stdin=slave,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    os.write(master, f"{answer}\n".encode())
    _, err = await process.communicate()

    os.close(master)
    os.close(slave)
    assert process.returncode == (0 if calls else 12)
    assert ("nothing was deleted" in err.decode()) == (not calls)
    assert broker.calls.count(DELETE) == calls


IMPORTING = f"import {KEY_ID} --material key.bin --never-expires"
IMPORTED = f"the key material was imported into {KEY_ARN}"


@pytest.mark.parametrize(
    ("arguments", "done", "lost"),
    [
        *((IMPORTING, IMPORTED, lost) for lost in ("> /dev/full", "--json > /dev/full", "| exec 0<&-", NOBODY, ">&-")),
        (f"import {KEY_ID} --generate --save new.bin --never-expires", IMPORTED, "| exec 0<&-"),
        (f"delete {KEY_ID} --yes", f"the key material of {KEY_ARN} was deleted", "| exec 0<&-"),
        (f"get {KEY_ID} --out new", "the set is in new", "> /dev/full"),
        ("wrap --parameters set --material key.bin --out new", "the wrapped key material is in new", "> /dev/full"),
        ("discard --parameters set", "the set was discarded", "> /dev/full"),
    ],
)
async def test_what_was_done_is_told_even_if_the_result_cannot_be(
    *, arguments: str, done: str, lost: str, command: Command
) -> None:
    """On standard error, with an exit code of its own; whoever closes standard output wants no result."""
    (command.folder / "key.bin").write_bytes(CANARY)
    await command.done("get", KEY_ID, "--out", "set")

    outcome = await command.shell(f"set +e; keyimport {arguments} {lost}; exit ${{PIPESTATUS[0]}}")

    assert outcome.code == (0 if lost == ">&-" else 11), outcome.err
    assert (f"{done}; only the result could not be printed" in outcome.err) == (lost not in (">&-", NOBODY))
    assert "Exception" not in outcome.err


async def test_discard_takes_a_directory_or_a_token(broker: FakeBroker, command: Command) -> None:
    """Both ways reach the broker with key and token."""
    await command.done("get", KEY_ID, "--out", "one")
    by_set = await command.done("discard", "--parameters", "one", "--json")
    left = len(broker.sets)
    await command.done("get", KEY_ID, "--out", "two")

    by_token = await command.done("discard", KEY_ID, "--token", "two/ImportToken.bin", "--json")

    assert left == 0
    assert by_set.json == {"key_arn": KEY_ARN, "discarded": True}
    assert by_token.json == {"key_arn": None, "discarded": True}
    assert broker.sets == {}
