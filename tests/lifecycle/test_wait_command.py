"""`keybroker wait`: returns when a broker is SERVING, and says in its exit code and in one line why it does not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keybroker.wait import wait
from tests.certificates import Authority, Shape, TlsFiles
from tests.keybroker_process import Exit, exit_of, keybroker, run, settings_file, unix
from tests.kms_double import kms_double
from tests.kms_gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STS = "GetCallerIdentity"
LONG = "30s"  # what a wait is given that is not to end by its own timeout


@contextlib.asynccontextmanager
async def _broker(directory: Path, *listeners: str) -> AsyncIterator[Gate]:
    """A broker process whose STS does not answer until the gate is opened."""
    async with kms_double() as double:
        gate = Gate(double, STS)
        config = settings_file(
            directory / "keybroker.toml", double.endpoint, unix(directory / "broker.sock"), *listeners
        )
        async with keybroker("serve", "--config", config):
            await double.reached(STS)
            yield gate


async def _wait(target: str, seconds: str, *more: str | Path) -> Exit:
    return await run("wait", "--target", target, "--timeout", seconds, *more)


async def test_it_returns_once_the_broker_is_serving(tmp_path: Path) -> None:
    """Not while STS has not answered, and by itself when it has."""
    target = f"unix:{tmp_path}/broker.sock"
    async with _broker(tmp_path) as gate:
        before = await _wait(target, "1")
        waiting = asyncio.ensure_future(_wait(target, LONG))
        await asyncio.sleep(0.5)  # so that the wait has begun before there is anything to see
        gate.open()
        during = await waiting
        after = await _wait(target, LONG)

    assert (before.code, before.output) == (1, "")
    assert before.errors == f"{target} is not SERVING after 1 s: NOT_SERVING\n"
    assert (during.code, during.output, during.errors) == (0, "", "")
    assert (after.code, after.output, after.errors) == (0, "", "")


async def test_it_waits_for_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    """As in an init container, which is started before anything else."""
    async with keybroker("wait", "--target", f"unix:{tmp_path}/broker.sock", "--timeout", LONG) as waiting:
        await asyncio.sleep(1)
        async with _broker(tmp_path) as gate:
            gate.open()
            ended = await exit_of(waiting)

    assert (ended.code, ended.output, ended.errors) == (0, "", "")


@pytest.mark.parametrize("seconds", ["0", "0.5s"])
async def test_nobody_there_is_an_exit_code_of_one(tmp_path: Path, seconds: str) -> None:
    """A socket that does not exist, a socket left behind, and a port where nobody listens."""
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(stale))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    targets = [f"unix:{tmp_path}/none.sock", f"unix:{stale}", f"tcp:127.0.0.1:{port}"]

    ended = [await _wait(target, seconds) for target in targets]

    assert [one.code for one in ended] == [1, 1, 1]
    for one, target in zip(ended, targets, strict=True):
        assert one.output == ""
        assert one.errors.startswith(f"{target} is not SERVING after {seconds.removesuffix('s')} s: ")
        assert len(one.errors.splitlines()) == 1


async def test_mutual_tls(tmp_path: Path) -> None:
    """With the caller's certificate it is as on a socket; without one, or with a stranger's, nobody is SERVING."""
    server_ca, client_ca = Authority("server CA"), Authority("client CA")
    TlsFiles.write(tmp_path, server_ca.server(), client_ca)
    for name, identity in (("client", client_ca.client()), ("stranger", Authority("other CA").client())):
        (tmp_path / f"{name}.pem").write_bytes(identity.pem)
        (tmp_path / f"{name}.key").write_bytes(identity.key_pem)
    (tmp_path / "ca.pem").write_bytes(server_ca.pem)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tls = 'tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }'
    target = f"tcp:localhost:{port}"

    def files(name: str) -> list[str | Path]:
        pem, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        return ["--ca", tmp_path / "ca.pem", "--certificate", pem, "--private-key", key]

    async with _broker(tmp_path, f'address = "tcp:127.0.0.1:{port}"\n{tls}') as gate:
        before = await _wait(target, "1", *files("client"))
        gate.open()
        good = await _wait(target, LONG, *files("client"))
        stranger = await _wait(target, "1", *files("stranger"))
        nobody = await _wait(target, "1")

    assert (good.code, good.errors) == (0, "")
    assert [before.code, stranger.code, nobody.code] == [1, 1, 1]
    assert before.errors.endswith(": NOT_SERVING\n")
    for refused in (stranger, nobody):
        assert "NOT_SERVING" not in refused.errors
        assert len(refused.errors.splitlines()) == 1


async def test_mutual_tls_at_localhost(tmp_path: Path) -> None:
    """As a health check in the broker's container has it: the certificate has another name, which the check is told."""
    server_ca, client_ca = Authority("server CA"), Authority("client CA")
    names = x509.SubjectAlternativeName([x509.DNSName("broker.internal")])
    for_servers = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    TlsFiles.write(tmp_path, server_ca.mint(Shape(san=names, extensions=[(for_servers, False)])), client_ca)
    client = client_ca.client()
    for name, content in (("ca.pem", server_ca.pem), ("client.pem", client.pem), ("client.key", client.key_pem)):
        (tmp_path / name).write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tls = 'tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }'
    pem, key = tmp_path / "client.pem", tmp_path / "client.key"
    more: list[str | Path] = ["--ca", tmp_path / "ca.pem", "--certificate", pem, "--private-key", key]
    target = f"tcp:localhost:{port}"

    async with _broker(tmp_path, f'address = "tcp:127.0.0.1:{port}"\n{tls}') as gate:
        gate.open()
        told = await _wait(target, LONG, *more, "--server-name", "broker.internal")
        other = await _wait(target, "1", *more, "--server-name", "broker.example")
        untold = await _wait(target, "1", *more)

    assert (told.code, told.errors) == (0, "")
    assert [other.code, untold.code] == [1, 1]


class _Slow(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped
    """Answers as a busy machine does."""

    async def Check(self, *_: object) -> health_pb2.HealthCheckResponse:  # noqa: N802 -- gRPC's name
        await asyncio.sleep(0.5)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


async def test_asking_once_gives_the_broker_time_to_answer(tmp_path: Path) -> None:
    """As much as each of many calls has."""
    server, address = grpc.aio.server(), f"unix:{tmp_path}/slow.sock"
    health_pb2_grpc.add_HealthServicer_to_server(_Slow(), server)
    server.add_insecure_port(address)
    await server.start()
    try:
        said = await asyncio.to_thread(wait, address, tls=None, timeout=0)
    finally:
        await server.stop(None)

    assert said is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: --target"),
        (["--target", "unix:/run/k.sock", "--timeout", "soon"], "'soon' is no number of seconds such as 60 or 60s"),
        (["--target", "unix:/run/k.sock", "--timeout", "-1"], "'-1' is no number of seconds such as 60 or 60s"),
        (["--target", "unix:/run/k.sock", "--timeout", "nan"], "'nan' is no number of seconds such as 60 or 60s"),
        (["--target", "tcp:localhost:1", "--ca", "ca.pem"], "mutual TLS needs --ca, --certificate and --private-key"),
        (
            ["--target", "tcp:h:1", "--server-name", "broker"],
            "mutual TLS needs --ca, --certificate and --private-key",
        ),
        (
            ["--target", "tcp:h:1", "--ca", "none.pem", "--certificate", "c.pem", "--private-key", "k.pem"],
            "none.pem: cannot be read: No such file or directory",
        ),
    ],
)
async def test_bad_arguments_are_an_exit_code_of_two(arguments: list[str], sentence: str) -> None:
    """At once, with a sentence and no traceback."""
    ended = await run("wait", *arguments)

    assert (ended.code, ended.output) == (2, "")
    assert ended.errors.splitlines()[-1].endswith(sentence)
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize("target", ["nonsense", "http://localhost:80", "unix:", "tcp:", "tcp:localhost", ""])
async def test_a_target_that_is_none_is_never_serving(target: str) -> None:
    """Whatever is written there, the command ends with one line."""
    ended = await _wait(target, "0.5")

    assert ended.code in {1, 2}
    assert ended.output == ""
    assert len(ended.errors.splitlines()) == 1
    assert "Traceback" not in ended.errors


async def test_it_is_the_command_that_is_installed() -> None:
    """`keybroker` and `python -m keybroker` are one."""
    process = await asyncio.create_subprocess_exec(
        f"{sys.prefix}/bin/keybroker", "wait", "--help", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()

    assert process.returncode == 0
    assert b"--target ADDRESS" in output
