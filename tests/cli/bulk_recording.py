"""A session of `keyimport bulk` at a terminal, recorded as text: embedded KMS, real broker, 200 keys, a kill, a ^C."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.broker_process import broker_process
from demo.embedded_kms import ACCOUNT, REGION, embedded_kms, kms_client
from tests.cli.bulk_process import read_terminal
from tests.cli.bulk_stage import write_csv
from tests.key_work import assert_works_with, create_key
from tests.kms_proxy import kms_proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kms_proxy import KmsProxy

KEYS = 200
PER_SECOND = 10
COMMAND = "keyimport bulk keys.csv --report report.csv --wrapping-key-spec RSA_2048 --settling 5"
SETTINGS = f"""
[[listeners]]
address = "unix:broker.sock"
caller = "local"

[kms]
regions = ["{REGION}"]
account = "{ACCOUNT}"
endpoint = "ENDPOINT"
requests_per_second = {PER_SECOND}
"""

# How rich draws a live line anew, what colours it, and what hides the cursor.
_REDRAWN = re.compile(r"(?:\x1b\[1A)?\r?\x1b\[2K")
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_IMPORT = "ImportKeyMaterial"


async def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory(prefix="keybroker-bulk-") as name:
        folder = Path(name)
        async with embedded_kms() as endpoint, kms_proxy(endpoint) as proxy, kms_client(endpoint) as kms:
            materials = await _keys(kms, folder)
            config = folder / "broker.toml"
            config.write_text(SETTINGS.replace("ENDPOINT", proxy.endpoint).replace("unix:", f"unix:{folder}/"))
            target = f"unix:{folder}/broker.sock"
            async with broker_process(config, target, log=folder / "broker.log"):
                _say("$ head -3 keys.csv")
                _say("\n".join((folder / "keys.csv").read_text().splitlines()[:3]))
                await _at_terminal(folder, target, proxy, imports=40, end=_kill, how="killed (SIGKILL)")
                _say("\n$ tail -2 keys.csv.journal | cut -c-150")
                journal = (folder / "keys.csv.journal").read_text().splitlines()
                _say("\n".join(line[:150] for line in journal[-2:]))
                await _at_terminal(folder, target, proxy, imports=120, end=_interrupt, how="^C was pressed")
                await _at_terminal(folder, target, proxy)
                _say("\n$ cut -d, -f4,7 report.csv | sort | uniq -c")
                _say(_counted(folder / "report.csv"))
            for arn, material in materials.items():
                await assert_works_with(kms, arn, "SYMMETRIC_DEFAULT", material)
            imports = [call.key_id for call in proxy.calls if call.operation == _IMPORT]
            _say(f"\n# At KMS: {len(imports)} imports into {len(set(imports))} keys,")
            _say(f"# and {len(materials)} of {KEYS} keys encrypt with the material of their row.")


async def _keys(kms: Any, folder: Path) -> dict[str, bytes]:
    """Keys without material, a file of material for each, and the manifest."""
    materials = {}
    rows = []
    (folder / "keys").mkdir()
    for number in range(1, KEYS + 1):
        arn = await create_key(kms, "SYMMETRIC_DEFAULT")
        materials[arn] = secrets.token_bytes(32)
        (folder / f"keys/{number:03}.bin").write_bytes(materials[arn])
        rows.append({"key_id": arn, "material": f"keys/{number:03}.bin", "form": "raw", "never_expires": "true"})
    write_csv(folder / "keys.csv", rows)
    return materials


async def _at_terminal(
    folder: Path,
    target: str,
    proxy: KmsProxy,
    *,
    imports: int | None = None,
    end: Callable[[asyncio.subprocess.Process], None] = lambda _process: None,
    how: str = "",
) -> None:
    """Run the command at a terminal of its own, end it at the given number of imports, and tell what was seen."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keyimport.cli", *COMMAND.split()[1:]),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=os.environ | {"KEYIMPORT_TARGET": target, "COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(theirs)
    reading = asyncio.create_task(asyncio.to_thread(read_terminal, ours))
    if imports is not None:
        await proxy.reached(_IMPORT, imports)
        end(process)
    code = await process.wait()
    seen = await reading
    _say(f"\n$ {COMMAND}")
    _say(_frames(seen.replace(f"{folder}/", "")))
    _say(f"# {how + ', ' if how else ''}exit code {code if code >= 0 else 128 - code}")


def _kill(process: asyncio.subprocess.Process) -> None:
    process.kill()


def _interrupt(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGINT)


def _frames(seen: str) -> str:
    """What was on the screen in the end, and before it some of what the live line was."""
    frames = [_STEERING.sub("", frame).replace("\r", "") for frame in _REDRAWN.split(seen)]
    live, last = frames[1:-1], frames[-1]
    kept = [frame for number, frame in enumerate(live) if number % max(1, len(live) // 4) == 0 or "\n" in frame]
    return "\n".join(frame.rstrip() for frame in [*kept, last] if frame.strip())


def _counted(report: Path) -> str:
    lines = [",".join((cells := line.split(","))[3:4] + cells[6:7]) for line in report.read_text().splitlines()]
    return "\n".join(f"{lines.count(line):>7} {line}" for line in sorted(set(lines)))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
