"""What a broker sees in a long life, all at once: every kind of request, refusal, caller, fault and reload."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import Authority, tls_channel
from tests.conftest import read_refusal
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.certificates import Identity
    from tests.kms_double import KmsDouble

SPEC = pb.WRAPPING_KEY_SPEC_RSA_2048
ALGORITHM = pb.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256

_PATIENCE = 20.0  # seconds
_WARM = 50
_IDENTITIES = 100  # as many callers; more would rightly be remembered one by one
_FAULTS = ("error:KMSInternalException", "html_503", "reset_mid_answer", "close_before_answer", "throttle", "hang")
_FAULT_EVERY, _FAULT_TIMES = 10.0, 4
_SLOW_SECONDS = 0.5
_RELOAD_EVERY = 5.0
_UNKNOWN = "00000000-0000-4000-8000-{:012x}"


class Traffic:
    """All of it; `run` goes on until it is cancelled.

    Attributes:
        outcomes: how often each kind of request had which outcome.
        reloads: how many signals were sent.
    """

    def __init__(
        self,
        *,
        double: KmsDouble,
        process: Process,
        directory: Path,
        target: str,
        port: int,
        server_ca: Authority,
        client_ca: Authority,
    ) -> None:
        """Asks nothing yet.

        Args:
            double: the KMS, whose faults are part of it.
            process: the broker.
            directory: with the broker's settings, `even.toml` and `odd.toml` to take turns with, and its audit.
            target: the broker's Unix socket.
            port: its port, with mutual TLS.
            server_ca: whom the callers trust.
            client_ca: whom the broker trusts.
        """
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.reloads = 0
        self._double = double
        self._process = process
        self._directory = directory
        self._port = port
        self._server_ca = server_ca
        self._identities = [client_ca.client(f"spiffe://corp.example/ns/a/sa/{n}") for n in range(_IDENTITIES)]
        self._stranger = Authority("another CA").client()
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.enable_retries", 0)])
        self._stub: Any = key_import_pb2_grpc.KeyImportServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._warm = [double.add_key() for _ in range(_WARM)]
        self._unknown = itertools.count()

    async def run(self) -> None:
        """Everything at once, each at a pace of its own; sets for the keys that are read again and again come first."""
        try:
            for arn in self._warm:
                await self._get(arn)
            await asyncio.gather(
                self._again(0.01, self._read),
                self._again(0.01, self._read),
                self._again(0.2, self._ask_for_a_new_key),
                self._again(0.5, self._import),
                self._again(0.25, self._be_refused),
                self._again(1.0, self._ask_for_many),
                self._again(1.0, self._leave),
                self._again(1.0, self._ask_for_status),
                self._again(0.5, self._come_anew),
                self._again(2.0, self._come_with_a_bad_certificate),
                self._again(1.0, self._look_at_health),
                self._again(_FAULT_EVERY, self._break_kms),
                self._again(_RELOAD_EVERY, self._reload),
            )
        finally:
            await self._channel.close()

    async def _again(self, pause: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            await work()

    async def _count(self, kind: str, call: Awaitable[Any]) -> Any:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.outcomes[kind, read_refusal(error).reason or error.code().name] += 1
            return None
        self.outcomes[kind, "OK"] += 1
        return answer

    async def _read(self) -> None:
        await self._count("get, warm", self._get(random.choice(self._warm)))

    async def _ask_for_a_new_key(self) -> None:
        await self._count("get, cold", self._get(self._double.add_key()))

    async def _import(self) -> None:
        parameters = await self._count("get, cold", self._get(self._double.add_key()))
        if parameters:
            request = pb.ImportKeyMaterialRequest(
                key_id=parameters.key_arn,
                import_token=parameters.import_token,
                encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", bytes(32)),
                never_expires=True,
            )
            await self._count("import", self._stub.ImportKeyMaterial(request, timeout=_PATIENCE))

    async def _be_refused(self) -> None:
        arn = random.choice(self._warm)
        forged = pb.ImportKeyMaterialRequest(
            key_id=arn, import_token=b"forged", encrypted_key_material=bytes(256), never_expires=True
        )
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: self._get("alias/some"),
            lambda: self._get(arn.replace("111122223333", "222233334444")),
            lambda: self._get(_UNKNOWN.format(next(self._unknown))),
            lambda: self._get(self._double.add_key(origin="AWS_KMS")),
            lambda: self._get(""),
            lambda: self._stub.ImportKeyMaterial(forged, timeout=_PATIENCE),
            lambda: self._stub.DeleteImportedKeyMaterial(
                pb.DeleteImportedKeyMaterialRequest(key_id=arn), timeout=_PATIENCE
            ),
        ]
        await self._count("refusal", random.choice(calls)())

    async def _ask_for_many(self) -> None:
        keys = [*random.sample(self._warm, 20), *(self._double.add_key() for _ in range(2)), "alias/some"]
        request = pb.BatchGetParametersForImportRequest(key_ids=keys, wrapping_key_spec=SPEC)

        async def read() -> None:
            async for _ in self._stub.BatchGetParametersForImport(request, timeout=_PATIENCE):
                pass

        await self._count("batch", read())

    async def _leave(self) -> None:
        """Callers who ask for what takes its time, and do not wait for it."""
        keys = [self._double.add_key() for _ in range(3)]
        request = pb.BatchGetParametersForImportRequest(key_ids=keys, wrapping_key_spec=SPEC)
        stream = self._stub.BatchGetParametersForImport(request)
        one = self._stub.GetParametersForImport(self._request(self._double.add_key()))
        await asyncio.sleep(random.uniform(0, 0.02))
        for call in (stream, one):
            call.cancel()
        self.outcomes["left", "CANCELLED"] += 2
        await self._count("in a hurry", self._get(self._double.add_key(), timeout=0.01))

    async def _ask_for_status(self) -> None:
        request = pb.GetKeyImportStatusRequest(key_id=random.choice(self._warm))
        await self._count("status", self._stub.GetKeyImportStatus(request, timeout=_PATIENCE))

    async def _come_anew(self) -> None:
        await self._ask_over_tls("get, new connection", random.choice(self._identities))

    async def _come_with_a_bad_certificate(self) -> None:
        await self._ask_over_tls("get, bad certificate", self._stranger)

    async def _ask_over_tls(self, kind: str, identity: Identity) -> None:
        async with tls_channel(self._port, self._server_ca, identity) as channel:
            stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
            call = stub.GetParametersForImport(self._request(random.choice(self._warm)), timeout=_PATIENCE)
            await self._count(kind, call)

    async def _look_at_health(self) -> None:
        request = health_pb2.HealthCheckRequest()
        await self._count("health", self._health.Check(request, timeout=_PATIENCE))
        watch = self._health.Watch(request)
        await self._count("health", watch.read())
        watch.cancel()

    async def _break_kms(self) -> None:
        """One of the faults for some calls, while KMS is slow; then it is well again."""
        fault = random.choice(_FAULTS)
        for operation in ("DescribeKey", "GetParametersForImport", "ImportKeyMaterial"):
            self._double.lie(operation, fault, _FAULT_TIMES)
            self._double.latency[operation] = random.uniform(0, _SLOW_SECONDS)
        await asyncio.sleep(_FAULT_EVERY / 4)
        self._double.honest()
        self._double.latency.clear()

    async def _reload(self) -> None:
        """Other settings, good or not, and a new audit file."""
        name = random.choice(("even.toml", "odd.toml", "bad.toml"))
        (self._directory / "new.toml").write_text((self._directory / name).read_text())
        (self._directory / "new.toml").rename(self._directory / "keybroker.toml")
        with suppress(FileNotFoundError):
            (self._directory / "audit.log").rename(self._directory / "audit.log.1")
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)
        self.reloads += 1

    def _get(self, key_id: str, timeout: float = _PATIENCE) -> Any:
        return self._stub.GetParametersForImport(self._request(key_id), timeout=timeout)

    def _request(self, key_id: str) -> pb.GetParametersForImportRequest:
        return pb.GetParametersForImportRequest(key_id=key_id, wrapping_algorithm=ALGORITHM, wrapping_key_spec=SPEC)
