"""Runs `keyimport` as people do: a process, its two outputs, its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: its exit code.
        out: its standard output.
        err: its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """What the one JSON object on standard error says."""
        return json.loads(self.err)["error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`keyimport` in a folder, with a target in its environment.

    Attributes:
        folder: where it runs.
        target: the broker.
    """

    folder: Path
    target: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment it runs in: no setting of whoever runs the tests gets there."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYIMPORT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
        return kept | {"KEYIMPORT_TARGET": self.target, "PATH": path, "PYTHONWARNINGS": "error", "NO_COLOR": "1"}

    async def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Outcome:
        """Run it to its end."""
        return await self._run(sys.executable, "-m", "keyimport.cli", *map(str, arguments), stdin=stdin)

    async def shell(self, script: str) -> Outcome:
        """Run a script by bash, as a person would who copies it from a screen."""
        return await self._run("bash", "-euo", "pipefail", "-c", script, stdin=b"")

    async def done(self, *arguments: str | Path, stdin: bytes = b"") -> Outcome:
        """Run it; fails unless it succeeds and has nothing to complain of."""
        outcome = await self(*arguments, stdin=stdin)
        assert outcome.code == 0, outcome.err
        return outcome

    def files(self) -> set[str]:
        """Every path in the folder."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    async def _run(self, *arguments: str, stdin: bytes) -> Outcome:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Outcome(code=process.returncode, out=out.decode(), err=err.decode())
