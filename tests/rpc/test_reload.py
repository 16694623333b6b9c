"""SIGHUP: policy and callers come anew, all or nothing, and nobody notices but those it concerns."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from demo.broker_process import broker_process
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import read_refusal
from tests.keybroker_process import ENDS_WITHIN, exit_of, keybroker
from tests.kms_double import kms_double

if TYPE_CHECKING:
    from pathlib import Path

BROKEN = {
    "no TOML": "listeners = [",
    "a bad value": '[policy]\nwrapping_algorithms = ["RSAES_PKCS1_V1_5"]\n',
    "no callers' keys": '[[callers]]\nid = "alice"\nkeys = []\noperations = ["GetParametersForImport"]\n',
    "an unknown setting": "[polcy]\n",
    "empty": "",
}


def _settings(tmp_path: Path, endpoint: str, rest: str) -> str:
    return f"""
        listeners = [{{ address = "unix:{tmp_path}/alice.sock", caller = "alice" }}]
        kms = {{ regions = ["us-east-1"], endpoint = "{endpoint}", requests_per_second = 100 }}
        audit = {{ file = "{tmp_path}/audit.log" }}
        {rest}
    """


def _grant(operations: list[str]) -> str:
    return (
        f'[[callers]]\nid = "alice"\nkeys = ["arn:aws:kms:us-east-1:111122223333:key/*"]\noperations = {operations}\n'
    )


async def _until_logged(log: Path, text: str, times: int = 1) -> None:
    async with asyncio.timeout(20):
        while log.read_text().count(text) < times:
            await asyncio.sleep(0.02)


async def _outcome(stub: Any, arn: str) -> str:
    try:
        await stub.GetParametersForImport(
            pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
        )
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason or str(error.code())
    return "OK"


async def test_a_reload_takes_rights_away_and_gives_them_back(tmp_path: Path) -> None:
    """The next request is judged by the new rules, and its audit line names them."""
    config, log = tmp_path / "keybroker.toml", tmp_path / "keybroker.log"
    async with kms_double() as double:
        config.write_text(_settings(tmp_path, double.endpoint, _grant(["GetParametersForImport"])))
        target, arn = f"unix:{tmp_path}/alice.sock", double.add_key()
        async with (
            broker_process(config, target, log=log) as process,
            grpc.aio.insecure_channel(target) as channel,
        ):
            stub = key_import_pb2_grpc.KeyImportServiceStub(channel)
            outcomes = [await _outcome(stub, arn)]
            for times, operations in enumerate((["ImportKeyMaterial"], ["GetParametersForImport"]), start=1):
                config.write_text(_settings(tmp_path, double.endpoint, _grant(operations)))
                process.send_signal(signal.SIGHUP)
                await _until_logged(log, "policy and callers reloaded", times)
                outcomes.append(await _outcome(stub, arn))

    versions = [json.loads(line)["config_version"] for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert outcomes == ["OK", "CALLER_NOT_AUTHORIZED", "OK"]
    assert versions[0] == versions[2] != versions[1]


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_file_changes_nothing_and_fails_nobody(tmp_path: Path, broken: str) -> None:
    """Under load, with the file replaced by a broken one: every request is served, and the log says what is wrong."""
    config, log = tmp_path / "keybroker.toml", tmp_path / "keybroker.log"
    async with kms_double() as double:
        good = _settings(tmp_path, double.endpoint, _grant(["GetParametersForImport"]))
        config.write_text(good)
        target, arn = f"unix:{tmp_path}/alice.sock", double.add_key()
        async with (
            broker_process(config, target, log=log) as process,
            grpc.aio.insecure_channel(target) as channel,
        ):
            stub = key_import_pb2_grpc.KeyImportServiceStub(channel)
            stop = asyncio.Event()
            load = [asyncio.ensure_future(_load(stub, arn, stop)) for _ in range(8)]
            config.write_text(BROKEN[broken] if broken in ("no TOML", "empty") else good + BROKEN[broken])
            process.send_signal(signal.SIGHUP)
            await _until_logged(log, "settings not reloaded, the last good ones are kept")
            still_good = await _outcome(stub, arn)
            stop.set()
            outcomes = [outcome for batch in await asyncio.gather(*load) for outcome in batch]

    assert still_good == "OK"
    assert set(outcomes) == {"OK"}


async def _load(stub: Any, arn: str, stop: asyncio.Event) -> list[str]:
    outcomes = []
    while not stop.is_set():
        outcomes.append(await _outcome(stub, arn))
    return outcomes


async def test_a_hangup_before_it_listens_ends_nothing(tmp_path: Path) -> None:
    """Whoever renews a file tells the broker, which may just have been started and be reading its settings."""
    config = tmp_path / "keybroker.toml"
    os.mkfifo(config)
    async with keybroker("serve", "--config", config) as process:
        async with asyncio.timeout(ENDS_WITHIN):
            while True:
                with suppress(OSError):  # until it reads
                    writing = os.open(config, os.O_WRONLY | os.O_NONBLOCK)
                    break
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        os.write(writing, b"no settings")
        os.close(writing)
        ended = await exit_of(process)

    assert ended.code == 2
    assert ended.errors.startswith(f"{config}: is no TOML")
