"""The image runs: read-only, without privileges, through a whole ceremony, to an orderly end."""

from __future__ import annotations

import asyncio
import secrets
import signal
import statistics
import time
from typing import TYPE_CHECKING

from demo.embedded_kms import ACCOUNT, aws_environment, kms_client
from keyimport import KeyImportClient
from tests.image.conftest import SETTINGS
from tests.image.container import container

if TYPE_CHECKING:
    from tests.image.container import Container, Image

STOPS_WITHIN = 5.0
ROUNDS = 5

TRY_TO_WRITE = """
import os, sys
written = []
for directory, names, _ in os.walk("/"):
    names[:] = [name for name in names if os.path.join(directory, name) not in ("/proc", "/sys")]
    try:
        with open(os.path.join(directory, "tried"), "w"):
            written.append(directory)
    except OSError:
        pass
print(os.getuid(), os.getgid(), os.getgroups(), *written)
"""

SERVE_HEALTH = """
import asyncio, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

async def main():
    server = grpc.aio.server()
    health = aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port("unix:/run/keybroker/keybroker.sock")
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


async def test_a_key_is_imported_through_the_containers_socket(broker: Container, kms_endpoint: str) -> None:
    """The demo's ceremony holds: a parameter set, material wrapped on the host, an import, and the key works."""
    await broker.serving()
    material, message = secrets.token_bytes(32), b"hello"
    async with kms_client(kms_endpoint) as kms, KeyImportClient(broker.socket) as client:
        key = (await kms.create_key(Origin="EXTERNAL"))["KeyMetadata"]["Arn"]
        parameters = await client.get_parameters(key)
        again = await client.get_parameters(key)
        imported = await client.import_key_material(key, material, never_expires=True)
        state = (await kms.describe_key(KeyId=key))["KeyMetadata"]["KeyState"]
        sealed = (await kms.encrypt(KeyId=key, Plaintext=message))["CiphertextBlob"]
        opened = (await kms.decrypt(KeyId=key, CiphertextBlob=sealed))["Plaintext"]
    assert again.import_token == parameters.import_token
    assert imported.key_arn == key
    assert state == "Enabled"
    assert opened == message
    assert f'"key_arn":"{key}"' in broker.told().replace(" ", "")


async def test_the_broker_has_no_privileges_and_none_to_gain(broker: Container) -> None:
    """It is process 1, of the image's user, with no capabilities in effect and no way to new ones."""
    await broker.serving()
    assert broker.status("Uid").split() == ["65532"] * 4
    assert broker.status("Gid").split() == ["65532"] * 4
    assert int(broker.status("CapEff"), 16) == 0
    assert int(broker.status("CapPrm"), 16) == 0
    assert broker.status("NoNewPrivs") == "1"
    assert broker.status("NSpid").split()[-1] == "1"


async def test_nothing_but_the_sockets_directory_can_be_written(image: Image) -> None:
    """On a read-only root, the image's user writes to /run/keybroker and nowhere else."""
    async with container(image, command=["python", "-c", TRY_TO_WRITE]) as tried:
        assert await tried.ends() == 0
    user, group, groups, *written = tried.told_at_end.split()
    assert (user, group) == ("65532", "65532")
    assert groups in ("[]", "[65532]")
    assert written == ["/run/keybroker"]


async def test_the_image_itself_gives_its_user_nothing_else_to_write(image: Image) -> None:
    """The same holds on a root that is not read-only: by ownership and mode alone."""
    async with container(image, command=["python", "-c", TRY_TO_WRITE], root="rw") as tried:
        assert await tried.ends() == 0
    assert tried.told_at_end.split()[3:] == ["/run/keybroker"]


async def test_the_health_check_tells_a_broker_that_serves_from_none(image: Image, broker: Container) -> None:
    """HEALTHCHECK's command ends with 0 beside a broker that serves, and with 1 after its end."""
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"  # no shell to run CMD-SHELL with
    await broker.serving()
    async with container(image, command=check, beside=broker) as healthy:
        assert await healthy.ends() == 0
    broker.send(signal.SIGTERM)
    await broker.ends()
    async with container(image, command=check, beside=broker) as sick:
        assert await sick.ends() == 1


async def test_the_stop_signal_ends_it_in_time_with_0(image: Image, broker: Container) -> None:
    """An idle broker is gone soon after the image's stop signal, and its socket with it."""
    assert image.config["StopSignal"] == "SIGTERM"
    await broker.serving()
    began = time.monotonic()
    broker.send(signal.SIGTERM)
    assert await broker.ends() == 0
    assert time.monotonic() - began < STOPS_WITHIN
    assert not (broker.home / "sockets" / "keybroker.sock").exists()


async def test_settings_are_checked_and_seal_keys_made_in_the_image(image: Image) -> None:
    """The commands that need no broker work in it as well."""
    config = "/etc/keybroker/keybroker.toml"
    async with container(image, command=["keybroker", "check-config", "--config", config]) as empty:
        assert await empty.ends() == 2
    settings = SETTINGS.format(endpoint="http://127.0.0.1:1")
    async with container(image, settings=settings, command=["keybroker", "check-config", "--config", config]) as good:
        assert await good.ends() == 0
    async with container(image, command=["keybroker", "seal-key"]) as made:
        assert await made.ends() == 0
    assert made.told_at_end.startswith("keybroker-seal-1:")


async def test_starts_and_rests_beside_a_bare_server(image: Image, kms_endpoint: str) -> None:
    """Prints time to SERVING and memory at rest, beside a gRPC server that has health and nothing else."""
    times: dict[str, list[float]] = {"broker": [], "bare": []}
    memory: dict[str, list[float]] = {"broker": [], "bare": []}
    settings = SETTINGS.format(endpoint=kms_endpoint)
    for _ in range(ROUNDS):
        for name, command in (("broker", None), ("bare", ["python", "-c", SERVE_HEALTH])):
            environment = aws_environment(ACCOUNT)
            async with container(image, settings=settings, command=command, environment=environment) as running:
                times[name].append(await running.serving())
                await asyncio.sleep(0.5)
                memory[name].append(int(running.status("VmRSS").split()[0]) / 1024)
    second, mebibyte = (
        {name: statistics.median(values) for name, values in table.items()} for table in (times, memory)
    )
    print(f"\nmedians of {ROUNDS}, taken in turns:")
    print(f"  start to SERVING  broker {second['broker']:.2f} s, bare server {second['bare']:.2f} s", end="")
    print(f", ratio {second['broker'] / second['bare']:.2f}")
    print(f"  resident, idle    broker {mebibyte['broker']:.0f} MiB, bare server {mebibyte['bare']:.0f} MiB", end="")
    print(f", ratio {mebibyte['broker'] / mebibyte['bare']:.2f}")
    assert mebibyte["broker"] < 256
