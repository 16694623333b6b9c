"""The real `keybroker` command with settings in a real file: for what only a process has, signals and exits."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo.broker_process import end
from demo.embedded_kms import ACCOUNT, aws_environment

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

ENDS_WITHIN = 30.0  # seconds, on a busy machine

_LOGGED = re.compile(r"\{|[EWI][0-9]{4} ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended."""

    code: int | None
    output: str
    errors: str

    @property
    def told(self) -> list[str]:
        """The lines on standard error that are for a person: neither of our own log nor of gRPC's."""
        return [line for line in self.errors.splitlines() if not _LOGGED.match(line)]


def settings_file(path: Path, endpoint: str, *listeners: str, kms: str = "", more: str = "") -> Path:
    """Writes settings with these listeners, each the inside of a TOML table, and gives their path."""
    tables = "".join(f"[[listeners]]\n{listener}\n\n" for listener in listeners)
    regions = "" if "regions" in kms else 'regions = ["us-east-1"]\n'
    path.write_text(f'{tables}[kms]\nendpoint = "{endpoint}"\n{regions}{kms}\n\n{more}')
    return path


def unix(path: Path, caller: str = "local") -> str:
    """A Unix listener, as `settings_file` takes it."""
    return f'address = "unix:{path}"\ncaller = "{caller}"'


@asynccontextmanager
async def keybroker(*arguments: str | Path, account: str = ACCOUNT) -> AsyncIterator[Process]:
    """Starts `keybroker` with these arguments; at the end of the block it is gone.

    Args:
        arguments: the command line.
        account: the AWS account whose credentials the process has.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keybroker", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment | aws_environment(account),
    )
    try:
        yield process
    finally:
        await end(process)


async def exit_of(process: Process) -> Exit:
    """Waits until the process ends by itself."""
    async with asyncio.timeout(ENDS_WITHIN):
        output, errors = await process.communicate()
    return Exit(code=process.returncode, output=output.decode(), errors=errors.decode())


async def run(*arguments: str | Path, account: str = ACCOUNT) -> Exit:
    """Runs `keybroker` to its end."""
    async with keybroker(*arguments, account=account) as process:
        return await exit_of(process)
