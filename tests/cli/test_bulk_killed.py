"""Two hundred keys, a real broker process, and the real command, killed three times: each key is imported once."""

from __future__ import annotations

import csv
import json
import re
import signal
from typing import TYPE_CHECKING

import pytest

from demo.broker_process import broker_process
from tests import keybroker_process
from tests.cli import bulk_process
from tests.cli.bulk_stage import GET, IMPORT, Stage
from tests.kms_gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.kms_double import KmsDouble

KEYS = 200
PER_SECOND = 20
# Long enough that a process which is killed when KMS is asked to import dies before KMS answers.
KMS_SECONDS = 0.1
KILLED = -9
SETTLING = ("--settling", "3")


@pytest.fixture
async def stage(double: KmsDouble, tmp_path: Path) -> AsyncIterator[Stage]:
    """A broker process of the real command, its quota scaled up, and a stage before it."""
    listener = keybroker_process.unix(tmp_path / "broker.sock")
    quota = f"requests_per_second = {PER_SECOND}.0"
    config = keybroker_process.settings_file(tmp_path / "broker.toml", double.endpoint, listener, kms=quota)
    target = f"unix:{tmp_path}/broker.sock"
    async with broker_process(config, target, log=tmp_path / "broker.log"):
        yield Stage(folder=tmp_path, double=double, target=target)


async def test_killed_three_times_every_key_is_imported_once(stage: Stage) -> None:
    """Killed while sets are waited for, while KMS is importing, and again: one import and its own material each."""
    stage.prepare(KEYS)
    stage.double.latency[IMPORT] = KMS_SECONDS
    report = stage.folder / "report.csv"

    codes = []
    for operation, times in ((IMPORT, 37), (GET, 90), (IMPORT, 150)):
        async with bulk_process.bulk(stage.manifest, stage.target, *SETTLING) as process:
            await stage.double.reached(operation, times)
            process.process.kill()
            codes.append((await process.ended()).code)
    last = await bulk_process.run(stage.manifest, stage.target, *SETTLING, "--json", "--report", str(report))

    assert [KILLED] * 3 == codes
    assert (0, ["imported"] * KEYS) == (last.code, last.outcomes), last.errors
    assert stage.once_each() == stage.imports()
    assert stage.materials == stage.at_kms()
    with report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(stage.materials) == [row["key_arn"] for row in rows]
    for row in rows:
        assert (row["key_arn"], row["public_key_sha256"]) in stage.double.keys.issued
        assert (64 if row["found_by"] == "answer" else 0) == len(row["key_material_id"])
    assert "status" in {row["found_by"] for row in rows}


async def test_interrupted_it_ends_what_is_under_way(stage: Stage) -> None:
    """The first ^C: nothing new begins, what was sent is noted, and the next run does the rest."""
    stage.prepare(60)
    stage.double.latency[IMPORT] = KMS_SECONDS
    async with bulk_process.bulk(stage.manifest, stage.target, "--json") as process:
        await stage.double.reached(IMPORT, 10)
        process.process.send_signal(signal.SIGINT)
        interrupted = await process.ended()
    second = await bulk_process.run(stage.manifest, stage.target, "--json")

    assert 130 == interrupted.code, interrupted.errors
    assert {"imported", "not_imported"} == set(interrupted.outcomes)
    assert stage.lines()[0]["journal"]
    assert (0, ["imported"] * 60) == (second.code, second.outcomes), second.errors
    assert stage.once_each() == stage.imports()


async def test_interrupted_twice_it_ends_at_once(stage: Stage) -> None:
    """The second ^C does not wait for KMS; what was under way is unknown, and found out by the next run."""
    stage.prepare(8)
    gate = Gate(stage.double, IMPORT)
    async with bulk_process.bulk(stage.manifest, stage.target) as process:
        await stage.double.reached(IMPORT)
        process.process.send_signal(signal.SIGINT)
        await process.said("stopping")
        process.process.send_signal(signal.SIGINT)
        interrupted = await process.ended()
    gate.open()
    second = await bulk_process.run(stage.manifest, stage.target, "--json", "--settling", "20")

    assert 9 == interrupted.code, interrupted.errors
    assert "unknown: 0" not in interrupted.output
    assert (0, ["imported"] * 8) == (second.code, second.outcomes), second.errors
    assert stage.once_each() == stage.imports()


@pytest.mark.parametrize("fault", ["close_after_work", "reset_mid_answer", "truncated_json"])
async def test_answers_lost_on_the_way_are_found_out(stage: Stage, fault: str) -> None:
    """KMS has imported, and the broker says OUTCOME_UNKNOWN: the key's state says that it was us."""
    stage.prepare(6)
    stage.double.lie(IMPORT, fault, times=3)

    ended = await bulk_process.run(stage.manifest, stage.target, "--json")

    assert (0, ["imported"] * 6) == (ended.code, ended.outcomes), ended.errors
    assert ["answer"] * 3 + ["status"] * 3 == sorted(row["found_by"] for row in ended.report["rows"])
    assert stage.once_each() == stage.imports()
    assert stage.materials == stage.at_kms()


async def test_nothing_secret_is_told(stage: Stage) -> None:
    """Neither in the journal nor on either output nor in the report nor in the broker's log."""
    stage.prepare(3)

    ended = await bulk_process.run(stage.manifest, stage.target, "--json", "--report", str(stage.folder / "r.json"))

    told = ended.output + ended.errors
    for name in ("r.json", "manifest.csv.journal", "broker.log"):
        told += (stage.folder / name).read_text()
    for material in stage.materials.values():
        assert material.hex() not in told
    for call in stage.double.calls:
        for name in ("ImportToken", "EncryptedKeyMaterial"):
            assert call.request.get(name, "none")[:32] not in told
    assert json.loads((stage.folder / "r.json").read_text()) == ended.report["rows"]
    assert not re.search(r"Traceback|Warning", ended.errors)
