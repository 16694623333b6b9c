"""The ceremony as it is printed works against a real broker and KMS: the imported key does its work."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from demo.broker_process import broker_process
from demo.ceremony import SETTINGS
from demo.embedded_kms import ACCOUNT, REGION, embedded_kms, kms_client
from tests.cli.command import Command
from tests.key_work import assert_works_with, create_key, new_material

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cli.command import Outcome


pytestmark = pytest.mark.asyncio(loop_scope="module")

# DeleteImportedKeyMaterial has to be granted by name.
GRANTS = f"""
[[callers]]
id = "local"
keys = ["arn:aws:kms:{REGION}:{ACCOUNT}:key/*"]
operations = [
    "GetParametersForImport",
    "GetKeyImportStatus",
    "ImportKeyMaterial",
    "DeleteImportedKeyMaterial",
]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceremony:
    """A KMS, a broker in front of it, and the command that talks to it."""

    kms: Any
    target: str

    def command(self, folder: Path) -> Command:
        """`keyimport` in a folder."""
        return Command(folder=folder, target=self.target)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ceremony() -> AsyncIterator[Ceremony]:
    """One KMS and one broker for all; every test has keys of its own."""
    with tempfile.TemporaryDirectory() as short:  # a socket's path has 107 characters at most
        target = f"unix:{short}/keybroker.sock"
        config = Path(short, "keybroker.toml")
        async with embedded_kms() as endpoint, kms_client(endpoint) as kms:
            settings = SETTINGS.format(directory=short, region=REGION, account=ACCOUNT, endpoint=endpoint)
            config.write_text(settings.replace("requests_per_second = 1", "requests_per_second = 100") + GRANTS)
            async with broker_process(config, target, log=Path(short, "keybroker.log")):
                yield Ceremony(kms=kms, target=target)


@pytest.mark.parametrize(
    ("key_spec", "algorithm"),
    [
        ("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_256"),
        ("ECC_NIST_P384", "RSAES_OAEP_SHA_256"),
        ("RSA_3072", "RSA_AES_KEY_WRAP_SHA_256"),
        ("ECC_NIST_P521", "RSA_AES_KEY_WRAP_SHA_256"),
    ],
)
async def test_the_commands_work_as_they_are_printed(
    key_spec: str, algorithm: str, ceremony: Ceremony, tmp_path: Path
) -> None:
    """`get`, then what it printed for openssl, then what it printed for the import, typed letter by letter."""
    command, kms = ceremony.command(tmp_path), ceremony.kms
    material = new_material(key_spec)
    (tmp_path / "key_material.bin").write_bytes(material)
    arn = await create_key(kms, key_spec)

    got = await command.done("get", arn, "--out", "the set", "--wrapping-algorithm", algorithm)
    await _type(command, _printed(got, "# Or with openssl"))
    await _type(command, _printed(got, "# Then import"))

    await assert_works_with(kms, arn, key_spec, material)
    status = await command.done("status", arn, "--json")
    assert status.json["key_state"] == "Enabled"
    assert {"aes_key.bin", "wrapped_aes_key.bin", "wrapped_key_material.bin"} & command.files() == set()


async def test_the_offline_ceremony_works_as_it_is_printed(ceremony: Ceremony, tmp_path: Path) -> None:
    """The same with `keyimport wrap` in openssl's place, for a private key that is kept encrypted."""
    command, kms = ceremony.command(tmp_path), ceremony.kms
    (tmp_path / "secret").write_text("open sesame\n")
    await _type(command, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out clear.pem")
    await _type(command, "openssl pkcs8 -topk8 -in clear.pem -passout file:secret -out key_material.bin")
    await _type(command, "openssl pkcs8 -topk8 -nocrypt -in clear.pem -outform DER -out clear.der")
    arn = await create_key(kms, "ECC_NIST_P256")

    got = await command.done("get", arn, "--out", "set")
    await _type(command, _printed(got, "# Wrap with keyimport") + " --form pem --passphrase-file secret")
    await _type(command, _printed(got, "# Then import"))

    await assert_works_with(kms, arn, "ECC_NIST_P256", (tmp_path / "clear.der").read_bytes())


@pytest.mark.parametrize("key_spec", ["SYMMETRIC_DEFAULT", "HMAC_512", "RSA_2048", "ECC_SECG_P256K1"])
async def test_generated_material_becomes_the_keys(key_spec: str, ceremony: Ceremony, tmp_path: Path) -> None:
    """What was saved is what the key works with, and it can be imported again after it was deleted."""
    command, kms = ceremony.command(tmp_path), ceremony.kms
    arn = await create_key(kms, key_spec)

    await command.done("import", arn, "--generate", "--save", "kept.bin", "--never-expires")
    kept = (tmp_path / "kept.bin").read_bytes()
    await assert_works_with(kms, arn, key_spec, kept)
    await command.done("delete", arn, "--yes")
    await command.done("import", arn, "--material", "kept.bin", "--never-expires")

    await assert_works_with(kms, arn, key_spec, kept)


def _printed(outcome: Outcome, title: str) -> str:
    """The one script that is printed under a comment that begins like this."""
    (script,) = (block.partition("\n")[2] for block in outcome.out.split("\n\n") if block.startswith(title))
    return script


async def _type(command: Command, script: str) -> None:
    outcome = await command.shell(script)
    assert outcome.code == 0, outcome.err
