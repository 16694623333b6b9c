"""The processes that are measured: brokers with a KMS double behind them, and bare gRPC servers."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from demo.broker_process import broker_process, end
from tests.certificates import ALICE
from tests.conftest import until_serving
from tests.fleet.harness import new_seal_key
from tests.keybroker_process import settings_file, unix

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

REST = 0.5  # seconds from SERVING until a process counts as idle

_BARE_SERVER = Path(__file__).with_name("bare_server.py")
_TLS = 'tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }'
# RSA_2048 alone: by default callers who ask for nothing special get RSA_4096, and such keys take the double seconds.
_POLICY = '[policy]\nwrapping_key_specs = ["RSA_2048"]\n'
_CALLERS = f"""
[[callers]]
id = "local"
keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]
operations = ["GetParametersForImport"]

[[callers]]
id = "{ALICE}"
keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]
operations = ["GetParametersForImport"]
"""
_STORE = """
[store]
url = "{url}"
seal_keys = ["seal.key"]
fleet_size = 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a server came up.

    Attributes:
        seconds: from the process's creation until health said SERVING.
        mib: resident memory at rest.
    """

    seconds: float
    mib: float


def broker(directory: Path, endpoint: str, *, port: int = 0, store: str = "") -> AbstractAsyncContextManager[Process]:
    """Runs a broker until the context is left.

    Args:
        directory: private, and with a short path: the socket broker.sock is in it, and the files of the TLS listener.
        endpoint: KMS.
        port: of a TLS listener; 0 for none.
        store: the url of a store; empty for none.
    """
    listeners = [unix(directory / "broker.sock")]
    if port:
        listeners.append(f'address = "tcp:127.0.0.1:{port}"\n{_TLS}')
    if store:
        (directory / "seal.key").write_text(new_seal_key())
        (directory / "seal.key").chmod(0o600)
    more = _POLICY + _CALLERS + (_STORE.format(url=store) if store else "")
    rate = "requests_per_second = 1000.0"
    config = settings_file(directory / "keybroker.toml", endpoint, *listeners, kms=rate, more=more)
    return broker_process(config, f"unix:{directory}/broker.sock", log=directory / "broker.log")


@asynccontextmanager
async def bare_server(directory: Path, *, port: int = 0, answer: bytes = b"") -> AsyncIterator[Process]:
    """Runs a bare server until the context is left, at bare.sock in this directory; else as `broker`."""
    (directory / "answer").write_bytes(answer)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(_BARE_SERVER), str(directory), *([str(port)] if port else [])),
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        await _serving(f"unix:{directory}/bare.sock")
        yield process
    finally:
        await end(process)


async def start(server: AbstractAsyncContextManager[Process], target: str) -> Start:
    """Starts a server, leaves it alone for a while, and ends it."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        # Beside whatever waits for it in there, so that both kinds are looked at alike, every few milliseconds.
        serving = group.create_task(_serving(target))
        async with server as process:
            seconds = await serving - began
            await asyncio.sleep(REST)
            return Start(seconds=seconds, mib=_resident(process.pid))


async def _serving(target: str) -> float:
    """When health says SERVING."""
    backoff = [(f"grpc.{name}_reconnect_backoff_ms", 20) for name in ("initial", "max")]
    async with grpc.aio.insecure_channel(target, options=backoff) as channel:
        await until_serving(channel)
        return time.perf_counter()


def _resident(pid: int) -> float:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024
