"""What the documents tell people to type works as it stands there."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import keyimport
from keyimport import MaterialUnsuitable, WrappingAlgorithm, WrappingKeySpec, check_material
from tests.client import openssl
from tests.client.fake_broker import KEY_ARN, KEY_ID

if TYPE_CHECKING:
    from tests.client.fake_broker import FakeBroker

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "docs/wrapping-recipes.md").read_text()
SHELL = re.findall(r"(?:^(\w+):\n\n)?```sh\n(.*?)```", RECIPES, re.DOTALL | re.MULTILINE)
BY_ALGORITHM = {algorithm: script for algorithm, script in SHELL if algorithm}
SOCKET = "unix:/run/keybroker/keybroker.sock"


def _run(script: str, folder: Path) -> str:
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run(  # noqa: S603 -- the script is our own document's
        [shell, "-eu"], input=script, cwd=folder, capture_output=True, check=True, text=True
    ).stdout


async def _execute(program: str, *, target: str, **names: object) -> dict[str, Any]:
    """Run a program that awaits at its top level, against another socket than the one it names."""
    scope: dict[str, Any] = dict(names)
    code = compile(program.replace(SOCKET, target), "document", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, scope)  # noqa: S307 -- as above
    if inspect.isawaitable(outcome):
        await outcome
    return scope


def _python(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def _table() -> list[list[str]]:
    section = RECIPES.partition("## What wraps what")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [rows[0], *rows[2:]]


def test_every_algorithm_has_a_recipe() -> None:
    """What the Python client wraps with can be done by hand as well."""
    assert sorted(BY_ALGORITHM) == [
        "RSAES_OAEP_SHA_1",
        "RSAES_OAEP_SHA_256",
        "RSA_AES_KEY_WRAP_SHA_1",
        "RSA_AES_KEY_WRAP_SHA_256",
    ]


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_4096"])
@pytest.mark.parametrize("algorithm", BY_ALGORITHM)
def test_a_recipe_wraps_what_can_be_opened(
    algorithm: str,
    spec: str,
    tmp_path: Path,
    materials: dict[str, bytes],
    private_keys: dict[WrappingKeySpec.ValueType, Path],
) -> None:
    """The commands, typed as they stand, leave the wrapped material and no AES key behind."""
    private_key = private_keys[WrappingKeySpec.Value(f"WRAPPING_KEY_SPEC_{spec}")]
    material = materials["RSA_4096" if "KEY_WRAP" in algorithm else "AES_256"]
    (tmp_path / "public_key.der").write_bytes(private_key.with_suffix(".der").read_bytes())
    (tmp_path / "key_material.bin").write_bytes(material)

    _run(BY_ALGORITHM[algorithm], tmp_path)

    wrapped = (tmp_path / "encrypted_key_material.bin").read_bytes()
    assert openssl.unwrap(wrapped, private_key=private_key, algorithm=algorithm) == material
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "encrypted_key_material.bin",
        "key_material.bin",
        "public_key.der",
    ]


@pytest.mark.parametrize("algorithm", BY_ALGORITHM)
def test_a_recipe_without_key_material_leaves_nothing(
    algorithm: str, tmp_path: Path, private_keys: dict[WrappingKeySpec.ValueType, Path]
) -> None:
    """Nothing half-wrapped that would be sent, no AES key, and the shell's own umask; in a shell that goes on."""
    private_key = private_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048]
    (tmp_path / "public_key.der").write_bytes(private_key.with_suffix(".der").read_bytes())

    said = _run(f"umask 022; set +e\n{BY_ALGORITHM[algorithm]}echo $?; umask", tmp_path)

    assert said.split() == ["1", "0022"]
    assert [file.name for file in tmp_path.iterdir()] == ["public_key.der"]


def test_a_pem_key_becomes_key_material(tmp_path: Path, private_keys: dict[WrappingKeySpec.ValueType, Path]) -> None:
    """The conversion command makes unencrypted PKCS#8 DER."""
    shutil.copy(private_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048], tmp_path / "private_key.pem")
    (script,) = (script for _, script in SHELL if "pkcs8" in script)

    _run(script, tmp_path)

    material = (tmp_path / "key_material.bin").read_bytes()
    check_material(material, algorithm="RSA_AES_KEY_WRAP_SHA_256")
    assert openssl.run("pkey", "-inform", "DER", "-noout", "-check", stdin=material).startswith(b"Key is valid")


async def test_a_set_goes_by_way_of_files(
    *,
    tmp_path: Path,
    broker: FakeBroker,
    address: str,
    private_keys: dict[WrappingKeySpec.ValueType, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Getting, comparing the fingerprint, wrapping and importing are one sequence, in Python and by openssl."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key_material.bin").write_bytes(bytes(range(32)))
    get, wrap, imports = _python(RECIPES)
    (digest,) = (script for _, script in SHELL if "dgst" in script)

    for by_hand in (False, True):
        await _execute(get, target=address)
        assert _run(digest, tmp_path).split()[-1] in capsys.readouterr().out
        if by_hand:
            _run(BY_ALGORITHM["RSAES_OAEP_SHA_256"], tmp_path)
        else:
            await _execute(wrap, target=address)
        await _execute(imports, target=address)

    private_key = private_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096]
    assert len(broker.imports) == 2
    for taken in broker.imports:
        wrapped = taken.request.encrypted_key_material
        opened = openssl.unwrap(wrapped, private_key=private_key, algorithm="RSAES_OAEP_SHA_256")
        assert opened == bytes(range(32))


@pytest.mark.parametrize(
    "text", [keyimport.__doc__, (ROOT / "clients/python/README.md").read_text()], ids=["docstring", "readme"]
)
async def test_the_first_example_runs(
    text: str, broker: FakeBroker, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example people meet first imports key material."""
    (example,) = _python(text)

    await _execute(example, target=address, key_id=KEY_ID, material=bytes(32))

    assert capsys.readouterr().out.startswith(KEY_ARN)
    assert len(broker.imports) == 1


@pytest.mark.parametrize("row", _table()[1:], ids=lambda row: row[0])
def test_the_table_agrees_with_the_library(row: list[str], materials: dict[str, bytes]) -> None:
    """Each row lists the specs that the library wraps this key material under, and its size in bytes."""
    kind, size, *cells = row
    columns = _table()[0][2:]
    assert abs(len(materials[kind]) - int(size)) <= (4 if kind.startswith("RSA") else 0)

    for heading, cell in zip(columns, cells, strict=True):
        for algorithm in heading.split(", "):
            fitting = " ".join(bits for bits in ("2048", "3072", "4096") if _fits(materials[kind], algorithm, bits))
            unlisted = kind.startswith(("AES", "HMAC")) and "KEY_WRAP" in algorithm
            assert cell == ("not listed by AWS" if unlisted else fitting or "none"), algorithm


def _fits(material: bytes, algorithm: str, bits: str) -> bool:
    try:
        check_material(material, algorithm=algorithm, spec=f"RSA_{bits}")
    except MaterialUnsuitable:
        return False
    return True


def test_the_tables_reasons_exist() -> None:
    """The remedies are for reasons that the broker gives, and the columns for algorithms that KMS has."""
    reasons = re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", RECIPES.partition("## When it is refused")[2])
    known = {*keyimport.KeyImportError.by_reason, "RSA_AES_KEY_WRAP"}

    assert [word for word in reasons if word not in known and not word.startswith("RSA")] == []
    assert {f"WRAPPING_ALGORITHM_{algorithm}" for algorithm in BY_ALGORITHM} <= set(WrappingAlgorithm.keys())
