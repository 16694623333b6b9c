"""The tables of settings and metrics in docs/ are those of the code."""

from __future__ import annotations

import subprocess
import sys

from tests.operators.given import ROOT


def test_the_tables_are_those_of_the_code() -> None:
    """If not: scripts/docs-tables writes them."""
    script = str(ROOT / "scripts/docs-tables")

    command = [sys.executable, script, "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- our own

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
