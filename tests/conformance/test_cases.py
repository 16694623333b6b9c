"""Every case of the table, in every language: the same answers, errors, retries and refusals."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections import Counter, deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from keyimport import KeyImportError, WrappingAlgorithm, WrappingKeySpec
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import ALICE, Authority, Identity, Shape, TlsFiles, uris
from tests.client.fake_broker import KEY_ARN, Failure, FakeBroker, packed
from tests.client.lies import LIES
from tests.conformance.cases import STEP_WORDS, Case, filled, load, mismatches
from tests.conformance.drivers import ALL_LANGUAGES, LANGUAGES
from tests.kms_wrapping import next_wrapping_key, spki

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conformance.conftest import Marks
    from tests.conformance.drivers import Driver
    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

CASES = load()
SENTENCE = "A sentence for the caller."
WRAPPING = {"wrapping_algorithm": "RSAES_OAEP_SHA_256", "wrapping_key_spec": "RSA_4096"}
CALLERS = [
    {
        "id": caller,
        "keys": ["arn:aws:kms:us-east-1:*:key/*"],
        "operations": ["GetParametersForImport", "ImportKeyMaterial"],
    }
    for caller in (ALICE, "local")
]


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


@dataclass(slots=True, kw_only=True)
class World:
    """Who a case's client talks to.

    Attributes:
        connect: the driver's request.
        known: what `$names` stand for.
        calls: how often each operation reached KMS, or each RPC the scripted broker.
        material: what a key holds.
        put_forward: moves KMS's clock.
    """

    connect: dict[str, Any]
    known: dict[str, Any]
    calls: Callable[[], Counter[str]] = Counter
    material: Callable[[str], bytes | None] = lambda _arn: None
    put_forward: Callable[[float], None] = lambda _seconds: None
    scripted: FakeBroker | None = field(default=None)


def _known(arn: str, **more: str) -> dict[str, Any]:
    valid_to = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    return {
        "key": arn,
        "key_id": arn.rpartition("/")[2],
        "material": _encoded(secrets.token_bytes(32)),
        "large": _encoded(bytes(191)),
        "pem": _encoded(b"-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"),
        "token": _encoded(secrets.token_bytes(1000)),
        "ciphertext": _encoded(secrets.token_bytes(512)),
        "in_30_days": valid_to.isoformat().replace("+00:00", "Z"),
        **more,
    }


@asynccontextmanager
async def _live(case: Case, run_broker: RunBroker, double: KmsDouble, directory: Path) -> AsyncIterator[World]:
    """A broker of our own before the double."""
    arn = double.add_key(**case.key)
    double.keys.single_use = case.single_use
    for operation, fault, times in case.kms:
        double.lie(operation, fault, times)
    listeners: list[dict[str, Any]] = [{"address": f"unix:{directory}/broker.sock", "caller": "local"}]
    sections = dict(case.settings)
    connect: dict[str, Any] = {"do": "connect", "target": listeners[0]["address"]}
    if case.broker == "tcp":
        listeners.append({"address": "tcp:127.0.0.1:0", "plaintext": True, "caller": "local"})
    if case.broker == "mtls":
        ours, clients = Authority(), Authority()
        tls = TlsFiles.write(directory, ours.server(), clients)
        listeners.append({"address": "tcp:127.0.0.1:0", "tls": tls.setting()})
        sections["callers"] = CALLERS
        connect |= _client_files(case.client, ours, clients, directory)
    async with run_broker(listeners=listeners, **sections) as broker:
        if case.broker != "live":
            connect["target"] = f"tcp:localhost:{broker.app.ports[1]}"
        yield World(
            connect=connect,
            known=_known(arn, other_key=double.add_key()),
            calls=lambda: Counter(call.operation for call in double.calls),
            material=double.material,
            put_forward=double.advance,
        )


def _client_files(client: str, ours: Authority, clients: Authority, directory: Path) -> dict[str, str]:
    identities: dict[str, Identity] = {
        "alice": clients.client(),
        "who trusts another CA": clients.client(),
        "of two names": clients.mint(Shape(san=uris(ALICE, ALICE + "/more"))),
    }
    trusted = Authority() if client == "who trusts another CA" else ours
    files = {
        "ca": trusted.pem,
        "certificate": identities[client].pem,
        "private_key": identities[client].key_pem,
    }
    for name, content in files.items():
        (directory / f"client-{name}.pem").write_bytes(content)
    return {name: str(directory / f"client-{name}.pem") for name in files}


def _failure(row: dict[str, Any]) -> Failure:
    code = grpc.StatusCode[row["code"]]
    if row.get("damaged"):
        return Failure(code=code, trailer=b"\xff\xff\xff")
    if "reason" not in row:
        return Failure(code=code, trailer=None)
    messages: list[Any] = [ErrorInfo(reason=row["reason"], domain=row.get("domain", "keyimport"))]
    if "retry_ms" in row:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(row["retry_ms"])
        messages.append(retry)
    # Code and message once more, as a real broker has them: grpc-go throws away what contradicts the status.
    status = Status(code=code.value[0], message=SENTENCE, details=packed(messages))
    return Failure(code=code, trailer=status.SerializeToString(), message=SENTENCE)


@asynccontextmanager
async def _scripted(case: Case, directory: Path) -> AsyncIterator[World]:
    """A broker that does as it is told."""
    specs = {
        WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048: 2048,
        WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096: 4096,
    }
    broker = FakeBroker(
        public_keys={spec: spki(await next_wrapping_key(bits)) for spec, bits in specs.items()},
        default=(
            WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256,
            WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096,
        ),
    )
    known = _known(KEY_ARN)
    broker.sets[base64.b64decode(known["token"])] = pb.GetParametersForImportResponse()
    broker.failures = {rpc: deque(map(_failure, rows)) for rpc, rows in case.failures.items()}
    broker.stalled = set(case.stalled)
    if case.lie:
        broker.lie = LIES[case.lie][0]
    server = grpc.aio.server()
    key_import_pb2_grpc.add_KeyImportServiceServicer_to_server(broker, server)
    target = f"unix:{directory}/scripted.sock"
    server.add_insecure_port(target)
    await server.start()
    try:
        yield World(
            connect={"do": "connect", "target": target},
            known=known,
            calls=lambda: Counter(broker.calls),
            scripted=broker,
        )
    finally:
        await server.stop(None)


@asynccontextmanager
async def _silent(directory: Path) -> AsyncIterator[World]:
    """Takes connections, reads, and never says a word."""
    accepted: set[asyncio.StreamWriter] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.add(writer)
        while await reader.read(65_536):
            pass

    server = await asyncio.start_unix_server(accept, f"{directory}/silent.sock")
    async with server:
        yield World(connect={"do": "connect", "target": f"unix:{directory}/silent.sock"}, known=_known(KEY_ARN))
        for writer in accepted:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def _world(case: Case, run_broker: RunBroker, double: KmsDouble, directory: Path) -> AsyncIterator[World]:
    match case.broker:
        case "scripted":
            manager: AbstractAsyncContextManager[World] = _scripted(case, directory)
        case "silent":
            manager = _silent(directory)
        case "nobody":
            nowhere = {"do": "connect", "target": f"unix:{directory}/nobody.sock"}
            yield World(connect=nowhere, known=_known(KEY_ARN))
            return
        case _:
            manager = _live(case, run_broker, double, directory)
    async with manager as world:
        yield world


async def _take(step: dict[str, Any], driver: Driver, world: World) -> list[str]:
    """Has one step taken; what was not as it was to be."""
    world.put_forward(step.get("kms_ahead_seconds", 0))
    request = {name: filled(value, world.known) for name, value in step.items() if name not in STEP_WORDS}
    answer = await driver.do(request)
    kind = "error" if "error" in step else "ok"
    if kind not in answer:
        return [f"{request['do']} gives {answer}"]
    found = mismatches(filled(step.get(kind, {}), world.known), answer[kind])
    for name, value in filled(step.get("differs", {}), world.known).items():
        if answer[kind][name] == value:
            found.append(f"{name} is still {value}")
    if "retry_after_ms" in step:
        least, most = step["retry_after_ms"]
        if not least <= (answer[kind]["retry_after_ms"] or 0) <= most:
            found.append(f"retry_after_ms is {answer[kind]['retry_after_ms']}")
    if "as" in step:
        world.known[step["as"]] = answer[kind]
    return [f"{request['do']}: {each}" for each in found]


def test_the_table_has_every_reason() -> None:
    """A reason of the API that no case provokes would be one that a client may have forgotten."""
    told = {step["error"].get("reason") for case in CASES for step in case.steps if "error" in step}
    reasons = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118

    assert reasons - told == set()


def test_the_table_knows_the_languages() -> None:
    """A name that is misspelt would be a language nobody tried."""
    assert set(LANGUAGES) - set(ALL_LANGUAGES) == set()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", [case for case in CASES if case.steps], ids=lambda case: case.name)
async def test_a_case(  # noqa: PLR0917 -- fixtures
    case: Case,
    language: str,
    drivers: dict[str, Driver],
    marks: Marks,
    run_broker: RunBroker,
    double: KmsDouble,
    tmp_path: Path,
) -> None:
    """Each step is answered as the table says, and KMS was asked no more than it says."""
    async with _world(case, run_broker, double, tmp_path) as world:
        started = time.monotonic()
        assert "ok" in await drivers[language].do(world.connect)
        found = [each for step in case.steps for each in await _take(step, drivers[language], world)]
        took = time.monotonic() - started
        calls = {operation: world.calls()[operation] for operation in case.calls}
        holds = world.material(world.known["key"])

    assert found == []
    assert calls == case.calls
    assert took * 1000 >= case.takes_ms
    if case.imported:
        assert holds == base64.b64decode(world.known["material"])
    marks.mark(case.name, language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", [case for case in CASES if case.lies], ids=lambda case: case.name)
async def test_a_lying_broker_gets_nothing(
    case: Case, language: str, drivers: dict[str, Driver], marks: Marks, tmp_path: Path
) -> None:
    """Neither a set nor wrapped key material comes of an answer that contradicts the request or itself."""
    found: list[str] = []
    async with _scripted(case, tmp_path) as world:
        assert world.scripted is not None
        await drivers[language].do(world.connect)
        for name in case.lies:
            world.scripted.lie = LIES[name][0]
            for step in (
                {"do": "get", "key_id": "$key", **WRAPPING},
                {"do": "import", "key_id": "$key", "material": "$material", "never_expires": True, **WRAPPING},
            ):
                rejected = step | {"error": {"type": "WrappingKeyRejected", "reason": "", "message": "*"}}
                found += [f"{name}: {each}" for each in await _take(rejected, drivers[language], world)]

    assert found == []
    assert world.calls()["ImportKeyMaterial"] == 0
    marks.mark(case.name, language)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_every_reason_has_its_type(
    language: str, drivers: dict[str, Driver], marks: Marks, tmp_path: Path
) -> None:
    """By the same name in every language; a caller catches exactly what he can mend."""
    found: list[str] = []
    case = Case(name="every reason has its type", broker="scripted")
    async with _scripted(case, tmp_path) as world:
        assert world.scripted is not None
        await drivers[language].do(world.connect)
        for reason, kind in KeyImportError.by_reason.items():
            world.scripted.fail("GetParametersForImport", _failure({"code": "FAILED_PRECONDITION", "reason": reason}))
            error = {"type": kind.__name__, "reason": reason, "code": "FAILED_PRECONDITION", "retry_after_ms": None}
            found += await _take({"do": "get", "key_id": "$key", "error": error}, drivers[language], world)

    assert found == []
    marks.mark(case.name, language)
