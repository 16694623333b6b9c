"""A parameter set goes by way of files: got, wrapped under without a network, imported."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from keyimport import WrappingKeySpec
from keyimport.v1 import key_import_pb2 as pb
from tests.cli.sets import make_set
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


async def test_get_writes_a_whole_set(broker: FakeBroker, command: Command) -> None:
    """The four files are the broker's answer, for their owner alone."""
    outcome = await command.done("get", KEY_ID, "--out", "set")

    (handed_out,) = broker.sets.values()
    folder = command.folder / "set"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert (folder / "WrappingPublicKey.der").read_bytes() == handed_out.public_key
    assert (folder / "ImportToken.bin").read_bytes() == handed_out.import_token
    pem = load_pem_public_key((folder / "WrappingPublicKey.pem").read_bytes())
    assert pem.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == handed_out.public_key
    assert json.loads((folder / "parameters.json").read_text()) == {
        "key_arn": KEY_ARN,
        "key_spec": "SYMMETRIC_DEFAULT",
        "wrapping_algorithm": "RSAES_OAEP_SHA_256",
        "wrapping_key_spec": "RSA_4096",
        "public_key_sha256": handed_out.public_key_sha256.hex(),
        "import_token_sha256": hashlib.sha256(handed_out.import_token).hexdigest(),
        "parameters_valid_to": handed_out.parameters_valid_to.ToDatetime(tzinfo=UTC).isoformat().replace("+00:00", "Z"),
    }
    assert handed_out.public_key_sha256.hex() in outcome.out
    assert "23 h 59 min" in outcome.out
    assert outcome.err == ""


async def test_get_asks_for_what_was_said(broker: FakeBroker, command: Command) -> None:
    """Every option reaches the broker."""
    await command.done(
        *("get", KEY_ARN, "--out", "set", "--min-remaining", "90m", "--exclusive"),
        *("--wrapping-algorithm", "RSA_AES_KEY_WRAP_SHA_256", "--wrapping-key-spec", "RSA_3072", "--timeout", "17"),
    )

    request = pb.GetParametersForImportRequest.FromString(broker.received[0])
    assert request.key_id == KEY_ARN
    assert request.min_remaining_validity.ToTimedelta() == timedelta(minutes=90)
    assert (request.wrapping_algorithm, request.wrapping_key_spec, request.sharing) == (5, 2, 2)
    assert 10 < broker.timeouts[0] < 18  # gRPC rounds it up on its way


async def test_get_does_without_the_keys_spec(broker: FakeBroker, command: Command) -> None:
    """Whoever may get a set and not ask for the key's state gets the set."""
    broker.fail(STATUS, refusal(grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED"))

    outcome = await command.done("get", KEY_ID, "--out", "set", "--json")

    assert outcome.json["key_spec"] is None
    assert json.loads((command.folder / "set" / "parameters.json").read_text())["key_spec"] is None
    assert outcome.err == ""


@pytest.mark.parametrize("name", ["set", ".", os.fsdecode(b"\xff")])
async def test_an_empty_directory_is_filled(name: str, command: Command) -> None:
    """A directory that was made for the set is taken, whatever it is called, and gets the mode of one."""
    folder = command.folder / name
    folder.mkdir(mode=0o755, exist_ok=True)

    await command.done("get", KEY_ID, "--out", name)

    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
async def test_a_set_goes_by_way_of_files(
    algorithm: str, broker: FakeBroker, command: Command, private_keys: dict[WrappingKeySpec.ValueType, Path]
) -> None:
    """What was wrapped without a network is imported under the key and with the token of its set."""
    valid_to = datetime.now(timezone(timedelta(hours=2))).replace(microsecond=0) + timedelta(days=90)
    (command.folder / "key_material.bin").write_bytes(CANARY)
    got = await command.done("get", KEY_ID, "--out", "set", "--wrapping-algorithm", algorithm, "--json")

    wrapped = await command.done(
        *("wrap", "--parameters", "set", "--material", "key_material.bin", "--out", "wrapped.bin"),
        *("--fingerprint", got.json["public_key_sha256"]),
    )
    imported = await command.done(
        *("import", "--parameters", "set", "--wrapped", "wrapped.bin", "--valid-to", valid_to.isoformat()),
        *("--import-type", "existing", "--key-material-id", MATERIAL_ID, "--description", "second half", "--json"),
    )

    (taken,) = broker.imports
    ciphertext = taken.request.encrypted_key_material
    assert openssl.unwrap(ciphertext, private_key=private_keys[RSA_4096], algorithm=algorithm) == CANARY
    assert taken.request.import_token == taken.handed_out.import_token
    assert taken.request.valid_to.ToDatetime(tzinfo=UTC) == valid_to
    assert (taken.request.import_type, taken.request.key_material_id) == (2, MATERIAL_ID)
    assert taken.request.key_material_description == "second half"
    assert imported.json == {
        "key_arn": KEY_ARN,
        "key_material_id": MATERIAL_ID,
        "valid_to": f"{valid_to.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "public_key_sha256": got.json["public_key_sha256"],
        "saved_to": None,
    }
    assert stat.S_IMODE((command.folder / "wrapped.bin").stat().st_mode) == 0o600
    assert "canary" not in got.out + wrapped.out + wrapped.err + imported.out


async def test_wrap_needs_no_broker_and_loads_no_network_code(
    offline: Command, public_keys: dict[WrappingKeySpec.ValueType, bytes], private_keys: dict[int, Path]
) -> None:
    """On a machine without a network there is nothing that could use one."""
    make_set(offline.folder / "set", public_keys[RSA_4096])
    script = (
        "import sys; from keyimport.cli.commands import run\n"
        "code = run(['wrap', '--parameters', 'set', '--material', '-', '--out', 'wrapped.bin'])\n"
        "sys.exit(code or {'grpc', 'asyncio.sslproto'} & set(sys.modules) and 99 or 0)"
    )

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        cwd=offline.folder,
        env=offline.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await process.communicate(CANARY)

    assert process.returncode == 0
    wrapped = (offline.folder / "wrapped.bin").read_bytes()
    assert openssl.unwrap(wrapped, private_key=private_keys[RSA_4096], algorithm="RSAES_OAEP_SHA_256") == CANARY


@pytest.mark.parametrize(
    ("key_spec", "algorithm", "printed"),
    [
        ("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_256", "--hash-algorithm SHA256 --mgf MGF1-SHA256"),
        ("HMAC_512", "RSAES_OAEP_SHA_1", "--hash-algorithm SHA-1 --mgf MGF1-SHA1"),
        ("ECC_NIST_P256", "RSAES_OAEP_SHA_256", ""),
        ("RSA_2048", "RSA_AES_KEY_WRAP_SHA_256", ""),
    ],
)
async def test_pkcs11_tool_is_named_where_it_can_wrap(
    key_spec: str, algorithm: str, printed: str, broker: FakeBroker, command: Command
) -> None:
    """It wraps secret keys with OAEP, and nothing else that KMS takes."""
    broker.status.key_spec = key_spec

    outcome = await command.done("get", KEY_ID, "--out", "set", "--wrapping-algorithm", algorithm)

    assert bool(printed) == ("pkcs11-tool" in outcome.out)
    assert printed in outcome.out


@pytest.mark.parametrize(
    ("algorithm", "names"),
    [
        ("RSAES_OAEP_SHA_256", ["wrap", "openssl", "pkcs11_tool", "import"]),
        ("RSA_AES_KEY_WRAP_SHA_256", ["wrap", "openssl", "import"]),
    ],
)
async def test_the_printed_scripts_have_names_for_programs(algorithm: str, names: list[str], command: Command) -> None:
    """Those of openssl leave nothing behind where there is no key material, and the shell as it was."""
    got = await command.done("get", KEY_ID, "--out", "set", "--wrapping-algorithm", algorithm, "--json")
    before = command.files()

    outcome = await command.shell(f"umask 022; set +e\n{got.json['scripts']['openssl']}\necho $?; umask")

    assert list(got.json["scripts"]) == names
    assert outcome.out.split() == ["1", "0022"]
    assert command.files() == before
