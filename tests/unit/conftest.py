"""A broker in memory: its own code throughout, a fake clock and a fake KMS at its two ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keybroker.broker import Broker, Region
from keybroker.bucket import LocalBucket
from keybroker.grants import grants_of
from keybroker.keys import Keys
from keybroker.limits import RateLimit
from keybroker.metrics import Metrics
from keybroker.model import Caller, ParametersRequest, Sharing, WrappingAlgorithm, WrappingChoice, WrappingKeySpec
from keybroker.parameters import Parameters
from keybroker.policy import Policy
from keybroker.quota import Quota
from keybroker.tasks import Tasks
from tests.clock import FakeClock
from tests.fake_kms import HOME, FakeKms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keybroker.model import KeyArn, ParameterSet, Source

POLICY = Policy(
    algorithms=frozenset({WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256}),
    key_specs=frozenset({WrappingKeySpec.RSA_2048, WrappingKeySpec.RSA_3072, WrappingKeySpec.RSA_4096}),
    grants=grants_of((), local_callers={"alice", "bob", *(f"caller {n}" for n in range(1000))}),
    version="test",
)
OAEP = WrappingChoice(algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_256, key_spec=WrappingKeySpec.RSA_4096)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """The broker's own work, ended with the test."""
    tasks = Tasks()
    yield tasks
    await tasks.drain(0)


@dataclass(slots=True, kw_only=True)
class Bench:
    """A broker and what is behind it."""

    broker: Broker
    clock: FakeClock
    kms: FakeKms
    quota: Quota

    async def get(
        self,
        key: KeyArn,
        *,
        caller: str = "alice",
        patience: float = 60.0,
        sharing: Sharing = Sharing.SHARED,
        min_remaining: float | None = None,
        wrapping: WrappingChoice = OAEP,
    ) -> tuple[ParameterSet, Source]:
        """A set for the key."""
        request = ParametersRequest(key_id=str(key), wrapping=wrapping, min_remaining=min_remaining, sharing=sharing)
        deadline = self.clock.monotonic() + patience
        return await self.broker.parameters(Caller(name=caller, listener="unix:/x"), request, deadline)


class BenchMaker:
    """Builds benches with the settings a test wants."""

    def __init__(self, clock: FakeClock, tasks: Tasks) -> None:
        self._clock = clock
        self._tasks = tasks

    def __call__(
        self,
        *,
        rate: float = 1e18,  # no wait that a float could tell
        queue: int = 1000,
        max_entries: int = 100,
        supersede: bool = True,
        reuse_until_expiry: bool = False,
        policy: Policy = POLICY,
    ) -> Bench:
        """One Region's worth of broker, serving both Regions of HOME."""
        clock, tasks, metrics = self._clock, self._tasks, Metrics()
        kms = FakeKms(clock)
        quota = Quota(
            bucket=LocalBucket(rate=rate, clock=clock), limit=queue, clock=clock, tasks=tasks, metrics=metrics
        )
        lookups = RateLimit(rate=1e6, burst=1e6, clock=clock)
        keys = Keys(kms=kms, clock=clock, tasks=tasks, lookups=lookups, max_entries=max_entries)
        parameters = Parameters(
            kms=kms,
            quota=quota,
            keys=keys,
            clock=clock,
            tasks=tasks,
            metrics=metrics,
            max_entries=max_entries,
            supersede=supersede,
        )
        region = Region(kms=kms, keys=keys, quota=quota, parameters=parameters)
        broker = Broker(
            home=HOME,
            policy=policy,
            regions=dict.fromkeys(HOME.regions, region),
            clock=clock,
            tasks=tasks,
            metrics=metrics,
            min_remaining=3600.0,
            reuse_until_expiry=reuse_until_expiry,
        )
        return Bench(broker=broker, clock=clock, kms=kms, quota=quota)


@pytest.fixture
def make_bench(clock: FakeClock, tasks: Tasks) -> BenchMaker:
    """Builds a bench."""
    return BenchMaker(clock, tasks)


@pytest.fixture
def bench(make_bench: BenchMaker) -> Bench:
    """A bench of default settings whose quota is no hindrance."""
    return make_bench()
