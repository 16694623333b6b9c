"""The broker built from its settings, in the order its parts depend on each other."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keybroker.broker import Broker, Region
from keybroker.bucket import LocalBucket
from keybroker.errors import BrokerError, StartError
from keybroker.grants import grants_of
from keybroker.guarded_kms import GuardedKms
from keybroker.keys import Keys
from keybroker.kms import AwsKms
from keybroker.limits import RateLimit
from keybroker.model import WrappingChoice
from keybroker.parameters import Parameters
from keybroker.policy import Policy
from keybroker.prefetch import Prefetch
from keybroker.quota import Quota
from keybroker.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AsyncExitStack

    from keybroker import aws
    from keybroker.bucket import Bucket
    from keybroker.clock import Clock
    from keybroker.fleet import Fleet
    from keybroker.metrics import Metrics
    from keybroker.model import Home
    from keybroker.settings import Settings
    from keybroker.store import Store
    from keybroker.tasks import Tasks
    from keybroker.tracing import Tracer

_LOOKUPS_AT_ONCE = 20
"""Seconds' worth of look-ups that a caller may ask for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every part stands on.

    Attributes:
        settings: the whole file, as it was at start.
        clock: the only source of time.
        tasks: the broker's own work, which ends with it.
        changes: imports and deletes, which the broker's end waits for.
        metrics: the process's.
        tracer: where spans go.
        clients: closes connections when the broker ends.
        call_limit: seconds that one call to KMS may take.
    """

    settings: Settings
    clock: Clock
    tasks: Tasks
    changes: Tasks
    metrics: Metrics
    tracer: Tracer
    clients: AsyncExitStack
    call_limit: float


def policy_of(settings: Settings) -> Policy:
    """The rules of the settings."""
    return Policy(
        algorithms=frozenset(settings.policy.wrapping_algorithms),
        key_specs=frozenset(settings.policy.wrapping_key_specs),
        grants=grants_of(
            [(caller.id, caller.keys, caller.operations) for caller in settings.callers],
            local_callers={listener.caller for listener in settings.listeners if listener.caller},
        ),
        version=settings.version,
    )


async def open_store(ground: Ground) -> Store | None:
    """The fleet's store, if there is a fleet.

    Raises:
        StartError: a seal key or the password cannot be had.
    """
    settings = ground.settings.store
    if settings is None:
        return None
    # Imported here: whoever runs no fleet need not have redis, nor pay for its import.
    from keybroker.seal import Seal, SealError, read_key  # noqa: PLC0415
    from keybroker.store import Store  # noqa: PLC0415
    from keybroker.store_client import connected  # noqa: PLC0415

    keys = []
    for path in settings.seal_keys:
        try:
            keys.append(read_key(Path(path).read_bytes().decode(errors="replace")))  # noqa: ASYNC240 -- at start
        except OSError as error:
            raise StartError(f"store.seal_keys: {path} cannot be read: {error.strerror}") from error
        except SealError as error:
            raise StartError(f"store.seal_keys: {path}: {error}") from error
    try:
        client = await ground.clients.enter_async_context(connected(settings))
    except OSError as error:
        raise StartError(f"store.password_file: cannot be read: {error.strerror}") from error
    return Store(
        client=client,
        seal=Seal(keys),
        replica=secrets.token_hex(8),
        supersede=ground.settings.parameters.supersede,
        clock=ground.clock,
        tasks=ground.tasks,
        metrics=ground.metrics,
    )


def upkeep(ground: Ground, home: Home, broker: Broker) -> list[Prefetch | Watch]:
    """What the broker does without being asked.

    Raises:
        StartError: a key cannot be one of the home's, or its wrapping is not allowed.
    """
    settings, clock = ground.settings, ground.clock
    done: list[Prefetch | Watch] = []
    if settings.prefetch:
        keys = [
            (each.key_id, WrappingChoice(algorithm=each.wrapping_algorithm, key_spec=each.wrapping_key_spec))
            for each in settings.prefetch
        ]
        min_remaining = settings.parameters.min_remaining
        with _refusing("prefetch"):
            done.append(Prefetch(keys, broker=broker, home=home, clock=clock, min_remaining=min_remaining))
    if settings.watch:
        named, warn_before = settings.watch.keys, settings.watch.warn_before
        for name in named:
            ground.metrics.watch_failures.labels(name)  # at 0, so that an alert sees the first
        with _refusing("watch"):
            done.append(
                Watch(named, warn_before=warn_before, broker=broker, home=home, clock=clock, metrics=ground.metrics)
            )
    return done


@contextmanager
def _refusing(section: str) -> Iterator[None]:
    """What a section of the settings asks for and could never be had is an error of that section."""
    try:
        yield
    except BrokerError as error:
        raise StartError(f"{section}: {error.reason}") from error


async def build_broker(ground: Ground, home: Home, session: aws.Session, store: Store | None) -> Broker:
    """A broker at home, with a KMS client for each Region."""
    settings = ground.settings
    rate = settings.limits.lookups_per_second
    lookups = RateLimit(rate=rate, burst=_LOOKUPS_AT_ONCE * rate, clock=ground.clock)
    ground.metrics.credentials_expiry_seconds.set_function(session.credentials_expiry)
    return Broker(
        home=home,
        policy=policy_of(settings),
        regions={
            name: await _region(ground, name, home, store, session=session, lookups=lookups) for name in home.regions
        },
        clock=ground.clock,
        tasks=ground.changes,
        metrics=ground.metrics,
        min_remaining=settings.parameters.min_remaining,
        reuse_until_expiry=settings.parameters.reuse == "until-expiry",
    )


async def _region(
    ground: Ground, name: str, home: Home, store: Store | None, *, session: aws.Session, lookups: RateLimit
) -> Region:
    settings, clock, tasks, metrics = ground.settings, ground.clock, ground.tasks, ground.metrics
    client = await ground.clients.enter_async_context(
        session.client(
            "kms",
            region=name,
            endpoint=settings.kms.endpoint,
            fips=settings.kms.use_fips,
            dualstack=settings.kms.use_dualstack,
        )
    )
    max_entries = settings.parameters.max_entries
    aws_kms = AwsKms(
        client=client, require_credentials=session.require_credentials, clock=clock, call_limit=ground.call_limit
    )
    kms = GuardedKms(aws_kms, region=name, clock=clock, metrics=metrics, tracer=ground.tracer)
    keys = Keys(kms=kms, clock=clock, tasks=tasks, lookups=lookups, max_entries=max_entries)
    bucket, fleet = _shared_or_own(ground, name, home, store)
    quota = Quota(bucket=bucket, limit=settings.kms.queue, clock=clock, tasks=tasks, metrics=metrics)
    parameters = Parameters(
        kms=kms,
        quota=quota,
        keys=keys,
        clock=clock,
        tasks=tasks,
        metrics=metrics,
        max_entries=max_entries,
        supersede=settings.parameters.supersede,
        fleet=fleet,
    )
    metrics.quota_tokens.labels(name).set_function(quota.tokens)
    metrics.quota_waiting.labels(name).set_function(lambda: quota.waiting)
    metrics.cached_sets.labels(name).set_function(parameters.__len__)
    return Region(kms=kms, keys=keys, quota=quota, parameters=parameters)


def _shared_or_own(ground: Ground, region: str, home: Home, store: Store | None) -> tuple[Bucket, Fleet | None]:
    """Where the Region's tokens come from, and the other replicas if there are any."""
    settings, clock = ground.settings, ground.clock
    rate = settings.kms.requests_per_second
    if store is None or settings.store is None:
        return LocalBucket(rate=rate, clock=clock), None
    from keybroker.fleet import Fleet  # noqa: PLC0415 -- only where there is a fleet
    from keybroker.fleet_bucket import FleetBucket  # noqa: PLC0415 -- as above

    bucket = FleetBucket(
        store=store,
        account=home.account,
        region=region,
        rate=rate,
        share=LocalBucket(rate=rate / settings.store.fleet_size, clock=clock),
        fleet_size=settings.store.fleet_size,
        clock=clock,
        tasks=ground.tasks,
    )
    return bucket, Fleet(store=store, clock=clock, tasks=ground.tasks)
