"""`keyimport bulk` as a person calls it: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from keyimport.bulk.journal import Journal
from keyimport.bulk.manifest import read
from tests.cli import bulk_process
from tests.cli.bulk_stage import IMPORT, Stage, write_csv

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]


@pytest.fixture
async def stage(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> AsyncIterator[Stage]:
    """A broker and a stage before it."""
    async with run_broker() as broker:
        yield Stage(folder=tmp_path, double=double, target=broker.target)


async def test_without_a_terminal_each_row_is_a_line(stage: Stage) -> None:
    """Progress on standard error, the counts on standard output."""
    stage.prepare(2)

    ended = await bulk_process.run(stage.manifest, stage.target)

    assert 0 == ended.code
    assert 2 == sum("imported arn:" in line for line in ended.errors.splitlines())
    assert "2 of 2 imported, 0 waiting, 0 failed" in ended.errors
    assert "imported: 2" in ended.output.splitlines()


@pytest.mark.parametrize(("state", "code"), [("PendingImport", 11), ("PendingDeletion", 5)])
async def test_a_report_that_cannot_be_printed_is_written_all_the_same(state: str, code: int, stage: Stage) -> None:
    """Neither standard output nor standard error stops a run, and the worst failure decides how it ends."""
    stage.prepare(2)
    stage.double.keys.set_state(next(iter(stage.materials)), state)
    report = stage.folder / "report.csv"
    arguments = ["bulk", stage.manifest, "--target", stage.target, "--report", report]

    nobody, pipe = os.pipe()
    os.close(nobody)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keyimport.cli", *map(str, arguments)), stdout=pipe, stderr=pipe
    )
    os.close(pipe)
    ended = await process.wait()

    assert code == ended
    assert (2 if code == 11 else 1) == report.read_text().count(",imported,")


async def test_a_terminal_has_a_bar(stage: Stage) -> None:
    """With the counts; a row that failed has a line above it, with its reason."""
    stage.prepare(3)
    stage.double.keys.set_state(next(iter(stage.materials)), "PendingDeletion")

    ended = await bulk_process.run_at_terminal(stage.manifest, stage.target)

    assert 5 == ended.code
    assert "2/3 0 waiting, 1 failed" in ended.output
    told = [line for line in ended.output.splitlines() if "line 2: failed" in line]
    assert [True] == ["KEY_STATE_INCOMPATIBLE" in line for line in told]


async def test_a_manifest_with_faults_is_refused_whole(stage: Stage) -> None:
    """Each fault has a line, nothing is sent, and no journal is left behind."""
    stage.prepare(3)
    (stage.folder / "1.bin").unlink()
    (stage.folder / "2.bin").write_bytes(b"")
    stage.manifest.write_text(stage.manifest.read_text() + '"x"y\n')

    ended = await bulk_process.run(stage.manifest, stage.target)
    as_json = await bulk_process.run(stage.manifest, stage.target, "--json")

    assert 2 == ended.code
    *faults, last = ended.errors.splitlines()
    assert ["line 3: material", "line 4: material", "line 5: is no CSV"] == [
        ": ".join(line.split(": ")[1:3]) for line in faults
    ]
    assert last.startswith("keyimport: ")
    told = json.loads(as_json.errors)
    assert (2, [3, 4, 5]) == (as_json.code, [problem["line"] for problem in told["problems"]])
    names = ["code", "field", "kind", "message", "metadata", "next_step", "reason", "retry_after"]
    assert (2, names) == (told["error"]["code"], sorted(told["error"]))
    assert [] == [call for call in stage.double.calls if call.key_id]
    assert not stage.journal.exists()


async def test_the_exit_code_is_that_of_the_worst_failure(stage: Stage) -> None:
    """What is not imported is told with its reason, and the rest is imported."""
    stage.prepare(3)
    stage.double.keys.set_state(next(iter(stage.materials)), "PendingDeletion")

    ended = await bulk_process.run(stage.manifest, stage.target)

    assert 5 == ended.code
    assert "KEY_STATE_INCOMPATIBLE" in ended.output
    assert 2 == stage.double.count(IMPORT)


async def test_material_may_be_gone_once_it_is_imported(stage: Stage) -> None:
    """A manifest is run again though the files of what is done were destroyed, as they should be."""
    stage.prepare(2)
    refused = list(stage.materials)[1]
    stage.double.keys.set_state(refused, "PendingDeletion")
    await bulk_process.run(stage.manifest, stage.target)
    stage.double.keys.set_state(refused, "PendingImport")
    (stage.folder / "0.bin").unlink()

    ended = await bulk_process.run(stage.manifest, stage.target, "--json")

    assert (0, ["imported"] * 2) == (ended.code, ended.outcomes), ended.errors


async def test_an_import_of_unknown_outcome_is_found_out_without_its_file(stage: Stage) -> None:
    """Whoever destroys material once KMS has it need not bring it back to hear so."""
    stage.prepare(1)
    await bulk_process.run(stage.manifest, stage.target, module=bulk_process.DYING, point="answered")
    (stage.folder / "0.bin").unlink()

    ended = await bulk_process.run(stage.manifest, stage.target, "--json")

    assert (0, ["imported"]) == (ended.code, ended.outcomes), ended.errors
    assert 1 == stage.double.count(IMPORT)


async def test_a_journal_in_use_is_refused(stage: Stage) -> None:
    """Two runs over one manifest would import twice."""
    stage.prepare(1)
    with Journal(stage.journal, read(stage.manifest).sha256):
        ended = await bulk_process.run(stage.manifest, stage.target)

    assert 2 == ended.code
    assert "another run" in ended.errors
    assert 0 == stage.double.count(IMPORT)


async def test_the_journal_of_another_manifest_is_refused(stage: Stage) -> None:
    """A row that was added or changed needs a journal of its own."""
    stage.prepare(1)
    await bulk_process.run(stage.manifest, stage.target)
    stage.prepare(1)

    ended = await bulk_process.run(stage.manifest, stage.target)

    assert 2 == ended.code
    assert "another manifest" in ended.errors
    assert 1 == stage.double.count(IMPORT)


async def test_a_torn_line_is_told_and_dropped(stage: Stage) -> None:
    """What a crash left of the last line does not stop the next run."""
    stage.prepare(1)
    await bulk_process.run(stage.manifest, stage.target)
    stage.journal.write_bytes(stage.journal.read_bytes() + b'{"event": "impo')

    ended = await bulk_process.run(stage.manifest, stage.target)

    assert 0 == ended.code
    assert "torn" in ended.errors


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--report", "report.txt"), "--report"),
        (("--report", "nowhere/report.csv"), "--report"),
        (("--report", "MANIFEST"), "overwrite the manifest"),
        (("--settling", "-1"), "--settling"),
        (("--wrapping-algorithm", "ROT13"), "--wrapping-algorithm"),
    ],
)
async def test_a_wrong_option_is_told_before_anything_is_sent(
    stage: Stage, options: tuple[str, ...], told: str
) -> None:
    """With the exit code of usage errors."""
    stage.prepare(1)

    said = [str(stage.manifest) if option == "MANIFEST" else option for option in options]
    ended = await bulk_process.run(stage.manifest, stage.target, *said)

    assert 2 == ended.code
    assert told in ended.errors
    assert not stage.journal.exists()


async def test_without_a_broker_the_journal_has_no_row(stage: Stage) -> None:
    """The exit code says that it may work later."""
    stage.prepare(1)

    ended = await bulk_process.run(stage.manifest, f"unix:{stage.folder}/none.sock")

    assert (8, True) == (ended.code, "not imported: 1" in ended.output), ended.errors
    assert "no broker answers yet; waiting up to 10 s" in ended.errors
    assert 1 == len(stage.lines())


async def test_json_lines_and_generated_material(stage: Stage) -> None:
    """Every kind of row in one manifest."""
    path = stage.folder / "keys.jsonl"
    arns = {spec: stage.double.add_key(spec) for spec in ("SYMMETRIC_DEFAULT", "HMAC_256", "ECC_NIST_P256")}
    rows = [
        {"key_id": arn, "generate": spec, "save": f"{spec}.bin", "never_expires": True} for spec, arn in arns.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    ended = await bulk_process.run(path, stage.target, "--json")

    assert (0, ["imported"] * 3) == (ended.code, ended.outcomes), ended.errors
    assert {spec: (stage.folder / f"{spec}.bin").read_bytes() for spec in arns} == {
        spec: stage.double.material(arn) for spec, arn in arns.items()
    }


async def test_a_key_that_is_not_the_specs_is_refused(stage: Stage) -> None:
    """Material generated for another spec than the key's is never sent."""
    arn = stage.double.add_key("HMAC_256")
    write_csv(stage.manifest, [{"key_id": arn, "generate": "HMAC_512", "save": "x.bin", "never_expires": "true"}])

    ended = await bulk_process.run(stage.manifest, stage.target, "--json")

    assert (7, ["failed"]) == (ended.code, ended.outcomes), ended.errors
    assert 0 == stage.double.count(IMPORT)
