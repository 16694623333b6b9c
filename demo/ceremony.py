"""`make demo`: the whole ceremony, from a key without material to a secret decrypted with the material imported."""

import asyncio
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from demo.broker_process import broker_process
from demo.embedded_kms import ACCOUNT, REGION, embedded_kms, kms_client
from keyimport import (
    ForeignAccount,
    KeyImportClient,
    KeyImportError,
    Parameters,
    ParametersSource,
    WrappingAlgorithm,
    WrappingAlgorithmDeprecated,
    WrappingKeySpec,
)
from tests.kms_proxy import KmsProxy, kms_proxy

CALLERS = 50
MESSAGE = b"The root key is ours, and KMS never saw it unwrapped on the wire."

SETTINGS = """
[[listeners]]
address = "unix:{directory}/keybroker.sock"
caller = "local"

[kms]
regions = ["{region}"]
account = "{account}"
endpoint = "{endpoint}"
requests_per_second = 1
"""


def say(text: str = "") -> None:
    """Tell the person at the terminal."""
    print(text, flush=True)


def step(number: int, title: str) -> None:
    """Begin a step of the ceremony."""
    say(f"\n{number}. {title}")


def show(**facts: object) -> None:
    """Print facts in a column."""
    for name, value in facts.items():
        say(f"     {name.replace('_', ' '):<14} {value}")


async def main() -> int:
    """Hold the ceremony; the exit code."""
    say("keybroker: a key of yours goes into KMS, through a broker that never sees it.")
    async with stage() as (kms, proxy, client):
        step(2, "A key without material is created in KMS (origin EXTERNAL)")
        key = (await kms.create_key(Origin="EXTERNAL", Description="demo"))["KeyMetadata"]
        show(key=key["Arn"], state=key["KeyState"])

        step(3, "The broker hands out a parameter set: a wrapping public key and its import token")
        parameters = await client.get_parameters(key["KeyId"])
        show_parameters(parameters)

        step(4, "Asked again, it answers from its cache")
        again = await client.get_parameters(key["Arn"])
        show(source=source(again), the_same_set=again.import_token == parameters.import_token)

        step(5, f"{CALLERS} callers ask for a new key's set at once")
        crowded = (await kms.create_key(Origin="EXTERNAL"))["KeyMetadata"]
        before = proxy.count("GetParametersForImport")
        sets = await asyncio.gather(*(client.get_parameters(crowded["Arn"]) for _ in range(CALLERS)))
        calls = proxy.count("GetParametersForImport") - before
        show(callers=CALLERS, KMS_calls=calls, distinct_sets=len({each.import_token for each in sets}))

        step(6, "What policy forbids is refused before KMS is asked")
        await show_refused(
            "RSAES_PKCS1_V1_5",
            WrappingAlgorithmDeprecated,
            client.get_parameters(key["Arn"], wrapping_algorithm="RSAES_PKCS1_V1_5"),
        )
        foreign = key["Arn"].replace(ACCOUNT, "444455556666")
        await show_refused("another account's key", ForeignAccount, client.get_parameters(foreign))

        step(7, "32 bytes of key material are made here, wrapped here, and imported")
        material = secrets.token_bytes(32)
        imported = await client.import_key_material(key["Arn"], material, never_expires=True)
        state = (await kms.describe_key(KeyId=key["Arn"]))["KeyMetadata"]["KeyState"]
        show(wrapped_under=imported.public_key_sha256.hex(), state=state)
        after = await client.get_parameters(key["Arn"])
        show(set_consumed=after.import_token != parameters.import_token, next_set_from=source(after))

        step(8, "The key does its work")
        sealed = (await kms.encrypt(KeyId=key["Arn"], Plaintext=MESSAGE))["CiphertextBlob"]
        opened = (await kms.decrypt(KeyId=key["Arn"], CiphertextBlob=sealed))["Plaintext"]
        show(encrypted=f"{len(sealed)} bytes, {sealed[-12:].hex()}...")
        step(9, "Everything is shut down")
    good = opened == MESSAGE and calls == 1
    say(f"\nDecrypted with the imported key: {opened.decode()}")
    return 0 if good else 1


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Any, KmsProxy, KeyImportClient]]:
    """Everything the ceremony needs: KMS, a proxy that counts, the broker as a process, a client."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keybroker-demo-")))
        step(1, "An embedded KMS and the broker start, on this machine only")
        endpoint = await stack.enter_async_context(embedded_kms())
        proxy = await stack.enter_async_context(kms_proxy(endpoint))
        config = directory / "keybroker.toml"
        config.write_text(SETTINGS.format(directory=directory, region=REGION, account=ACCOUNT, endpoint=proxy.endpoint))
        target = f"unix:{directory}/keybroker.sock"
        await stack.enter_async_context(broker_process(config, target, log=directory / "keybroker.log"))
        show(embedded_KMS=endpoint, broker=target, account=f"{ACCOUNT} (as STS says, and the settings)")
        kms = await stack.enter_async_context(kms_client(endpoint))
        client = await stack.enter_async_context(KeyImportClient(target))
        yield kms, proxy, client


def show_parameters(parameters: Parameters) -> None:
    """Print a set as an operator would want to see it."""
    show(
        algorithm=WrappingAlgorithm.Name(parameters.wrapping_algorithm).removeprefix("WRAPPING_ALGORITHM_"),
        spec=WrappingKeySpec.Name(parameters.wrapping_key_spec).removeprefix("WRAPPING_KEY_SPEC_"),
        fingerprint=parameters.fingerprint,
        valid_until=parameters.parameters_valid_to.isoformat(timespec="seconds"),
        source=source(parameters),
    )


def source(parameters: Parameters) -> str:
    """Where a set came from, in a word."""
    return ParametersSource.Name(parameters.source).removeprefix("PARAMETERS_SOURCE_")


async def show_refused(what: str, expected: type[KeyImportError], call: Any) -> None:
    """Print a refusal; anything else ends the demo."""
    try:
        await call
    except expected as refusal:
        say(f"     {what}: {refusal.reason}")
        return
    raise SystemExit(f"{what} was not refused")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
