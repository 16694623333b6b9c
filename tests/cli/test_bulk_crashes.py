"""Whatever kills a bulk import, at whichever point: the next run imports what is missing, and nothing twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from keyimport.bulk.entries import Entry, Event
from tests.cli import bulk_process
from tests.cli.bulk_dying import UNDER_WAY_SECONDS
from tests.cli.bulk_stage import IMPORT, Stage, outcomes, write_csv

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

KILLED = -9


@pytest.fixture
async def stage(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> AsyncIterator[Stage]:
    """A broker and a stage before it."""
    async with run_broker() as broker:
        yield Stage(folder=tmp_path, double=double, target=broker.target)


@pytest.mark.parametrize(
    "point",
    [
        "before:importing",
        "half:importing",
        "after:importing",
        "before-rpc",
        "under-way",
        "answered",
        "before:imported",
        "half:imported",
        "after:imported",
    ],
)
async def test_killed_at_a_point_and_run_again(stage: Stage, point: str) -> None:
    """One import for each key, and each has its own material; the report is whole."""
    stage.prepare(3)
    if point == "under-way":
        stage.double.latency[IMPORT] = 3 * UNDER_WAY_SECONDS

    first = await bulk_process.run(stage.manifest, stage.target, module=bulk_process.DYING, point=point)
    second = await bulk_process.run(stage.manifest, stage.target, "--json", "--settling", "2")

    assert KILLED == first.code
    assert (0, ["imported"] * 3) == (second.code, second.outcomes), second.errors
    assert stage.once_each() == stage.imports()
    assert stage.materials == stage.at_kms()


@pytest.mark.parametrize(
    "point", ["before:generating", "half:generating", "after:generating", "before-save", "saved", "after:importing"]
)
async def test_killed_while_material_is_generated(stage: Stage, point: str) -> None:
    """What is saved in the end is what the key holds."""
    arn = stage.double.add_key("HMAC_512")
    write_csv(stage.manifest, [{"key_id": arn, "generate": "HMAC_512", "save": "made.bin", "never_expires": "true"}])

    first = await bulk_process.run(stage.manifest, stage.target, module=bulk_process.DYING, point=point)
    second = await bulk_process.run(stage.manifest, stage.target, "--json", "--settling", "1")

    assert KILLED == first.code
    assert (0, ["imported"]) == (second.code, second.outcomes), second.errors
    assert 1 == stage.double.count(IMPORT)
    assert (stage.folder / "made.bin").read_bytes() == stage.double.material(arn)


@pytest.mark.parametrize(("point", "imports"), [("full:importing", {0}), ("full:imported", {1, 2, 3})])
async def test_a_full_disk_stops_the_run(stage: Stage, point: str, imports: set[int]) -> None:
    """What cannot be written down is not sent; what was sent is found out by the next run, which has room."""
    stage.prepare(3)

    first = await bulk_process.run(stage.manifest, stage.target, module=bulk_process.DYING, point=point)
    sent = stage.double.count(IMPORT)
    second = await bulk_process.run(stage.manifest, stage.target, "--json", "--settling", "2")

    assert 1 == first.code
    assert str(stage.journal) in first.errors
    assert sent in imports
    assert (0, ["imported"] * 3) == (second.code, second.outcomes), second.errors
    assert stage.once_each() == stage.imports()
    assert stage.materials == stage.at_kms()


async def test_the_journal_cut_after_every_line(stage: Stage) -> None:
    """As if the process had died there, KMS being as far as the journal says or one step further."""
    stage.prepare(4)
    await stage.run()
    lines = stage.journal.read_bytes().splitlines(keepends=True)

    for kept in range(1, len(lines) + 1):
        stage.journal.write_bytes(b"".join(lines[:kept]))
        begun = {line["key_id"] for line in stage.lines()[1:]}
        missing = [arn for arn in stage.materials if arn not in begun]
        for arn in missing:
            _forget(stage, arn)
        before = stage.imports()

        run = await stage.run()

        assert ["imported"] * 4 == outcomes(run)
        assert {arn: count + (arn in missing) for arn, count in before.items()} == stage.imports()
        assert stage.materials == stage.at_kms()


@pytest.mark.parametrize(
    "events",
    [
        [Event.IMPORTING],
        [Event.IMPORTING, Event.UNKNOWN],
        [Event.IMPORTING, Event.NOT_IMPORTED],
        [Event.IMPORTING, Event.FAILED],
        [Event.IMPORTING, Event.NOT_IMPORTED, Event.IMPORTING],
    ],
)
async def test_an_import_that_never_reached_kms_is_made(stage: Stage, events: list[Event]) -> None:
    """The key is PendingImport, whatever the journal says: once the settling time is over, its row begins anew."""
    stage.prepare(1)
    (arn,) = stage.materials
    time = datetime.now(UTC)
    common = {"key_arn": arn, "key_state": "PendingImport"}
    stage.append(*(Entry(event=event, key_id=arn, time=time, **common) for event in events))

    run = await stage.run()

    assert ["imported"] == outcomes(run)
    assert 1 == stage.double.count(IMPORT)


async def test_a_key_that_someone_else_imported_into_is_not_taken_for_ours(stage: Stage) -> None:
    """Without an importing line of this journal, a key with material is a failure."""
    stage.prepare(1)
    await stage.run()
    header = stage.journal.read_bytes().splitlines(keepends=True)[0]
    stage.journal.write_bytes(header)

    run = await stage.run()

    assert ["failed"] == outcomes(run)
    assert 1 == stage.double.count(IMPORT)


async def test_material_that_expires_otherwise_is_not_ours(stage: Stage) -> None:
    """Someone else imported after our run had died: the outcome stays unknown."""
    stage.prepare(1)
    await stage.run()
    (arn,) = stage.materials
    first, second, _ = stage.journal.read_bytes().splitlines(keepends=True)
    stage.journal.write_bytes(first + second)
    stage.double.keys._keys[arn].valid_to = stage.double.now() + 86_400

    run = await stage.run()

    assert ["unknown"] == outcomes(run)
    assert 1 == stage.double.count(IMPORT)


async def test_an_expiration_is_recognised(stage: Stage) -> None:
    """KMS keeps milliseconds of it; it is ours all the same."""
    valid_to = datetime.now(UTC) + timedelta(days=2)
    stage.prepare(1, valid_to=valid_to.isoformat(), never_expires="")
    stage.double.lie(IMPORT, "close_after_work", times=1)

    run = await stage.run()

    assert ["imported"] == outcomes(run)
    assert 1 == stage.double.count(IMPORT)


@pytest.mark.parametrize("state", ["PendingDeletion", "Unavailable"])
async def test_a_state_that_tells_nothing_leaves_the_outcome_unknown(stage: Stage, state: str) -> None:
    """Neither imported nor to be sent again: a person has to look."""
    stage.prepare(1)
    (arn,) = stage.materials
    stage.append(
        Entry(event=Event.IMPORTING, key_id=arn, time=datetime.now(UTC), key_arn=arn, key_state="PendingImport")
    )
    stage.double.keys.set_state(arn, state)

    run = await stage.run()

    assert ["unknown"] == outcomes(run)
    assert 0 == stage.double.count(IMPORT)


def _forget(stage: Stage, arn: str) -> None:
    """Let KMS be as it was before the import."""
    key = stage.double.keys._keys[arn]
    key.state, key.present, key.materials = "PendingImport", False, []
