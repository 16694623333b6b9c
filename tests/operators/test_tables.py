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


def test_every_module_has_its_place_in_the_guide() -> None:
    """Whoever looks for something is told where it is."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    modules = {module.stem for module in (ROOT / "service/keybroker").glob("*.py")} - {"__init__"}

    assert [name for name in sorted(modules) if f"`{_told_as(name)}`" not in guide] == []


def _told_as(module: str) -> str:
    return "settings_*" if module.startswith("settings_") else module
