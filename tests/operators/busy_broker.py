"""A broker process with everything an operator can turn on, and a morning's worth of all that can happen to it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc

from demo.broker_process import end
from demo.embedded_kms import ACCOUNT, aws_environment
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import Authority, TlsFiles, tls_channel
from tests.conftest import until_serving
from tests.fleet.harness import new_seal_key
from tests.kms_double import kms_double
from tests.kms_wrapping import next_wrapping_key, wrap
from tests.redis_server import free_port, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from tests.kms_double import KmsDouble

SETTINGS = """
[[listeners]]
address = "unix:{directory}/broker.sock"
caller = "local"

[[listeners]]
address = "tcp:127.0.0.1:{tls_port}"
tls = {{ certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }}

[kms]
regions = ["us-east-1"]
endpoint = "{endpoint}"
requests_per_second = 20

[limits]
requests_per_second = 20

[audit]
file = "{directory}/audit.jsonl"

[ops]
address = "127.0.0.1:{ops_port}"

[store]
url = "{store}"
seal_keys = ["seal.key"]
fleet_size = 1

[[prefetch]]
key_id = "{prefetched}"

[watch]
keys = {{ root = "{watched}", ghost = "00000000-0000-0000-0000-000000000000" }}
"""

_FLOOD = 60  # requests at once: half of them are more than a caller may
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyBroker:
    """The broker, the KMS behind it, and two ways to call it."""

    double: KmsDouble
    local: Any
    remote: Any
    ops: str

    async def live(self) -> None:
        """Everything that is counted happens at least once."""
        arn, other = self.double.add_key(), self.double.add_key()
        mine = await self._get(arn)
        await asyncio.gather(*(self._get(key) for key in (arn, other, other, other)))
        await self._import(arn, mine)
        again = await self._get(arn)
        self.double.lie("ImportKeyMaterial", "close_before_answer", times=1)
        await _refused(self._import(arn, again))
        for fault in ("error:ExpiredToken", "error:AccessDeniedException"):
            self.double.lie("DescribeKey", fault, times=1)
            await _refused(self.local.GetKeyImportStatus(pb.GetKeyImportStatusRequest(key_id=arn), timeout=_PATIENCE))
        for fault in ("empty_object", "throttle"):
            self.double.lie("GetParametersForImport", fault, times=1)
            await _refused(self._get(self.double.add_key()))
        alias = pb.DiscardParametersRequest(key_id="alias/x", import_token=b"t")
        await asyncio.gather(*(_refused(self.remote.DiscardParameters(alias)) for _ in range(_FLOOD)))

    async def _get(self, arn: str) -> pb.GetParametersForImportResponse:
        request = pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
        answer: pb.GetParametersForImportResponse = await self.local.GetParametersForImport(request, timeout=_PATIENCE)
        return answer

    async def _import(self, arn: str, parameters: pb.GetParametersForImportResponse) -> None:
        request = pb.ImportKeyMaterialRequest(
            key_id=arn,
            import_token=parameters.import_token,
            encrypted_key_material=wrap(parameters.public_key, "RSAES_OAEP_SHA_256", bytes(32)),
            never_expires=True,
        )
        await self.local.ImportKeyMaterial(request, timeout=_PATIENCE)


async def _refused(call: Awaitable[Any]) -> None:
    with suppress(grpc.aio.AioRpcError):
        await call


@asynccontextmanager
async def busy_broker(directory: Path) -> AsyncIterator[BusyBroker]:
    """Run the broker until the context is left.

    Args:
        directory: private, and with a short path: the socket is in it.
    """
    async with AsyncExitStack() as stack:
        for size in (2048, 4096):
            await next_wrapping_key(size)  # the first of each takes longer than a call may
        double = await stack.enter_async_context(kms_double())
        redis = await stack.enter_async_context(redis_server())
        servers, clients = Authority("server CA"), Authority("clients' CA")
        TlsFiles.write(directory, servers.server(), clients)
        (directory / "seal.key").write_text(new_seal_key())
        tls_port, ops_port = free_port(), free_port()
        config = directory / "keybroker.toml"
        config.write_text(
            SETTINGS.format(
                directory=directory,
                endpoint=double.endpoint,
                store=redis.url,
                tls_port=tls_port,
                ops_port=ops_port,
                prefetched=double.add_key(),
                watched=double.add_key(),
            )
        )
        await stack.enter_async_context(_process(config))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{directory}/broker.sock"))
        await until_serving(channel)
        secure = await stack.enter_async_context(tls_channel(tls_port, servers, clients.client()))
        yield BusyBroker(
            double=double,
            local=key_import_pb2_grpc.KeyImportServiceStub(channel),
            remote=key_import_pb2_grpc.KeyImportServiceStub(secure),
            ops=f"127.0.0.1:{ops_port}",
        )


@asynccontextmanager
async def _process(config: Path) -> AsyncIterator[None]:
    """A broker whose AWS credentials expire, as those of a role do."""
    expiring = {
        "Version": 1,
        "AccessKeyId": ACCOUNT,
        "SecretAccessKey": "embedded",
        "SessionToken": "token",
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds"),
    }
    (config.parent / "credentials.json").write_text(json.dumps(expiring))
    profile = config.parent / "aws"
    profile.write_text(f"[default]\ncredential_process = cat {config.parent}/credentials.json\n")
    static = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {name: value for name, value in aws_environment().items() if name not in static}
    with (config.parent / "broker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "keybroker", "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment | {"AWS_CONFIG_FILE": str(profile)},
        )
    try:
        yield
    finally:
        await end(process)
