"""`keyimport import` imports what it is given, and keeps what it makes before anything else."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from keyimport import WrappingKeySpec
from keyimport.material import check_kind, generate
from keyimport.v1 import key_import_pb2 as pb
from tests.client import openssl
from tests.client.fake_broker import KEY_ARN, KEY_ID, MATERIAL_ID, FakeBroker, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Command

GET, IMPORT, STATUS = "GetParametersForImport", "ImportKeyMaterial", "GetKeyImportStatus"
FILES = ["ImportToken.bin", "WrappingPublicKey.der", "WrappingPublicKey.pem", "parameters.json"]
DELETE = "DeleteImportedKeyMaterial"
CANARY = b"canary in plain text, 32 bytes.."
RSA_4096 = WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096


async def test_import_does_all_steps(
    broker: FakeBroker, command: Command, private_keys: dict[WrappingKeySpec.ValueType, Path]
) -> None:
    """Key material in hexadecimal text from standard input arrives wrapped as the bytes it stands for."""
    outcome = await command.done(
        *("import", KEY_ID, "--material", "-", "--form", "hex", "--never-expires"), stdin=CANARY.hex().encode() + b"\n"
    )

    (taken,) = broker.imports
    ciphertext = taken.request.encrypted_key_material
    assert openssl.unwrap(ciphertext, private_key=private_keys[RSA_4096], algorithm="RSAES_OAEP_SHA_256") == CANARY
    assert taken.request.never_expires
    assert outcome.out.splitlines() == [
        f"key: {KEY_ARN}",
        f"key material id: {MATERIAL_ID}",
        "expires: never",
    ]


@pytest.mark.parametrize("key_spec", ["SYMMETRIC_DEFAULT", "HMAC_384", "RSA_2048", "ECC_NIST_P521"])
async def test_generated_material_is_kept_and_imported(
    key_spec: str, broker: FakeBroker, command: Command, private_keys: dict[WrappingKeySpec.ValueType, Path]
) -> None:
    """What is in the file is what is imported, of the kind that the key takes."""
    broker.status.key_spec = key_spec

    outcome = await command.done(
        *("import", KEY_ID, "--generate", "--save", "kept.bin", "--never-expires"),
        *("--wrapping-algorithm", "RSA_AES_KEY_WRAP_SHA_256"),
    )

    kept = command.folder / "kept.bin"
    (taken,) = broker.imports
    ciphertext = taken.request.encrypted_key_material
    opened = openssl.unwrap(ciphertext, private_key=private_keys[RSA_4096], algorithm="RSA_AES_KEY_WRAP_SHA_256")
    assert opened == kept.read_bytes()
    check_kind(opened, key_spec)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "kept.bin" in outcome.err
    assert "kept in: kept.bin" in outcome.out


async def test_generated_material_outlives_a_refused_import(broker: FakeBroker, command: Command) -> None:
    """It was on disk before the import, and the error says where."""
    broker.fail(IMPORT, refusal(grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE_INCOMPATIBLE"))

    outcome = await command("import", KEY_ID, "--generate", "--save", "kept.bin", "--never-expires", "--json")

    assert outcome.code == 5
    assert len((command.folder / "kept.bin").read_bytes()) == 32
    assert "stays in kept.bin" in outcome.error["next_step"]
    assert command.files() == {"kept.bin"}


@pytest.mark.parametrize(
    "choices",
    [
        ["--never-expires"],
        ["--valid-to", f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%dT%H:%M:%SZ}", "--import-type", "new"],
        ["--never-expires", "--description", "made anew", "--wrapping-algorithm", "RSAES_OAEP_SHA_1"],
    ],
)
async def test_the_printed_command_imports_what_was_generated(
    choices: list[str], broker: FakeBroker, command: Command
) -> None:
    """As it stands there, at the same broker and with the same choices."""
    broker.fail(IMPORT, refusal(grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE_INCOMPATIBLE"))
    making = ("import", KEY_ID, "--generate", "--save", "a key.bin", *choices, "--target", command.target)
    failed = await replace(command, target="unix:/nowhere.sock")(*making)
    printed = failed.err.partition("`")[2].partition("`")[0]

    outcome = await replace(command, target="unix:/nowhere.sock").shell(printed)

    assert outcome.code == 0, failed.err + outcome.err
    (taken,) = broker.imports
    refused = pb.ImportKeyMaterialRequest.FromString(
        next(sent for sent, rpc in zip(broker.received, broker.calls, strict=True) if rpc == IMPORT)
    )
    refused.encrypted_key_material = taken.request.encrypted_key_material
    assert taken.request == refused


async def test_nothing_is_generated_for_a_key_that_has_material(broker: FakeBroker, command: Command) -> None:
    """Fresh material cannot go where other material was, unless that is said to be meant."""
    broker.status.key_state = "Enabled"

    refused = await command("import", KEY_ID, "--generate", "--save", "kept.bin", "--never-expires")
    await command.done("import", KEY_ID, "--generate", "--save", "new.bin", "--never-expires", "--import-type", "new")

    assert refused.code == 5
    assert command.files() == {"new.bin"}
    assert len(broker.imports) == 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_import_says_that_its_outcome_is_unknown(
    sent: signal.Signals, broker: FakeBroker, command: Command
) -> None:
    """Ctrl-C and kill while the import is under way end it with 130, and with what to look at."""
    broker.stalled = {IMPORT}
    (command.folder / "key_material.bin").write_bytes(CANARY)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keyimport.cli", "import", KEY_ID, "--material", "key_material.bin", "--never-expires"),
        cwd=command.folder,
        env=command.environment,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        while IMPORT not in broker.calls:
            await asyncio.sleep(0.05)

    process.send_signal(sent)
    _, err = await process.communicate()

    assert process.returncode == 130
    assert err.decode().count("\n") == 1
    assert "outcome is unknown" in err.decode()


async def test_a_pipe_without_an_end_is_not_read_to_it(command: Command, broker: FakeBroker) -> None:
    """Whatever a device or a pipe holds, a little more than any wrapped key material is all that is asked of it."""
    await command.done("get", KEY_ID, "--out", "set")
    pipe = command.folder / "pipe"
    os.mkfifo(pipe)
    importing = asyncio.ensure_future(
        command("import", "--parameters", "set", "--wrapped", "pipe", "--never-expires", "--timeout", "60")
    )
    written = await asyncio.to_thread(_fill, pipe, 16 * 2**20)
    outcome = await importing

    assert outcome.code == 7
    assert "pipe: it is far too large" in outcome.err
    assert written < 2**20
    assert IMPORT not in broker.calls


def _fill(pipe: Path, most: int) -> int:
    """How many bytes were taken before the reader left."""
    written = 0
    try:
        with pipe.open("wb", buffering=0) as file:
            while written < most:
                written += file.write(bytes(2**12)) or 0
    except BrokenPipeError:
        pass
    return written


def test_what_is_generated_differs_each_time() -> None:
    """Key material is fresh."""
    assert generate("SYMMETRIC_DEFAULT") != generate("SYMMETRIC_DEFAULT")
