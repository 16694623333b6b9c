"""The embedded KMS comes up, does what the demo needs of it, and goes away."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from demo.embedded_kms import ACCOUNT, EmbeddedKmsError, aws_environment, embedded_kms, kms_client
from tests.key_work import KEY_SPECS, assert_works_with, create_key, new_material
from tests.kms_ceremony import get, put


async def test_comes_up_and_goes_away(tmp_path: Path) -> None:
    """An EXTERNAL key is created in the account that signs, and afterwards no one listens."""
    log = tmp_path / "kms.log"

    async with embedded_kms(log) as endpoint, kms_client(endpoint) as kms:
        metadata = (await kms.create_key(Origin="EXTERNAL"))["KeyMetadata"]

    assert metadata["KeyState"] == "PendingImport"
    assert metadata["Arn"].startswith(f"arn:aws:kms:us-east-1:{ACCOUNT}:key/")
    assert log.read_bytes()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) != 0


async def test_two_stand_side_by_side() -> None:
    """Each has its own port and its own keys; the access key id is the account, the client says the Region."""
    async with embedded_kms() as one, embedded_kms() as other, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(kms_client(endpoint, account, region))
            for endpoint, account, region in (
                (one, ACCOUNT, "us-east-1"),
                (one, "222233334444", "us-east-1"),
                (one, ACCOUNT, "eu-west-1"),
                (other, ACCOUNT, "us-east-1"),
            )
        ]
        arn = (await clients[0].create_key(Origin="EXTERNAL"))["KeyMetadata"]["Arn"]

        seen = [await _sees(client, arn) for client in clients]

    assert seen == [True, False, False, False]


async def test_says_why_it_did_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with the last words of the process."""
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho out of order\nexit 3\n")
    script.chmod(0o700)
    monkeypatch.setenv("KEYBROKER_EMBEDDED_KMS", str(script))

    with pytest.raises(EmbeddedKmsError, match=r"status 3(?s:.*)out of order"):
        async with embedded_kms():
            pass


async def test_says_that_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing executable is an error of its own kind."""
    monkeypatch.setenv("KEYBROKER_EMBEDDED_KMS", str(tmp_path / "nothing"))

    with pytest.raises(EmbeddedKmsError, match="does not run"):
        async with embedded_kms():
            pass


async def test_ends_with_the_task_that_needs_it(tmp_path: Path) -> None:
    """A cancelled user takes the process along."""
    up = asyncio.Event()
    endpoints: list[str] = []

    async def use() -> None:
        async with embedded_kms(tmp_path / "kms.log") as endpoint:
            endpoints.append(endpoint)
            up.set()
            await asyncio.Event().wait()

    user = asyncio.create_task(use())
    await asyncio.wait_for(up.wait(), 30)
    user.cancel()
    await asyncio.wait([user])

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(endpoints[0].rpartition(":")[2]))) != 0


async def test_uses_the_very_material() -> None:
    """Every kind of key can be imported, and what it then computes only the imported bytes explain."""
    async with embedded_kms() as endpoint, kms_client(endpoint) as kms:
        for spec in KEY_SPECS:
            material = new_material(spec)
            arn = await create_key(kms, spec)
            algorithm = "RSA_AES_KEY_WRAP_SHA_256" if spec.startswith(("RSA_", "ECC_")) else "RSAES_OAEP_SHA_256"

            await put(kms, await get(kms, arn, algorithm), material, algorithm)

            await assert_works_with(kms, arn, spec, material)


def test_environment_names_the_account() -> None:
    """The access key id carries the account, and nothing points at anyone's own files."""
    environment = aws_environment("222233334444")

    assert environment["AWS_ACCESS_KEY_ID"] == "222233334444"
    assert environment["AWS_CONFIG_FILE"] == environment["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"


async def _sees(kms: Any, arn: str) -> bool:
    try:
        await kms.describe_key(KeyId=arn)
    except ClientError:
        return False
    return True
