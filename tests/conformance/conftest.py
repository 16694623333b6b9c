"""Drivers that run for the whole session, and the table of what each language has passed."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.drivers import LANGUAGES, Driver, driver

if TYPE_CHECKING:
    from collections.abc import Iterator

_passed: dict[str, dict[str, str]] = defaultdict(dict)


class Marks:
    """The table: rows in the order of their first mark, a column for each language."""

    def mark(self, row: str, language: str) -> None:
        """This language has passed."""
        _passed[row][language] = "ok"


@pytest.fixture(scope="session")
def drivers() -> Iterator[dict[str, Driver]]:
    """The driver of each language under test."""
    with ExitStack() as stack:
        yield {language: stack.enter_context(driver(language)) for language in LANGUAGES}


@pytest.fixture(scope="session")
def marks() -> Marks:
    """Where a test notes that a row of the table has been passed."""
    return Marks()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table where it is asked for with -v; a row is whole or says what is missing."""
    if not _passed or terminalreporter.config.getoption("verbose") < 1:
        return
    width = max(map(len, _passed))
    terminalreporter.section(f"{len(_passed)} rows of the conformance table")
    terminalreporter.line(" " * width + "".join(f" {language:>10}" for language in LANGUAGES))
    for row, columns in _passed.items():
        marks = "".join(f" {columns.get(language, 'MISSING'):>10}" for language in LANGUAGES)
        terminalreporter.line(f"{row:<{width}}{marks}")
