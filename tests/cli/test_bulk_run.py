"""A run of a bulk import through the real broker: every row ends as it must, and none stops another."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from keyimport import KeyImportError
from keyimport.bulk.entries import Entry, Event
from keyimport.bulk.items import Item, Phase, tally
from keyimport.bulk.rows import parse
from tests.cli.bulk_stage import GET, IMPORT, Stage, outcomes, write_csv
from tests.client.fake_broker import KEY_ID
from tests.conftest import running, settings_for
from tests.kms_double import FAULTS
from tests.kms_gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from keyimport.bulk.run import Run
    from tests.conftest import RunningBroker
    from tests.kms_double import Exchange, KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]


@pytest.fixture
def on_stage(
    run_broker: RunBroker, double: KmsDouble, tmp_path: Path
) -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """A broker, with sections of settings of the test's own, and a stage before it."""

    @asynccontextmanager
    async def staged(**sections: object) -> AsyncIterator[Stage]:
        async with run_broker(**sections) as broker:
            yield Stage(folder=tmp_path, double=double, target=broker.target)

    return staged


@pytest.fixture
async def stage(on_stage: Callable[[], AbstractAsyncContextManager[Stage]]) -> AsyncIterator[Stage]:
    """A broker of ordinary settings and a stage before it."""
    async with on_stage() as stage:
        yield stage


async def test_every_key_gets_its_own_material(stage: Stage) -> None:
    """Each key holds what its row names, after one import; the journal tells fingerprint and material id."""
    stage.prepare(12)

    run = await stage.run()

    assert ["imported"] * 12 == outcomes(run)
    assert stage.materials == stage.at_kms()
    assert stage.once_each() == stage.imports()
    for item in run.items:
        assert item.end is not None
        assert (item.end.key_arn, item.end.public_key_sha256) in stage.double.keys.issued
        assert len(item.end.key_material_id) == 64
    assert [["importing", "imported"]] * 12 == [stage.events(arn) for arn in stage.materials]


async def test_a_second_run_sends_nothing(stage: Stage) -> None:
    """What is imported is left alone, and is in the report all the same."""
    stage.prepare(3)
    await stage.run()
    calls = len(stage.double.calls)

    run = await stage.run()

    assert ["imported"] * 3 == outcomes(run)
    assert calls == len(stage.double.calls)


async def test_the_journal_holds_no_secret(stage: Stage) -> None:
    """Neither material nor token nor wrapped material, in whatever encoding, is in a line of the journal."""
    stage.prepare(2)

    await stage.run()

    text = stage.journal.read_text()
    sent = [call.request for call in stage.double.calls if call.operation == IMPORT]
    for material in stage.materials.values():
        assert material.hex() not in text
    for request in sent:
        assert request["ImportToken"][:40] not in text
        assert request["EncryptedKeyMaterial"][:40] not in text
    assert 0o600 == stage.journal.stat().st_mode & 0o777


async def test_a_failed_row_does_not_stop_the_others(stage: Stage) -> None:
    """A key that takes no import is refused before quota is spent on it, and the next run tries it again."""
    stage.prepare(4)
    refused = list(stage.materials)[1]
    stage.double.keys.set_state(refused, "PendingDeletion")

    run = await stage.run()

    assert ["imported", "failed", "imported", "imported"] == outcomes(run)
    assert 3 == stage.double.count(GET)
    stage.double.keys.set_state(refused, "PendingImport")
    assert ["imported"] * 4 == outcomes(await stage.run())
    assert stage.once_each() == stage.imports()


@pytest.mark.parametrize(
    ("where", "events", "outcome"),
    [
        ("keyimport.bulk.importing.check_kind", ["failed"], "failed"),
        ("keyimport.bulk.importing.import_request", ["failed"], "failed"),
        ("keyimport.client.import_request", ["importing", "unknown"], "unknown"),
    ],
)
async def test_an_error_that_nobody_foresaw_ends_its_row_alone(
    *, where: str, events: list[str], outcome: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and whether an import may have been sent is what the journal says."""
    stage.prepare(3)
    module, _, name = where.rpartition(".")
    work = getattr(importlib.import_module(module), name)
    first = iter([True])

    def broken(*arguments: object, **more: object) -> object:
        if next(first, False):
            raise UnicodeError("a secret")
        return work(*arguments, **more)

    monkeypatch.setattr(where, broken)

    run = await stage.run()

    (broken_off,) = (item for item in run.items if item.outcome.value == outcome)
    assert ["imported"] * 2 == [item.outcome.value for item in run.items if item is not broken_off]
    assert events == stage.events(broken_off.row.key_id)
    assert broken_off.end is not None
    assert "an error in keyimport itself: UnicodeError" in broken_off.end.message
    assert "secret" not in stage.journal.read_text()
    assert 2 == stage.double.count(IMPORT)


async def test_a_key_with_material_needs_an_import_type(stage: Stage) -> None:
    """Only what is PendingImport is imported into, unless the row says what the material is."""
    stage.prepare(2)
    await stage.run()
    stage.journal.unlink()

    plain = await stage.run()
    stage.journal.unlink()
    rows = [
        {"key_id": arn, "material": f"{number}.bin", "form": "raw", "never_expires": "true", "import_type": kind}
        for number, (arn, kind) in enumerate(zip(stage.materials, ["EXISTING_KEY_MATERIAL", ""], strict=True))
    ]
    write_csv(stage.manifest, rows)
    typed = await stage.run()

    assert ["failed", "failed"] == outcomes(plain)
    assert ["imported", "failed"] == outcomes(typed)
    assert [2, 1] == list(stage.imports().values())


async def test_material_of_the_wrong_kind_is_never_sent(stage: Stage) -> None:
    """What the key's spec does not take is refused here."""
    stage.prepare(1)
    arn = stage.double.add_key("HMAC_512")
    (stage.folder / "hmac.bin").write_bytes(bytes(32))
    write_csv(stage.manifest, [{"key_id": arn, "material": "hmac.bin", "form": "raw", "never_expires": "true"}])

    run = await stage.run()

    assert ["failed"] == outcomes(run)
    assert 0 == stage.double.count(IMPORT)


async def test_a_refused_token_is_answered_once_by_a_new_set(stage: Stage) -> None:
    """Twice in a row it is a failure."""
    stage.prepare(1)
    stage.double.lie(IMPORT, "error:InvalidImportTokenException", times=1)

    once = await stage.run()

    (arn,) = stage.materials
    assert ["imported"] == outcomes(once)
    assert ["importing", "not_imported", "importing", "imported"] == stage.events(arn)
    stage.prepare(1)
    stage.journal.unlink()
    stage.double.lie(IMPORT, "error:InvalidImportTokenException", times=2)
    twice = await stage.run()
    assert ["failed"] == outcomes(twice)
    assert "IMPORT_TOKEN_INVALID" == twice.items[0].end.reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fault", "imports", "events"),
    [
        ("close_after_work", 1, ["importing", "unknown", "imported"]),
        ("truncated_json", 1, ["importing", "unknown", "imported"]),
        ("close_before_answer", 2, ["importing", "unknown", "not_imported", "importing", "imported"]),
    ],
)
async def test_a_lost_answer_is_found_out_by_the_keys_state(
    stage: Stage, fault: str, imports: int, events: list[str]
) -> None:
    """Imported is not sent again; PendingImport is, once the settling time is over."""
    stage.prepare(1)
    stage.double.lie(IMPORT, fault, times=1)

    run = await stage.run()

    (arn,) = stage.materials
    assert ["imported"] == outcomes(run)
    assert stage.materials == stage.at_kms()
    assert imports == stage.double.count(IMPORT)
    assert events == stage.events(arn)


async def test_imports_that_are_always_lost_end_as_a_failure(stage: Stage) -> None:
    """Each try spends quota: after three of them a person has to look, and the next run may try again."""
    stage.prepare(2)
    unlucky, _ = stage.materials
    lost = FAULTS["close_before_answer"].answer

    async def lose_one(exchange: Exchange) -> web.StreamResponse:
        if exchange.call.key_id == unlucky:
            return await lost(exchange)
        return exchange.success(await exchange.carry_out())

    stage.double.lie(IMPORT, lose_one)

    run = await stage.run()

    assert ["failed", "imported"] == outcomes(run)
    assert [3, 1] == list(stage.imports().values())
    assert "failed" == stage.events(unlucky)[-1]
    stage.double.honest()
    assert ["imported", "imported"] == outcomes(await stage.run())


async def test_a_lost_answer_of_a_key_that_had_material_stays_unknown(stage: Stage) -> None:
    """Enabled before and Enabled after says nothing: it is never sent again, and a person has to look."""
    stage.prepare(1)
    await stage.run()
    stage.journal.unlink()
    (arn,) = stage.materials
    cells = {"material": "0.bin", "form": "raw", "never_expires": "true", "import_type": "EXISTING_KEY_MATERIAL"}
    write_csv(stage.manifest, [{"key_id": arn} | cells])
    stage.double.lie(IMPORT, "close_after_work", times=1)

    first = await stage.run()
    second = await stage.run()

    assert ["unknown"] == outcomes(first)
    assert ["unknown"] == outcomes(second)
    assert 2 == stage.double.count(IMPORT)


async def test_a_key_that_is_still_pending_is_not_believed_at_once(stage: Stage) -> None:
    """An import that KMS is still at when the next run begins is not sent a second time."""
    stage.prepare(1)
    (arn,) = stage.materials
    gate = Gate(stage.double, IMPORT)
    first = asyncio.ensure_future(stage.run())
    await stage.double.reached(IMPORT)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    second = asyncio.ensure_future(stage.run(settling=30))
    await asyncio.sleep(0.5)
    gate.open()
    run = await second

    assert ["imported"] == outcomes(run)
    assert ["importing", "imported"] == stage.events(arn)
    assert 1 == stage.double.count(IMPORT)


async def test_throttling_is_waited_for(stage: Stage) -> None:
    """What can be tried later is no failure."""
    stage.prepare(2)
    stage.double.lie(GET, "throttle", times=1)

    run = await stage.run()

    assert ["imported"] * 2 == outcomes(run)


async def test_what_the_line_is_too_long_for_is_asked_for_again(
    on_stage: Callable[..., AbstractAsyncContextManager[Stage]],
) -> None:
    """Keys beyond a stream's deadline wait for the next, and KMS is asked for each key's set once."""
    async with on_stage(kms={"requests_per_second": 4.0}) as stage:
        stage.prepare(16)

        run = await stage.run(stream_seconds=1.5)

        assert ["imported"] * 16 == outcomes(run)
        assert 16 == stage.double.count(GET)
        assert stage.once_each() == stage.imports()


async def test_a_broker_that_restarts_is_waited_for(aws_credentials: None, double: KmsDouble, tmp_path: Path) -> None:
    """Streams and imports break off, and every key is imported once all the same."""
    _ = aws_credentials
    settings = settings_for(tmp_path, double.endpoint, kms={"requests_per_second": 8.0})
    stage = Stage(folder=tmp_path, double=double)
    stage.prepare(16)
    async with running(settings) as broker:
        stage.target = broker.target
        bulk = asyncio.ensure_future(stage.run())
        await double.reached(IMPORT, 4)

    async with running(settings):
        run = await bulk

    assert ["imported"] * 16 == outcomes(run)
    assert stage.once_each() == stage.imports()


async def test_a_stop_finishes_what_is_under_way(on_stage: Callable[..., AbstractAsyncContextManager[Stage]]) -> None:
    """Imports that were sent are in the journal with their end; no set is asked for any more; the next run goes on."""
    async with on_stage(kms={"requests_per_second": 4.0}) as stage:
        stage.prepare(10)
        gate = Gate(stage.double, IMPORT)
        runs: list[Run] = []
        finished = asyncio.ensure_future(stage.run(begun=runs.append))
        await stage.double.reached(IMPORT, 2)

        runs[0].stop()
        gate.open()
        run = await finished

        assert 10 > stage.double.count(GET)
        assert stage.double.count(IMPORT) == outcomes(run).count("imported")
        assert {"imported", "not_imported"} == set(outcomes(run))
        assert ["imported"] * 10 == outcomes(await stage.run())
        assert stage.once_each() == stage.imports()


async def test_material_is_generated_once(stage: Stage) -> None:
    """What was saved by a run that died is what the next run imports; the file is the person's alone."""
    arn = stage.double.add_key("HMAC_384")
    write_csv(stage.manifest, [{"key_id": arn, "generate": "HMAC_384", "save": "made.bin", "never_expires": "true"}])
    stage.append(Entry(event=Event.GENERATING, key_id=arn, time=datetime.now(UTC)))
    made = stage.folder / "made.bin"
    made.write_bytes(bytes(range(48)))

    run = await stage.run()

    assert ["imported"] == outcomes(run)
    assert bytes(range(48)) == stage.double.material(arn)
    other = stage.double.add_key("HMAC_384")
    stage.journal.unlink()
    write_csv(stage.manifest, [{"key_id": other, "generate": "HMAC_384", "save": "new.bin", "never_expires": "true"}])
    await stage.run()
    assert (stage.folder / "new.bin").read_bytes() == stage.double.material(other)
    assert 0o600 == (stage.folder / "new.bin").stat().st_mode & 0o777


async def test_a_file_that_appears_is_not_taken_for_what_was_generated(stage: Stage) -> None:
    """Without a generating line of the journal it is another's: the row fails, and nothing is sent."""
    arn = stage.double.add_key("HMAC_256")
    write_csv(stage.manifest, [{"key_id": arn, "generate": "HMAC_256", "save": "made.bin", "never_expires": "true"}])
    (stage.folder / "made.bin").write_bytes(bytes(32))

    run = await stage.run()

    assert ["failed"] == outcomes(run)
    assert 0 == stage.double.count(IMPORT)
    assert [["failed"]] == [stage.events(arn)]


async def test_an_expiration_reaches_kms(stage: Stage) -> None:
    """valid_to is imported as it was written."""
    valid_to = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    stage.prepare(1, valid_to=valid_to.isoformat(), never_expires="")

    await stage.run()

    (call,) = [call for call in stage.double.calls if call.operation == IMPORT]
    assert valid_to.timestamp() == call.request["ValidTo"]


def test_the_time_left_counts_those_that_are_not_in_the_line_yet() -> None:
    """The last turn that was told, or what as many requests as there are keys take, whichever is later."""
    row = parse(1, {"key_id": KEY_ID, "material": "x", "form": "raw", "never_expires": "true"}, [])
    assert row is not None
    told = [Item(row=row, phase=Phase.ASKED, turn=turn, pace=1.0) for turn in (11.0, 12.0)]
    others = [Item(row=row, phase=Phase.ASKED), Item(row=row, phase=Phase.ASKED), Item(row=row, phase=Phase.NEW)]

    left = [tally(told + others, 10.0).left, tally(told, 5.0).left, tally(others, 10.0).left]

    assert [4.0, 7.0, None] == left


async def test_without_a_broker_nothing_is_begun(
    double: KmsDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong socket is told at once rather than waited for."""
    monkeypatch.setattr("keyimport.bulk.run.GREETING_SECONDS", 1.0)
    stage = Stage(folder=tmp_path, double=double, target=f"unix:{tmp_path}/none.sock")
    stage.prepare(1)

    with pytest.raises(KeyImportError):
        await stage.run()

    assert 1 == len(stage.lines())
