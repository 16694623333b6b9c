"""A KMS of one's own on the loopback: a MiniStack process, for as long as it is needed."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

ACCOUNT = "111122223333"
REGION = "us-east-1"

_START_SECONDS = 30.0
_GRACE_SECONDS = 5.0
_ATTEMPTS = 3
_TAIL_LINES = 20


class EmbeddedKmsError(Exception):
    """The embedded KMS did not come up; the message ends with what it wrote last."""


@asynccontextmanager
async def embedded_kms(log: Path | None = None) -> AsyncIterator[str]:
    """Run an embedded KMS and give its endpoint's URL; its keys are gone when the context is left.

    Args:
        log: The file that takes what the process writes, instead of a temporary one.

    Raises:
        EmbeddedKmsError: it is not installed, ended at once, or did not answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="keybroker-kms-") as directory:
        home = Path(directory)
        process, endpoint = await _started(home, log or home / "kms.log")
        try:
            yield endpoint
        finally:
            await _end(process)


@asynccontextmanager
async def aws_client(service: str, endpoint: str, account: str = ACCOUNT, region: str = REGION) -> AsyncIterator[Any]:
    """Give an aiobotocore client of a service that acts in the account and sends every request once."""
    config = AioConfig(
        connect_timeout=2,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 1},  # whoever counts calls wants to see each
        proxies={},
    )
    async with get_session().create_client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=account,
        aws_secret_access_key="embedded",  # noqa: S106  nothing checks it
        config=config,
    ) as client:
        yield client


@asynccontextmanager
async def kms_client(endpoint: str, account: str = ACCOUNT, region: str = REGION) -> AsyncIterator[Any]:
    """Give a KMS client, to create keys and use them with."""
    async with aws_client("kms", endpoint, account, region) as client:
        yield client


def aws_environment(account: str = ACCOUNT) -> dict[str, str]:
    """The environment variables that make a process act in the account, and look nowhere else for who it is.

    Add them to an environment without other AWS_ variables: botocore stops at an AWS_PROFILE that it cannot find.
    """
    return {
        "AWS_ACCESS_KEY_ID": account,  # an emulator takes the account from here
        "AWS_SECRET_ACCESS_KEY": "embedded",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


async def _started(home: Path, log: Path) -> tuple[asyncio.subprocess.Process, str]:
    # Between finding a free port and listening on it another process may take it: then it ends, and tries anew.
    for _ in range(_ATTEMPTS):
        port = _free_port()
        process = await _spawn(home, log, port)
        endpoint = f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(_START_SECONDS):
                if await _answers(process, endpoint):
                    return process, endpoint
        except BaseException as error:
            await _end(process)
            if isinstance(error, TimeoutError):
                raise EmbeddedKmsError(f"the embedded KMS did not answer:\n{_tail(log)}") from error
            raise
    raise EmbeddedKmsError(f"the embedded KMS ended with status {process.returncode} at start:\n{_tail(log)}")


async def _spawn(home: Path, log: Path, port: int) -> asyncio.subprocess.Process:
    executable = os.environ.get("KEYBROKER_EMBEDDED_KMS") or _beside_the_checkout()
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home),
        "STATE_DIR": str(home),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "kms,sts",
        "IOT_MTLS_ENABLED": "0",
        # At start MiniStack clears away containers it takes for its own; a socket that is not there stops it.
        "DOCKER_HOST": f"unix://{home}/no-docker.sock",
    }
    with log.open("ab") as output:
        try:
            return await asyncio.create_subprocess_exec(
                executable, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=home
            )
        except OSError as error:
            raise EmbeddedKmsError(f"the embedded KMS does not run: {error}") from error


async def _answers(process: asyncio.subprocess.Process, endpoint: str) -> bool:
    async with aws_client("sts", endpoint) as sts:
        while process.returncode is None:
            with suppress(BotoCoreError, ClientError):
                identity = await sts.get_caller_identity()
                if identity["Account"] != ACCOUNT:
                    raise EmbeddedKmsError(f"the embedded KMS takes {ACCOUNT} for {identity['Account']}")
                return process.returncode is None
            await asyncio.sleep(0.05)
    return False


async def _end(process: asyncio.subprocess.Process) -> None:
    for stop in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_SECONDS):
                await process.wait()
                return


def _beside_the_checkout() -> str:
    return str(Path(__file__).resolve().parents[1] / ".venv-kms" / "bin" / "ministack")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
