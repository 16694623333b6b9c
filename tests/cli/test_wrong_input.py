"""Whatever is wrong: one line that names it, the exit code of its kind, no trace-back, nothing half-written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyimport.cli.exits import MEANINGS, Exit
from tests.cli import wrong_answers, wrong_files, wrong_usage
from tests.cli.wrong_input import CANARY, Case, Stage, staged

if TYPE_CHECKING:
    from keyimport import WrappingKeySpec
    from tests.cli.command import Command
    from tests.client.fake_broker import FakeBroker

CASES = [*wrong_usage.CASES, *wrong_files.CASES, *wrong_answers.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_wrong_input_is_told_in_one_line(
    case: Case, command: Command, broker: FakeBroker, public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """The line names what is wrong, and what is there afterwards is what was there before."""
    before = staged(case, Stage(folder=command.folder, broker=broker, public_keys=public_keys))

    outcome = await command(*case.arguments)

    assert outcome.code == case.code, outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("keyimport: ")
    assert case.names in outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "\x1b" not in outcome.err
    assert CANARY[:6].decode() not in outcome.err
    assert CANARY.hex()[:8] not in outcome.err
    assert command.files() == before


@pytest.mark.parametrize("case", {case.code: case for case in CASES}.values(), ids=lambda case: case.name)
async def test_programs_are_told_in_json(
    case: Case, command: Command, broker: FakeBroker, public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """One object on standard error says the same, for each kind of failure."""
    staged(case, Stage(folder=command.folder, broker=broker, public_keys=public_keys))

    outcome = await command(*case.arguments, "--json")

    assert outcome.code == case.code
    assert outcome.out == ""
    assert outcome.error["code"] == case.code
    assert outcome.error["kind"] == case.code.name
    assert case.names in outcome.error["message"] + outcome.error["next_step"]


def test_every_kind_of_failure_is_tried() -> None:
    """Each exit code of a failure is in the table above, but for those that no input leads to."""
    untried = {Exit.OK, Exit.INTERNAL, Exit.NOT_TOLD, Exit.DECLINED, Exit.INTERRUPTED}

    assert {case.code for case in CASES} == set(MEANINGS) - untried
