"""A fleet of real brokers on one store and one KMS: started, asked, killed and restarted by a test, and nothing mocked.

Every replica reaches KMS through a counting proxy of its own, so that it is known who called.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.broker_process import broker_process
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.fleet.ledger import Handout, Ledger
from tests.kms_double import kms_double
from tests.kms_proxy import kms_proxy
from tests.kms_wrapping import next_wrapping_key, wrap
from tests.stalls import stalls

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.kms_double import KmsDouble
    from tests.kms_proxy import KmsProxy
    from tests.stalls import Stalls

GET = "GetParametersForImport"
RSA_2048 = pb.WRAPPING_KEY_SPEC_RSA_2048
RSA_3072 = pb.WRAPPING_KEY_SPEC_RSA_3072
PATIENCE = 60.0  # seconds a caller waits: longer than any line of these tests, on a busy machine

_CAMPAIGN = "KEYBROKER_CAMPAIGN"
_AWAY = "the store is away: own cache, own share of the quota"
_CHANNEL = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


def times(short: int, *, campaign: int) -> int:
    """How often a test repeats its experiment: KEYBROKER_CAMPAIGN=1 in the environment asks for the full count."""
    return campaign if os.environ.get(_CAMPAIGN) == "1" else short


def new_seal_key() -> str:
    """A seal key's file, as `keybroker seal-key` prints it."""
    return f"keybroker-seal-1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b'=').decode()}\n"


def worst_excess(arrivals: Iterable[float], rate: float) -> float:
    """By how many calls the busiest stretch of time exceeds what the rate gives it: at most 1 with a bucket of one."""
    worst = lowest = 0.0
    for number, arrived in enumerate(sorted(arrivals)):
        above = number - rate * arrived
        lowest = min(lowest, above) if number else above
        worst = max(worst, above - lowest + 1)
    return worst


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """One broker: where it lives, its own way to KMS, and, while it runs, its process and a channel to its socket."""

    number: int
    directory: Path
    proxy: KmsProxy
    store: str | None
    process: Process | None = None
    channel: grpc.aio.Channel | None = None
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def target(self) -> str:
        return f"unix:{self.directory}/broker.sock"

    @property
    def stub(self) -> Any:
        assert self.channel
        return key_import_pb2_grpc.KeyImportServiceStub(self.channel)

    async def start(self) -> None:
        """Starts it, and returns when it is SERVING."""
        log = self.directory / "broker.log"
        process = broker_process(self.directory / "keybroker.toml", self.target, log=log)
        self.process = await self._running.enter_async_context(process)
        self.channel = await self._running.enter_async_context(grpc.aio.insecure_channel(self.target, options=_CHANNEL))

    async def stop(self) -> None:
        """Asks it to end, and waits until it has."""
        self.process = self.channel = None
        await self._running.aclose()

    async def kill(self) -> None:
        """Ends it with SIGKILL."""
        assert self.process
        self.process.kill()
        await self.process.wait()
        await self.stop()

    async def serves(self) -> bool:
        """What its health says."""
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def lost_store(self) -> bool:
        """Whether it has said that the store was away."""
        return _AWAY in self.warnings()

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log, but for those that are not its own."""
        lines = (self.directory / "broker.log").read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def warnings(self) -> list[str]:
        """The messages of its log that are above info."""
        return [line["message"] for line in self.log() if line["level"] not in ("info", "debug")]


class Fleet:
    """The replicas, the KMS behind them, and the record of what it issued."""

    def __init__(
        self, *, directory: Path, double: KmsDouble, rate: float, tables: Mapping[str, str], stalls: Stalls
    ) -> None:
        self.double = double
        self.ledger = Ledger(double)
        self.rate = rate
        self.stalls = stalls
        self.replicas: list[Replica] = []
        self.seal_keys: list[str] = []
        self._directory = directory
        self._tables = tables

    def new_seal_key(self, name: str, text: str | None = None) -> str:
        """Makes a seal key that settings can name."""
        (self._directory / name).write_text(text or new_seal_key())
        (self._directory / name).chmod(0o600)
        return name

    def configure(self, replica: Replica, seal_keys: Sequence[str]) -> None:
        """Writes a replica's settings, for its next start."""
        tables = {
            "kms": f'regions = ["us-east-1"]\nendpoint = "{replica.proxy.endpoint}"\nrequests_per_second = {self.rate}',
            "limits": "lookups_per_second = 2000",
            "audit": f'file = "{replica.directory}/audit.log"',
        }
        if replica.store:
            names = json.dumps([f"../{name}" for name in seal_keys])
            size = len(self.replicas)
            tables["store"] = f'url = "{replica.store}"\nseal_keys = {names}\nfleet_size = {size}'
        for name, text in self._tables.items():
            tables[name] = f"{tables[name]}\n{text}" if name in tables else text
        listener = f'[[listeners]]\naddress = "{replica.target}"\ncaller = "local"\n'
        (replica.directory / "keybroker.toml").write_text(
            listener + "".join(f"\n[{name}]\n{text}\n" for name, text in tables.items())
        )

    def running(self) -> list[Replica]:
        """Those that are neither stopped nor killed."""
        return [replica for replica in self.replicas if replica.channel]

    def count(self, operation: str = GET) -> int:
        """How many calls of the operation left the replicas, whatever came of them."""
        return sum(replica.proxy.count(operation) for replica in self.replicas)

    def arrivals(self, since: float = 0.0) -> list[float]:
        """When the replicas' calls of GetParametersForImport arrived, from a moment of the monotonic clock on."""
        arrivals = itertools.chain.from_iterable(replica.proxy.arrivals(GET) for replica in self.replicas)
        return sorted(arrived for arrived in arrivals if arrived >= since)

    def callers_of(self, arn: str) -> list[int]:
        """The numbers of the replicas that asked KMS for a set for this key, once for each time."""
        return [
            replica.number
            for replica in self.replicas
            for call in replica.proxy.calls
            if call.operation == GET and call.key_id == arn
        ]

    async def get(
        self,
        replica: Replica,
        arn: str,
        *,
        spec: pb.WrappingKeySpec.ValueType = RSA_2048,
        sharing: pb.Sharing.ValueType = pb.SHARING_SHARED,
        patience: float = PATIENCE,
    ) -> Handout:
        """Asks a replica for a set, once; the answer is entered in the ledger's history, which checks it."""
        request = pb.GetParametersForImportRequest(
            key_id=arn,
            wrapping_algorithm=pb.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256,
            wrapping_key_spec=spec,
            sharing=sharing,
        )
        asked = time.monotonic()
        answer = await replica.stub.GetParametersForImport(request, timeout=patience)
        handout = Handout.of(answer, replica=replica.number, asked=asked)
        self.ledger.check(handout, arn, pb.WrappingKeySpec.Name(spec).removeprefix("WRAPPING_KEY_SPEC_"))
        return handout

    async def get_everywhere(self, arn: str, *, each: int = 1, **fields: Any) -> list[Handout]:
        """Asks all replicas at once, each that often."""
        asking = [self.get(replica, arn, **fields) for replica in self.running() for _ in range(each)]
        return await asyncio.gather(*asking)

    async def import_into(self, replica: Replica, handout: Handout, material: bytes) -> None:
        """Imports through a replica with this set; from the reply on the set is consumed."""
        request = pb.ImportKeyMaterialRequest(
            key_id=handout.key_arn,
            import_token=handout.token,
            encrypted_key_material=wrap(handout.public_key, "RSAES_OAEP_SHA_256", material),
            never_expires=True,
        )
        await replica.stub.ImportKeyMaterial(request, timeout=PATIENCE)

    async def discard(self, replica: Replica, handout: Handout) -> None:
        """Reports a set through a replica."""
        request = pb.DiscardParametersRequest(key_id=handout.key_arn, import_token=handout.token)
        await replica.stub.DiscardParameters(request, timeout=PATIENCE)

    async def start(self, replicas: Iterable[Replica]) -> None:
        """Starts replicas side by side."""
        await _all(replica.start() for replica in replicas)

    async def stop(self) -> None:
        """Stops those that run, side by side."""
        await _all(replica.stop() for replica in self.replicas)


@asynccontextmanager
async def fleet(
    directory: Path,
    *,
    stores: Sequence[str | None],
    rate: float = 1000.0,
    latency: Mapping[str, float] | None = None,
    double: KmsDouble | None = None,
    **tables: str,
) -> AsyncIterator[Fleet]:
    """Run brokers, and a KMS for them, until the context is left.

    Args:
        directory: private, and with a short path: the sockets are in it.
        stores: each replica's url of the store, None for no store; as many replicas as urls.
        rate: requests per second that the fleet may send.
        latency: as `kms_double` takes it.
        double: the KMS, instead of one of its own.
        tables: lines for further tables of the settings, or for those every replica has.
    """
    async with AsyncExitStack() as stack:
        if double is None:
            double = await stack.enter_async_context(kms_double(latency=latency))
        for size in (2048, 3072):
            await next_wrapping_key(size)  # found now, since the search keeps this process from noting arrivals
        noted = await stack.enter_async_context(stalls())
        made = Fleet(directory=directory, double=double, rate=rate, tables=tables, stalls=noted)
        for number, store in enumerate(stores):
            home = directory / str(number)
            home.mkdir(mode=0o700)
            proxy = await stack.enter_async_context(kms_proxy(double.endpoint))
            made.replicas.append(Replica(number=number, directory=home, proxy=proxy, store=store))
        made.seal_keys = [made.new_seal_key("first.key")]
        for replica in made.replicas:
            made.configure(replica, made.seal_keys)
        stack.push_async_callback(made.stop)
        await made.start(made.replicas)
        yield made


async def _all(work: Iterable[Any]) -> None:
    """Carries all of it out, and only then raises what failed first."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
