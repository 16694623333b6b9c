"""From start to end: listening at once, ready when AWS lets it be, refusing to start for cause, and leaving no mess."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from keybroker import aws, front
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of, running, settings_for, until_serving
from tests.keybroker_process import exit_of, keybroker, run, settings_file, unix
from tests.kms_gate import Gate
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

SERVICE = "keyimport.v1.KeyImportService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STS = "GetCallerIdentity"
PATIENCE = 20.0  # seconds, on a busy machine

# What befalls STS, and the reason that callers are told meanwhile.
STS_FAULTS = {
    "hang": "KMS_UNAVAILABLE",
    "slow_drip": "KMS_UNAVAILABLE",
    "close_before_answer": "KMS_UNAVAILABLE",
    "html_503": "KMS_UNAVAILABLE",
    "redirect_307": "KMS_UNAVAILABLE",
    "empty_object": "KMS_UNAVAILABLE",
    "throttle": "KMS_UNAVAILABLE",
    "error:AccessDeniedException": "KMS_UNAVAILABLE",
    "error:ExpiredToken": "BROKER_CREDENTIALS",
}


def _get(arn: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)


async def _health(channel: grpc.aio.Channel) -> list[int]:
    """What health says of the process and of the service; waits until someone listens."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    checks = [health_pb2.HealthCheckRequest(service=name) for name in ("", SERVICE)]
    return [(await health.Check(check, wait_for_ready=True, timeout=PATIENCE)).status for check in checks]


@pytest.mark.parametrize(("fault", "reason"), STS_FAULTS.items())
async def test_serves_when_sts_does(
    run_broker: RunBroker, double: KmsDouble, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    """However STS fails, the broker listens, says it is not ready and when to come back; then it is, by itself."""
    double.lie(STS, fault)
    arn = double.add_key()
    with monkeypatch.context() as patch:
        patch.setattr(aws, "READ_LIMIT", 0.2)
        async with asyncio.timeout(PATIENCE), run_broker(ready=False) as broker:
            await double.reached(STS, 2)  # so the first attempt has failed
            before = await _health(broker.channel)
            refused = await refusal_of(broker.stub.GetParametersForImport(_get(arn)))
            patch.undo()
            double.honest()
            await until_serving(broker.channel)
            after = await _health(broker.channel)
            answer = await broker.stub.GetParametersForImport(_get(arn))

    assert before == [NOT_SERVING, NOT_SERVING]
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
    assert refused.retry_after
    assert after == [SERVING, SERVING]
    assert answer.key_arn == arn
    assert double.redirect_target_hits == 0


async def test_listens_before_sts_has_answered(run_broker: RunBroker, double: KmsDouble) -> None:
    """Nothing that AWS does or leaves undone keeps the socket closed."""
    double.lie(STS, "hang")
    async with run_broker(ready=False) as broker:
        health = await _health(broker.channel)
        refused = await refusal_of(broker.stub.GetParametersForImport(_get(double.add_key())))

    assert health == [NOT_SERVING, NOT_SERVING]
    assert refused.reason == "KMS_UNAVAILABLE"
    assert refused.retry_after


async def test_every_rpc_waits_for_readiness(run_broker: RunBroker, double: KmsDouble) -> None:
    """Before the account is known nothing is decided and nothing is sent, whatever the RPC."""
    double.lie(STS, "hang")
    arn = double.add_key()
    async with run_broker(ready=False) as broker:
        await _health(broker.channel)
        refusals = [
            await refusal_of(call)
            for call in (
                broker.stub.GetParametersForImport(_get(arn)),
                broker.stub.ImportKeyMaterial(
                    pb.ImportKeyMaterialRequest(
                        key_id=arn, import_token=b"t", encrypted_key_material=bytes(256), never_expires=True
                    )
                ),
                broker.stub.DeleteImportedKeyMaterial(pb.DeleteImportedKeyMaterialRequest(key_id=arn)),
                broker.stub.DiscardParameters(pb.DiscardParametersRequest(key_id=arn, import_token=b"t")),
            )
        ]

    assert [refusal.reason for refusal in refusals] == ["KMS_UNAVAILABLE"] * 4
    assert {call.operation for call in double.calls} <= {STS}


async def test_unreachable_sts_is_not_fatal(run_broker: RunBroker, double: KmsDouble) -> None:
    """A port where nobody listens is one more way not to answer."""
    arn = double.add_key()
    async with run_broker(ready=False, kms={"sts_endpoint": "http://127.0.0.1:1"}) as broker:
        health = await _health(broker.channel)
        refused = await refusal_of(broker.stub.GetParametersForImport(_get(arn)))

    assert health == [NOT_SERVING, NOT_SERVING]
    assert refused.reason == "KMS_UNAVAILABLE"


@pytest.mark.parametrize(
    ("kms", "sentence"),
    [
        ('account = "222233334444"', "kms.account: is 222233334444, but the credentials belong to 111122223333"),
        ('regions = ["cn-north-1"]', "kms.regions: cn-north-1 is not in aws, where the credentials belong"),
    ],
)
async def test_settings_that_contradict_sts_end_the_process(
    tmp_path: Path, double: KmsDouble, kms: str, sentence: str
) -> None:
    """Exit 1, one sentence that names the setting, no traceback, and no socket left behind."""
    config = settings_file(tmp_path / "keybroker.toml", double.endpoint, unix(tmp_path / "broker.sock"), kms=kms)

    ended = await run("serve", "--config", config)

    assert ended.code == 1
    assert ended.told == [sentence]
    assert "Traceback" not in ended.errors
    assert not (tmp_path / "broker.sock").exists()


async def test_an_audit_file_that_cannot_be_opened_ends_the_process(tmp_path: Path, double: KmsDouble) -> None:
    """Exit 1, one sentence that names the setting, no traceback, and no socket left behind."""
    audit = f'[audit]\nfile = "{tmp_path}/missing/audit.jsonl"\n'
    config = settings_file(tmp_path / "keybroker.toml", double.endpoint, unix(tmp_path / "broker.sock"), more=audit)

    ended = await run("serve", "--config", config)

    assert ended.code == 1
    assert "Traceback" not in ended.errors
    assert len(ended.told) == 1
    assert ended.told[0].startswith("audit.file: ")
    assert not (tmp_path / "broker.sock").exists()


@contextlib.asynccontextmanager
async def _serving(tmp_path: Path, endpoint: str) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    """A `keybroker serve` process that listens, and a channel to its socket."""
    config = settings_file(tmp_path / "keybroker.toml", endpoint, unix(tmp_path / "broker.sock"))
    async with (
        keybroker("serve", "--config", config) as process,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/broker.sock") as channel,
    ):
        await _health(channel)
        yield process, channel


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_request_in_flight_survives_the_signal(
    tmp_path: Path, double: KmsDouble, number: signal.Signals
) -> None:
    """Health says NOT_SERVING, the request completes, the process ends with 0 and leaves no socket."""
    arn = double.add_key()
    gate = Gate(double, "ImportKeyMaterial")
    async with _serving(tmp_path, double.endpoint) as (process, channel):
        await until_serving(channel)
        stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        parameters = await stub.GetParametersForImport(_get(arn))
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        seen = [(await watch.read()).status]
        importing = asyncio.ensure_future(stub.ImportKeyMaterial(_import(parameters, bytes(32))))
        await double.reached("ImportKeyMaterial")

        process.send_signal(number)
        seen.append((await watch.read()).status)
        gate.open()
        imported = await importing
        watch.cancel()
        ended = await exit_of(process)

    assert seen == [SERVING, NOT_SERVING]
    assert imported.key_arn == arn
    assert double.material(arn) == bytes(32)
    assert ended.code == 0
    assert ended.told == []
    assert not (tmp_path / "broker.sock").exists()


async def test_an_import_outlives_its_caller_at_the_end_too(tmp_path: Path, double: KmsDouble) -> None:
    """The caller is gone, KMS still works, the signal comes: the import is seen through before the process ends."""
    arn = double.add_key()
    gate = Gate(double, "ImportKeyMaterial")
    async with _serving(tmp_path, double.endpoint) as (process, channel):
        await until_serving(channel)
        stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        parameters = await stub.GetParametersForImport(_get(arn))
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        await watch.read()
        importing = stub.ImportKeyMaterial(_import(parameters, bytes(32)))
        await double.reached("ImportKeyMaterial")
        importing.cancel()

        process.send_signal(signal.SIGTERM)
        await watch.read()
        watch.cancel()
        with contextlib.suppress(TimeoutError):  # time enough for a process that would not wait
            await asyncio.wait_for(process.wait(), 1)
        gate.open()
        ended = await exit_of(process)

    assert double.material(arn) == bytes(32)
    assert gate.abandoned == 0
    assert ended.code == 0


def _import(parameters: Any, material: bytes) -> pb.ImportKeyMaterialRequest:
    return pb.ImportKeyMaterialRequest(
        key_id=parameters.key_arn,
        import_token=parameters.import_token,
        encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", material),
        never_expires=True,
    )


async def test_a_signal_during_the_start_is_a_clean_end(tmp_path: Path, double: KmsDouble) -> None:
    """STS hangs, the signal comes: exit 0, nothing to read, no socket left."""
    double.lie(STS, "hang")
    async with _serving(tmp_path, double.endpoint) as (process, _):
        await double.reached(STS)
        process.send_signal(signal.SIGTERM)
        ended = await exit_of(process)

    assert ended.code == 0
    assert ended.told == []
    assert "Traceback" not in ended.errors
    assert not (tmp_path / "broker.sock").exists()


async def test_an_open_watch_holds_up_no_stop(
    aws_credentials: None, tmp_path: Path, double: KmsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load balancers keep a Watch open for ever: the drain waits for requests, not for them."""
    _ = aws_credentials
    monkeypatch.setattr(front, "DRAIN", 3600.0)
    async with (
        asyncio.timeout(PATIENCE),
        running(settings_for(tmp_path, double.endpoint)) as broker,
        grpc.aio.insecure_channel(broker.target) as balancer,
    ):
        health: Any = health_pb2_grpc.HealthStub(balancer)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        seen = [(await watch.read()).status]
        answer = await broker.stub.GetParametersForImport(_get(double.add_key()))
        broker.app.stop()
        seen.append((await watch.read()).status)
        await watch.code()

    assert answer.import_token
    assert seen == [SERVING, NOT_SERVING]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_tells_the_services_and_the_file(run_broker: RunBroker, version: str) -> None:
    """Tools that know only one of the two versions see the same: every service, and key_import.proto as it is."""
    ask = reflection_pb2.ServerReflectionRequest
    async with run_broker() as broker:
        names, by_symbol, by_name = await _reflected(
            broker.channel,
            version,
            [
                ask(list_services=""),
                ask(file_containing_symbol=SERVICE),
                ask(file_by_filename="keyimport/v1/key_import.proto"),
            ],
        )

    assert {service.name for service in names.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    own = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(own)
    for answer in (by_symbol, by_name):
        files = [FileDescriptorProto.FromString(one) for one in answer.file_descriptor_response.file_descriptor_proto]
        assert own in files


async def _reflected(
    channel: grpc.aio.Channel, version: str, requests: list[reflection_pb2.ServerReflectionRequest]
) -> list[Any]:
    """The answers of one stream. v1's messages are v1alpha's, byte for byte."""
    call: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in call(iter(requests))]


async def test_check_config_says_good(tmp_path: Path) -> None:
    """Exit 0 without a look at AWS or at the socket."""
    config = settings_file(tmp_path / "good.toml", "http://127.0.0.1:1", unix(tmp_path / "nowhere" / "broker.sock"))

    ended = await run("check-config", "--config", config)

    assert (ended.code, ended.output, ended.errors) == (0, f"{config}: good\n", "")


def _text(address: str = "unix:/run/k.sock", listener: str = "", kms: str = "") -> str:
    return (
        f'[[listeners]]\naddress = "{address}"\ncaller = "local"\n{listener}\n[kms]\nregions = ["us-east-1"]\n{kms}\n'
    )


@pytest.mark.parametrize("command", ["check-config", "serve"])
@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (_text(kms='acount = "111122223333"'), ["kms.acount: is no setting; did you mean account?"]),
        (
            _text(address="unix:k.sock"),
            ['listeners[0].address: must hold an absolute path, as in "unix:/run/keybroker/keybroker.sock"'],
        ),
        (
            _text(address="tcp:0.0.0.0:7443", listener="plaintext = true"),
            ["listeners[0]: plaintext is for loopback addresses only"],
        ),
        (
            _text(address="tcp:0.0.0.0:7443"),
            ["listeners[0]: a tcp listener needs tls, or `plaintext = true` and a loopback address"],
        ),
        (
            _text(listener='mode = "0888"', kms="queue = 0"),
            [
                'listeners[0].mode: must be octal permissions such as "0660"',
                "kms.queue: should be greater than or equal to 1, not 0",
            ],
        ),
        ("", ["listeners: is missing", "kms: is missing"]),
    ],
)
async def test_bad_settings_are_named_by_path(tmp_path: Path, command: str, text: str, sentences: list[str]) -> None:
    """Exit 2, and on standard error one line for each fault: its path and a sentence, no traceback."""
    config = tmp_path / "bad.toml"
    config.write_text(text)

    ended = await run(command, "--config", config)

    assert (ended.code, ended.output, ended.errors.splitlines()) == (2, "", sentences)


@pytest.mark.parametrize("content", [None, b"[kms\n", b"\xff\xfe"])
async def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing, broken or not even text: exit 2 and one line that begins with the file's name."""
    config = tmp_path / "broken.toml"
    if content is not None:
        config.write_bytes(content)

    ended = await run("check-config", "--config", config)

    assert ended.code == 2
    assert ended.errors.startswith(f"{config}: ")
    assert len(ended.errors.splitlines()) == 1
