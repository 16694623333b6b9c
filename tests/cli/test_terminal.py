"""On a terminal there are tables, over mutual TLS there is an answer, and no broker can write on the screen."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from keyimport.cli.output import printable
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import Authority
from tests.cli.command import Command
from tests.client import openssl
from tests.client.fake_broker import KEY_ARN, KEY_ID, FakeBroker
from tests.client.test_channel import identity

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["identity"]


async def _on_terminal(command: Command, *arguments: str) -> str:
    master, slave = os.openpty()
    environment = command.environment | {"TERM": "xterm", "COLUMNS": "200"}
    environment.pop("NO_COLOR")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keyimport.cli", *arguments),
        cwd=command.folder,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    await process.wait()
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # the end, in the words of a terminal
        pass
    os.close(master)
    return shown.decode()


async def test_a_terminal_gets_a_table(command: Command) -> None:
    """Names stand out, and the commands are printed as they are run."""
    shown = await _on_terminal(command, "get", KEY_ID, "--out", "set")

    assert "\x1b[1mkey " in shown
    assert KEY_ARN in shown
    lines = shown.replace("\r\n", "\n").splitlines()
    assert any(
        line.startswith("( umask 077 && openssl pkeyutl -encrypt -pubin -inkey set/WrappingPublicKey.pem")
        for line in lines
    )


async def test_what_a_broker_says_does_not_steer_the_terminal(broker: FakeBroker, command: Command) -> None:
    """An escape sequence in an answer is shown as what it is not."""
    broker.status.key_state = "\x1b[2JEnabled\x07"

    shown = await _on_terminal(command, "status", KEY_ID)

    assert "\x1b[2J" not in shown
    assert "\N{REPLACEMENT CHARACTER}[2JEnabled\N{REPLACEMENT CHARACTER}" in shown


@pytest.mark.parametrize(("text", "shown"), [("a\nb\tc", "a b c"), ("\u202eabc", "\N{REPLACEMENT CHARACTER}abc")])
def test_text_stays_on_its_line_and_in_its_order(text: str, shown: str) -> None:
    """Neither a line feed nor a change of direction gets through."""
    assert printable(text) == shown


@pytest.mark.parametrize(("trusted", "host"), [(True, "127.0.0.1"), (False, "127.0.0.1"), (True, "127.0.0.2")])
async def test_mutual_tls_by_environment(
    *, trusted: bool, host: str, broker: FakeBroker, identity: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """The three files make a connection; a broker that they do not vouch for is out of reach, in one line."""
    server = grpc.aio.server()
    key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(broker, server)
    credentials = grpc.ssl_server_credentials([identity], identity[1], require_client_auth=True)
    port = server.add_secure_port(f"{host}:0", credentials)
    await server.start()
    (tmp_path / "key.pem").write_bytes(identity[0])
    (tmp_path / "certificate.pem").write_bytes(identity[1])
    (tmp_path / "ca.pem").write_bytes(identity[1] if trusted else Authority("another").pem)
    files = ("--ca", "ca.pem", "--certificate", "certificate.pem", "--private-key", "key.pem")

    proven = trusted and host == "127.0.0.1"
    outcome = await Command(folder=tmp_path, target=f"tcp:{host}:{port}")(
        "status", KEY_ID, *files, "--timeout", "10" if proven else "1"
    )
    await server.stop(None)

    assert outcome.code == (0 if proven else 8)
    assert outcome.err.count("\n") == (0 if proven else 1)
    assert ("Check --ca" in outcome.err) == (not proven)
    assert bool(broker.calls) == proven


async def test_a_broker_that_is_waited_for_is_told_of(offline: Command) -> None:
    """People learn at once that nobody answers; programs get the one object that they read."""
    for_people = await offline("status", KEY_ID, "--timeout", "3")
    for_programs = await offline("status", KEY_ID, "--timeout", "3", "--json")

    first, second = for_people.err.splitlines()
    assert first == "no broker answers yet; waiting up to 3 s"
    assert second.startswith("keyimport: UNAVAILABLE")
    assert for_programs.error["kind"] == "TRY_LATER"


async def test_a_slow_answer_is_no_broker_away(broker: FakeBroker, command: Command) -> None:
    """Whoever waits for KMS's quota is not told that nobody answers."""
    broker.pause = 2

    outcome = await command("status", KEY_ID)

    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize(
    ("flag", "content", "sentence"),
    [
        ("--ca", "key", "--ca: the file holds no certificate"),
        ("--certificate", "key", "--certificate: the file holds no certificate"),
        ("--private-key", "certificate", "--private-key: the file holds no private key"),
        ("--private-key", "another key", "--private-key: it is not the private key of --certificate"),
        ("--private-key", "encrypted key", "--private-key: the private key is encrypted"),
    ],
)
async def test_files_for_mutual_tls_are_looked_at(
    flag: str, content: str, sentence: str, identity: tuple[bytes, bytes], offline: Command
) -> None:
    """What is in the wrong place is told by its option, and not as a broker out of reach."""
    private_key = load_pem_private_key(identity[0], None)
    contents = {
        "key": identity[0],
        "certificate": identity[1],
        "another key": openssl.run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        "encrypted key": private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    }
    for name, one in contents.items():
        (offline.folder / name).write_bytes(one)
    files = {"--ca": "certificate", "--certificate": "certificate", "--private-key": "key"} | {flag: content}

    outcome = await offline(
        "status", KEY_ID, "--target", "tcp:127.0.0.1:1", *(part for one in files.items() for part in one)
    )

    assert outcome.code == 2
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1
