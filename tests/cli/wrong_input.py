"""A wrong input: what a command line is given, what is spoilt before, and what it must end with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyimport import WrappingKeySpec
from tests.cli.sets import make_set
from tests.client import openssl
from tests.client.fake_broker import KEY_ID, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import grpc

    from keyimport.cli.exits import Exit
    from tests.client.fake_broker import Failure, FakeBroker

CANARY = b"canary in plain text, 32 bytes.."
GET, IMPORT, STATUS = "GetParametersForImport", "ImportKeyMaterial", "GetKeyImportStatus"
DELETE, DISCARD = "DeleteImportedKeyMaterial", "DiscardParameters"
RSA_2048, RSA_3072, RSA_4096 = WrappingKeySpec.values()[1:4]

TLS = ("--ca", "key.bin", "--certificate", "key.bin", "--private-key", "key.bin")
GET_IT = ("get", KEY_ID, "--out", "new")
WRAP_IT = ("wrap", "--parameters", "set", "--material", "key.bin", "--out", "new")
SEND_IT = ("import", "--parameters", "set", "--wrapped", "wrapped.bin", "--never-expires")
IMPORT_IT = ("import", KEY_ID, "--material", "key.bin", "--never-expires")
MAKE_IT = ("import", KEY_ID, "--generate", "--save", "new", "--never-expires")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a case can spoil."""

    folder: Path
    broker: FakeBroker
    public_keys: dict[WrappingKeySpec.ValueType, bytes]

    def write(self, name: str, content: bytes) -> None:
        """Put a file in the place of what was there."""
        (self.folder / name).write_bytes(content)

    def replace_set(self, **choices: object) -> None:
        """Put another set in the place of the one in ``set``."""
        shutil.rmtree(self.folder / "set")
        spec = str(choices.get("spec", "RSA_4096"))
        public_key = self.public_keys[WrappingKeySpec.Value(f"WRAPPING_KEY_SPEC_{spec}")]
        make_set(self.folder / "set", public_key, **choices)  # type: ignore[arg-type]

    def facts(self, **changes: object) -> None:
        """Change what is in ``parameters.json``."""
        path = self.folder / "set" / "parameters.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One wrong input.

    Attributes:
        name: what is wrong.
        arguments: the command.
        code: how it ends.
        names: what the line names.
        spoil: makes it wrong.
    """

    name: str
    arguments: Sequence[str]
    code: Exit
    names: str
    spoil: Callable[[Stage], object] = lambda _stage: None


def fails(rpc: str, failure: Failure) -> Callable[[Stage], object]:
    """The next call of an RPC fails."""
    return lambda stage: stage.broker.fail(rpc, failure)


def refused(rpc: str, code: grpc.StatusCode, reason: str, **metadata: str) -> Callable[[Stage], object]:
    """The broker refuses the next call of an RPC."""
    return fails(rpc, refusal(code, reason, **metadata))


def other_set(name: str) -> Callable[[Stage], object]:
    """One file of another set among those of this one."""

    def spoil(stage: Stage) -> None:
        make_set(stage.folder / "other", stage.public_keys[RSA_3072], spec="RSA_3072")
        shutil.copy(stage.folder / "other" / name, stage.folder / "set" / name)

    return spoil


def all_of(*steps: Callable[[Stage], object]) -> Callable[[Stage], object]:
    """One after the other."""

    def spoil(stage: Stage) -> None:
        for step in steps:
            step(stage)

    return spoil


def private_key(*command: str) -> Callable[[Stage], object]:
    """A new private key stands in ``key.bin``."""
    return lambda stage: stage.write("key.bin", openssl.run(*command))


P256 = ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


def staged(case: Case, stage: Stage) -> set[str]:
    """A set, key material and wrapped key material, and then what is wrong; the files that are there."""
    make_set(stage.folder / "set", stage.public_keys[RSA_4096])
    stage.write("key.bin", CANARY)
    stage.write("wrapped.bin", bytes(512))
    case.spoil(stage)
    return {str(path.relative_to(stage.folder)) for path in stage.folder.rglob("*")}
