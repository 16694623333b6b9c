"""The store by itself, at a real Redis: what replicas ask and tell, and what they make of dishonest answers."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from redis.exceptions import MaxConnectionsError

from keybroker.bucket import LocalBucket
from keybroker.clock import SystemClock
from keybroker.errors import KmsBadResponse, QuotaQueueFull
from keybroker.fetches import Ask
from keybroker.fleet import Fleet
from keybroker.fleet_bucket import FleetBucket
from keybroker.keys import Keys
from keybroker.limits import RateLimit
from keybroker.metrics import Metrics
from keybroker.model import ParameterSet, SecretBytes, Slot, Source, Wrapping, WrappingAlgorithm, WrappingKeySpec
from keybroker.parameters import Parameters
from keybroker.quota import Quota
from keybroker.seal import Seal
from keybroker.settings_store import StoreSettings
from keybroker.store import Store
from keybroker.store_client import connected
from keybroker.store_exchange import StoreAway
from keybroker.store_names import key_tag, set_id
from keybroker.tasks import Tasks
from tests.certificates import Authority
from tests.fake_kms import FakeKms, key_arn
from tests.fleet.redis_content import put_back, save
from tests.kms_wrapping import next_wrapping_key, spki
from tests.redis_server import RedisServer, free_port, redis_server
from tests.tcp_proxy import tcp_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.certificates import Identity

T = TypeVar("T")
KEY = bytes(range(32))
ACCOUNT, REGION = "111122223333", "us-east-1"


class Replica:
    """One replica's view of the store."""

    def __init__(self, client: Any, name: str, tasks: Tasks) -> None:
        self.clock = SystemClock()
        self.tasks = tasks
        self.client = client
        self.metrics = Metrics()
        self.store = Store(
            client=self.client,
            seal=Seal([KEY]),
            replica=name,
            supersede=True,
            clock=self.clock,
            tasks=tasks,
            metrics=self.metrics,
        )
        self.fleet = Fleet(store=self.store, clock=self.clock, tasks=tasks)

    def quota(self, rate: float, fleet_size: int = 3) -> Quota:
        share = LocalBucket(rate=rate / fleet_size, clock=self.clock)
        bucket = FleetBucket(
            store=self.store, account=ACCOUNT, region=REGION, rate=rate, share=share,
            fleet_size=fleet_size, clock=self.clock, tasks=self.tasks,
        )  # fmt: skip
        return Quota(bucket=bucket, limit=1000, clock=self.clock, tasks=self.tasks, metrics=self.metrics)


@asynccontextmanager
async def replicas(url: str, count: int = 2, **settings: Any) -> AsyncIterator[list[Replica]]:
    """Replicas that listen to each other."""
    tasks = Tasks()
    store = StoreSettings(url=url, seal_keys=("unused",), fleet_size=3, **settings)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(store)) for _ in range(count)]
        made = [Replica(client, f"replica{n}", tasks) for n, client in enumerate(clients)]
        listening = [asyncio.create_task(replica.store.listen()) for replica in made]
        try:
            yield made
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            await tasks.drain(0)


async def a_set(number: int = 1, token: bytes = b"token", *, age: float = 0.0) -> ParameterSet:
    """A set as KMS would issue it, or would have some seconds ago."""
    wrapping = Wrapping(algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_256, key_spec=WrappingKeySpec.RSA_2048)
    return ParameterSet(
        slot=Slot(key=key_arn(number), wrapping=wrapping),
        public_key=spki(await next_wrapping_key(2048)),
        import_token=SecretBytes(token),
        valid_to=SystemClock().now() + timedelta(hours=24, seconds=-age),
        aws_request_id="request",
    )


async def exchange(first: Replica, second: Replica, token: bytes = b"token") -> None:
    """Everything one replica tells another: a set, its end, a lease, a token."""
    parameters = await a_set(token=token)
    news = second.store.news(parameters.slot.key)
    async with asyncio.timeout(60):
        while not news.is_set():  # it may not listen yet
            await surely(partial(first.store.keep, parameters))
            await asyncio.sleep(0.05)
    found = await surely(partial(second.store.find, parameters.slot))
    assert found is not None
    assert found.public_key == parameters.public_key

    await second.fleet.end(parameters.slot.key, parameters.import_token)
    assert await surely(partial(first.store.endings.asked, parameters))
    assert await surely(partial(first.store.find, parameters.slot)) is None

    crowd = await asyncio.gather(*(first.store.find(parameters.slot) for _ in range(200)), return_exceptions=True)
    assert [each for each in crowd if isinstance(getattr(each, "__cause__", None), MaxConnectionsError)] == []

    key = parameters.slot.key
    assert await surely(partial(first.store.take_lease, key)) is None
    assert await surely(partial(second.store.take_lease, key)) is not None
    await surely(partial(first.store.release_lease, key))
    assert await surely(partial(second.store.take_lease, key)) is None

    reserve = {"interval": 1.0, "guard": 0.0, "longest": 10.0}
    tokens = [
        await surely(partial(replica.store.reserve, ACCOUNT, REGION, **reserve)) for replica in (first, second, first)
    ]
    assert [round(token.wait) for token in tokens] == [0, 1, 2]
    assert tokens[-1].replicas == 2


async def surely(question: Callable[[], Awaitable[T]]) -> T:
    """What the store answers, however long a loaded machine keeps it, or this process, from it."""
    async with asyncio.timeout(60):
        while True:
            with suppress(StoreAway):
                return await question()
            await asyncio.sleep(0.1)


async def test_one_server() -> None:
    """Plain Redis."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        await exchange(first, second)


async def test_a_cluster() -> None:
    """A cluster, of one node: names that belong together are in one slot. Of those named, another is gone."""
    async with redis_server("--cluster-enabled", "yes") as redis:
        async with redis.client() as client:
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in await client.execute_command("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)
        async with replicas(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{redis.port}") as (first, second):
            await exchange(first, second)


async def test_sentinel(tmp_path: Path) -> None:
    """Sentinel names the server to ask."""
    async with redis_server() as redis:
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor keybroker 127.0.0.1 {redis.port} 1\n")
        sentinel = RedisServer(tmp_path, ())
        process = await asyncio.create_subprocess_exec(
            *("redis-server", str(config), "--sentinel", "--port", str(sentinel.port), "--bind", "127.0.0.1"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(10):
                while not await sentinel._answers():
                    await asyncio.sleep(0.02)
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/keybroker"
            async with replicas(url) as (first, second):
                await exchange(first, second)
        finally:
            process.terminate()
            await process.wait()


async def test_a_user_of_few_rights(tmp_path: Path) -> None:
    """The ACL docs/fleet.md gives suffices; the password comes from a file."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    documented = re.search(r"ACL SETUSER keybroker on >PASSWORD ([^`]*)```", Path("docs/fleet.md").read_text())
    assert documented
    async with redis_server() as redis:
        async with redis.client() as client:
            await client.execute_command("ACL", "SETUSER", "keybroker", "on", ">secret", *documented[1].split())
            await client.execute_command("ACL", "SETUSER", "default", "off")
        settings: dict[str, Any] = {"username": "keybroker", "password_file": str(password)}
        async with replicas(redis.url, **settings) as (first, second):
            await exchange(first, second)


@asynccontextmanager
async def _tls_redis(directory: Path, server: Identity) -> AsyncIterator[int]:
    """A Redis with this certificate; its port."""
    certificate, key, port = directory / "redis.pem", directory / "redis.key", free_port()
    certificate.write_bytes(server.pem)
    key.write_bytes(server.key_pem)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    async with redis_server("--tls-port", str(port), *files):
        yield port


async def test_a_server_with_tls(tmp_path: Path) -> None:
    """The server shows a certificate of the CA that the settings name, for the name in the url."""
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    async with (
        _tls_redis(tmp_path, authority.server()) as port,
        replicas(f"rediss://localhost:{port}", ca=str(ca)) as (first, second),
    ):
        await exchange(first, second)


@pytest.mark.parametrize(
    ("trusted", "url"),
    [
        ("another CA", "rediss://localhost:{port}"),
        ("no CA of one's own", "rediss://localhost:{port}"),
        ("its CA", "rediss://127.0.0.2:{port}"),
        ("its CA", "redis://localhost:{port}"),
    ],
)
async def test_a_server_that_is_not_the_one_meant_is_told_nothing(tmp_path: Path, trusted: str, url: str) -> None:
    """Of a CA that is not trusted, under another name, or asked in plain text."""
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes((authority if trusted == "its CA" else Authority()).pem)
    settings = {} if trusted == "no CA of one's own" else {"ca": str(ca)}
    async with (
        _tls_redis(tmp_path, authority.server()) as port,
        replicas(url.format(port=port), 1, **settings) as (replica,),
    ):
        with pytest.raises(StoreAway):
            await replica.store.keep(await a_set())


async def test_a_newer_set_ends_the_older_everywhere() -> None:
    """Also those the store has never seen, and by a set that is kept for nobody."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        ages = {b"unseen": 30, b"kept": 20, b"exclusive": 10}
        unseen, kept, exclusive = [await a_set(token=token, age=age) for token, age in ages.items()]

        await surely(partial(first.store.keep, kept))
        after_kept = [await surely(partial(second.store.endings.asked, each)) for each in (unseen, kept)]
        await first.fleet.supersede(exclusive.slot.key, exclusive)
        after_exclusive = [await surely(partial(second.store.endings.asked, each)) for each in (unseen, kept)]

    assert after_kept == [True, False]
    assert after_exclusive == [True, True]


async def test_what_was_told_late_ends_nothing_newer() -> None:
    """A replica was on its own when it got two sets; they stay in their order, and the other's newest stays, too."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        one, two, newest = [await a_set(token=token, age=age) for token, age in ((b"1", 30), (b"2", 20), (b"3", 10))]
        other = await a_set(2)
        await redis.kill()
        await _until_away(first)
        for each in (one, two):
            await first.fleet.keep(each)
        await first.fleet.keep(other)
        alone = [[await first.fleet.ended(each) for each in (one, two)] for _ in range(20)]
        await redis.start()
        await surely(partial(second.store.keep, newest))
        async with asyncio.timeout(60):
            while not await surely(partial(second.store.find, other.slot)):
                await asyncio.sleep(0.1)  # told in their order: what concerns the other key was told before
        ended = [await first.fleet.ended(each) for each in (one, two, newest)]
        found = await surely(partial(first.store.find, one.slot))

    assert alone == [[True, False]] * 20
    assert ended == [True, True, False]
    assert found is not None
    assert found.import_token == newest.import_token


async def _until_away(replica: Replica) -> None:
    while not replica.store.away:
        await replica.fleet.ended(await a_set(9))


async def test_a_set_issued_after_one_that_nobody_has_is_good_whenever_that_is_told() -> None:
    """KMS may have issued one and not have answered; the store hears of it only after the other replica's next set."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        await redis.kill()
        await _until_away(first)
        await first.fleet.supersede(key_arn(), None)
        await asyncio.sleep(0.01)  # expiries are compared to the millisecond
        newer = await a_set()
        await redis.start()
        await surely(partial(second.store.keep, newer))
        async with asyncio.timeout(60):
            while first.fleet._untold:
                await asyncio.sleep(0.1)
        found = await surely(partial(second.store.find, newer.slot))

    assert found is not None


async def test_a_newer_set_is_good_where_the_word_of_it_was_lost() -> None:
    """It is found all the same, and then the older one is ended, whatever becomes of the store."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        older, newer = await a_set(token=b"older", age=10), await a_set(token=b"newer")
        await first.fleet.keep(older)
        async with redis.client() as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await surely(partial(second.store.keep, newer))
        found = await surely(partial(first.store.find, newer.slot))
        await redis.kill()
        ended = [await first.fleet.ended(each) for each in (older, newer)]

    assert found is not None
    assert found.import_token == newer.import_token
    assert ended == [True, False]


async def test_a_set_older_than_one_that_was_seen_is_refused() -> None:
    """The store was replaced by one with old data, from before this replica heard of the key."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        older, newer = await a_set(token=b"older", age=10), await a_set(token=b"newer")
        await surely(partial(second.store.keep, older))
        async with redis.client() as client:
            saved = await save(client)
            await first.fleet.keep(newer)
            await client.flushall()
            await put_back(client, saved)
        found = await surely(partial(first.store.find, older.slot))
        ended = await surely(partial(first.store.endings.asked, newer))

    assert found is None
    assert not ended


async def test_a_connection_that_died_without_a_word_is_made_again() -> None:
    """Nothing comes from it any more, and it never breaks: it is found out by a ping, and other replicas are heard."""
    async with (
        redis_server() as redis,
        tcp_proxy("127.0.0.1", redis.port) as way,
        replicas(way.url, 1) as (replica,),
        redis.client() as client,
    ):
        await _until_listening(client, 1)
        way.abandon()
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # as its machine would: it is gone
        await _until_listening(client, 1)
        parameters = await a_set()
        news = replica.store.news(parameters.slot.key)
        await client.publish("keybroker:events", b'{"key": "%s"}' % key_tag(parameters.slot.key).encode())
        async with asyncio.timeout(60):
            await news.wait()


async def _until_listening(client: Any, replicas_: int) -> None:
    async with asyncio.timeout(60):
        while (await client.pubsub_numsub("keybroker:events"))[0][1] < replicas_:
            await asyncio.sleep(0.05)


async def test_a_channel_that_is_forbidden_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The store answers otherwise, so that nothing else would show it."""
    async with redis_server() as redis, redis.client() as client, replicas(redis.url, 1) as (replica,):
        await client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(60):
            while not caplog.records:
                await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        told = [record.getMessage() for record in caplog.records]
        await client.execute_command("ACL", "SETUSER", "default", "+subscribe")
        await _until_listening(client, 1)
        failures = replica.metrics.registry.get_sample_value("keybroker_store_failures_total")

    assert told == ["other replicas are not heard: is subscribing forbidden?"]
    assert failures is not None
    assert failures >= 10


async def test_a_primary_that_was_replaced_is_left() -> None:
    """Its name leads to the new one by now; the connections to the old one, which only reads, are given up."""
    async with (
        redis_server() as old,
        redis_server() as new,
        tcp_proxy("127.0.0.1", old.port) as way,
        replicas(way.url) as (first, second),
    ):
        await surely(partial(first.store.keep, await a_set()))
        async with old.client() as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", new.port)
        way.upstream = ("127.0.0.1", new.port)
        parameters = await a_set(2)
        await first.fleet.keep(parameters)
        await surely(partial(first.store.keep, parameters))
        async with asyncio.timeout(60):
            while not (found := await surely(partial(second.store.find, parameters.slot))):
                await asyncio.sleep(0.05)
        async with new.client() as client:
            there = await client.keys("*:sets")

    assert found.import_token == parameters.import_token
    assert len(there) == 1


async def test_names_of_the_wrong_type_are_made_good() -> None:
    """A list under every name there is: the next who writes puts the right thing in its place."""
    async with redis_server() as redis, replicas(redis.url) as (first, second), redis.client() as client:
        await exchange(first, second)
        parameters = await a_set()
        await surely(partial(first.store.take_lease, parameters.slot.key))
        for name in await client.keys("*"):
            await client.delete(name)
            await client.rpush(name, "mallory")

        await exchange(second, first, token=b"another token")


async def test_marks_of_ended_sets_are_bounded() -> None:
    """A caller reports more tokens than any key has sets: the latest are remembered."""
    async with redis_server() as redis, replicas(redis.url, 1) as (replica,), redis.client() as client:
        parameters = await a_set()
        for number in range(1100):
            await replica.fleet.end(parameters.slot.key, f"token {number}".encode())
        await replica.fleet.end(parameters.slot.key, parameters.import_token)
        (name,) = await client.keys("*:ended")
        marks = await client.zcard(name)
        kept = await client.zscore(name, set_id(parameters.import_token))

    assert marks == 1000
    assert kept is not None


async def test_the_expected_wait_is_that_of_the_throttled_rate() -> None:
    """KMS has throttled some replica: all others know that turns come half as often."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        quotas = [replica.quota(rate=10.0) for replica in (first, second)]
        await surely(partial(first.store.slow_down, ACCOUNT, REGION, interval=0.1, seconds=60))
        places = [quotas[1].join("caller", second.clock.monotonic() + 60) for _ in range(5)]
        await places[0].turn()
        await places[1].lined_up()

        assert quotas[1].interval() == pytest.approx(0.2)


async def test_once_the_store_is_back_nobody_waits_for_the_own_share() -> None:
    """Of which a fleet of 10,000 has a token in a quarter of an hour; the fleet's next one is due at once."""
    async with redis_server() as redis, replicas(redis.url, 1) as (replica,):
        await redis.kill()
        quota = replica.quota(rate=10.0, fleet_size=10_000)
        quota._bucket._share.pause(900.0)  # type: ignore[attr-defined]  # its phase is a matter of chance
        place = quota.join("caller", replica.clock.monotonic() + 3600)
        await place.lined_up()
        alone = place.expected_wait()
        await redis.start()
        await place.turn()

    assert alone > 800


async def test_a_lease_that_promises_a_day_keeps_nobody_waiting() -> None:
    """Somebody writes it again and again: a caller who would be refused for it is served out of his replica's turn."""
    async with redis_server() as redis, replicas(redis.url) as (replica, _), redis.client() as client:
        slot = (await a_set()).slot
        await surely(partial(replica.store.take_lease, slot.key))
        (lease,) = await client.keys("*:lease")
        await client.set(lease, "mallory 86000", px=2900)
        parameters, source = await cache_of(replica, replica.fleet).shared(slot, an_ask(replica))

    assert (slot, Source.KMS) == (parameters.slot, source)


async def test_tokens_too_late_for_anyone_are_left_to_others() -> None:
    """40 replicas whose callers wait half a second at most: those refused take no token, and none is lost."""
    rate, seconds = 20.0, 4.0
    spent = 0
    async with redis_server() as redis, replicas(redis.url, 40) as made:
        parameters = await a_set()
        for replica in made:  # 40 connections made at once take longer than the store's time-out here
            await surely(partial(replica.store.endings.asked, parameters))
        quotas = [replica.quota(rate, fleet_size=40) for replica in made]
        clock = SystemClock()
        end = clock.monotonic() + seconds

        async def caller(quota: Quota) -> None:
            nonlocal spent
            while clock.monotonic() < end:
                place = quota.join("caller", clock.monotonic() + 0.5)
                try:
                    await place.lined_up()
                    if place.expected_wait() <= 0.5:
                        async with asyncio.timeout(0.6):
                            await place.turn()
                        spent += 1
                    else:
                        quota.leave(place)
                        await asyncio.sleep(0.05)
                except (QuotaQueueFull, TimeoutError):
                    pass

        await asyncio.gather(*(caller(quota) for quota in quotas))
        elapsed = clock.monotonic() - end + seconds

    alone = sum(replica.metrics.registry.get_sample_value("keybroker_store_failures_total") or 0 for replica in made)
    print(f"{alone:.0f} exchanges failed; {spent} of {rate * seconds:.0f} tokens were spent by 40 replicas")
    assert rate * seconds * 0.5 <= spent <= rate * elapsed + 2 + alone


async def test_a_moment_in_which_all_exchanges_fail_is_one_failure() -> None:
    """20 questions die with one silence of the store: it is not left alone for that, and the next one is answered."""
    async with (
        redis_server() as redis,
        tcp_proxy("127.0.0.1", redis.port) as way,
        replicas(way.url, 1) as (replica,),
    ):
        parameters = await a_set()
        await surely(partial(replica.store.keep, parameters))
        way.freeze()
        asking = (replica.store.find(parameters.slot) for _ in range(20))
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        left_alone = replica.store.away
        await way.heal()
        found = await surely(partial(replica.store.find, parameters.slot))

    assert [type(outcome) for outcome in outcomes] == [StoreAway] * 20
    assert found is not None
    assert found.import_token == parameters.import_token
    assert not left_alone


async def test_a_lease_whose_answer_was_lost_is_still_the_replicas_own() -> None:
    """Asked for again, it is given again; another replica has to wait."""
    async with redis_server() as redis, replicas(redis.url) as (first, other):
        key = (await a_set()).slot.key
        await surely(partial(first.store.take_lease, key))
        again = await surely(partial(first.store.take_lease, key))
        held = await surely(partial(other.store.take_lease, key))

    assert again is None
    assert held is not None


async def test_who_joins_a_fetch_after_another_replica_ended_its_set_gets_another() -> None:
    """The fetch has looked before that; who asked before it, too, may have what it found."""
    async with redis_server() as redis, replicas(redis.url) as (other, own):
        found = await a_set()
        await surely(partial(other.store.keep, found))
        slow = LateFleet(store=own.store, clock=own.clock, tasks=own.tasks)
        parameters = cache_of(own, slow)
        before = asyncio.ensure_future(parameters.shared(found.slot, an_ask(own)))
        await slow.looked.wait()
        await other.fleet.end(found.slot.key, found.import_token)
        after = asyncio.ensure_future(parameters.shared(found.slot, an_ask(own)))
        await asyncio.sleep(0)
        slow.go_on.set()
        (first, source), (second, _) = await asyncio.gather(before, after)

    assert (found.import_token, Source.STORE) == (first.import_token, source)
    assert second.import_token != found.import_token


class LateFleet(Fleet):
    """One whose answers are late by as long as a test wants."""

    def __init__(self, **dependencies: Any) -> None:
        super().__init__(**dependencies)
        self.looked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def look(self, slot: Slot, **questions: Any) -> ParameterSet | None:
        found = await super().look(slot, **questions)
        self.looked.set()
        await self.go_on.wait()
        return found


def cache_of(replica: Replica, fleet: Fleet) -> Parameters:
    """The replica's cache before a KMS in memory, with a quota that is no hindrance."""
    clock, tasks, kms = replica.clock, replica.tasks, FakeKms(replica.clock)
    lookups = RateLimit(rate=1000, burst=1000, clock=clock)
    return Parameters(
        kms=kms,
        quota=replica.quota(rate=1000.0),
        keys=Keys(kms=kms, clock=clock, tasks=tasks, lookups=lookups, max_entries=10),
        clock=clock,
        tasks=tasks,
        metrics=replica.metrics,
        max_entries=10,
        supersede=True,
        fleet=fleet,
    )


def an_ask(replica: Replica) -> Ask:
    """Of a patient caller."""
    return Ask(caller="caller", min_remaining=60.0, deadline=replica.clock.monotonic() + 60, described=True)


async def test_a_token_of_the_fleet_is_spare_once_it_has_lain_unused() -> None:
    """As far as one broker knows: two intervals after its last, and later where others had some meanwhile."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        quotas = [replica.quota(rate=1.0) for replica in (first, second)]
        spare = []
        for quota in quotas:
            place = quota.join("caller", first.clock.monotonic() + 60)
            await place.turn()
            spare.append(quota.spare_in())

    assert 1 < spare[0] <= 2
    assert 2 < spare[1] <= 4


async def test_no_set_is_prefetched_that_would_end_one_of_another_replica() -> None:
    """That replica gave a caller an EXCLUSIVE one; once it is used up, or if it has expired, nothing is ended."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        exclusive, expired = await a_set(), await a_set(2, age=25 * 3600)
        cache = cache_of(second, second.fleet)
        await first.fleet.supersede(exclusive.slot.key, exclusive)
        await first.fleet.supersede(expired.slot.key, expired)
        wanted = [await cache.wants_warming(each.slot, 60.0) for each in (exclusive, expired)]
        await first.fleet.end(exclusive.slot.key, exclusive.import_token)
        used_up = await cache.wants_warming(exclusive.slot, 60.0)
        await redis.kill()
        alone = await cache.wants_warming(exclusive.slot, 60.0)

    assert wanted == [False, True]
    assert used_up
    assert not alone


@pytest.mark.parametrize("found", [True, False])
async def test_what_is_prefetched_for_all_may_be_in_anyones_hands(*, found: bool) -> None:
    """Neither who finds a set in the store nor who puts one there replaces it before it has expired."""
    async with redis_server() as redis, replicas(redis.url) as (first, second):
        parameters = await a_set()
        if found:
            await surely(partial(first.store.keep, parameters))
        cache, longer_than_valid = cache_of(second, second.fleet), 48 * 3600.0
        cache.prefetched(parameters.slot.key)
        ask = replace(an_ask(second), min_remaining=longer_than_valid, warming=True)
        before = await cache.wants_warming(parameters.slot, longer_than_valid)
        source = Source.KMS
        with suppress(KmsBadResponse):  # of KMS's, that it is not valid for so long
            _, source = await cache.shared(parameters.slot, ask)
        after = await cache.wants_warming(parameters.slot, longer_than_valid)

    assert source == (Source.STORE if found else Source.KMS)
    assert (before, after) == (True, False)


@pytest.mark.parametrize("seconds_ahead", [1.0, 30.0, 7e9])
async def test_poison_in_the_quota_or_a_lease_stops_nobody(seconds_ahead: float) -> None:
    """A token later than this fleet could have it makes the replica use its share; an endless lease is taken over."""
    async with redis_server() as redis, replicas(redis.url) as (first, _):
        parameters = await a_set()
        await surely(partial(first.store.reserve, ACCOUNT, REGION, interval=1.0, guard=0.0, longest=10.0))
        await surely(partial(first.store.take_lease, parameters.slot.key))
        async with redis.client() as client:
            for name in await client.keys("*"):
                if name.endswith(b":quota"):
                    await client.set(name, int((time.time() + seconds_ahead) * 1e6))
                if name.endswith(b":lease"):
                    await client.set(name, "mallory inf")
        quota = first.quota(rate=100.0)
        place = quota.join("caller", first.clock.monotonic() + 60)
        await place.lined_up()
        wait = place.expected_wait()
        await place.turn()
        lease = await surely(partial(first.store.take_lease, parameters.slot.key))

    assert wait <= 2 * 3 / 100.0  # a replica's share of the rate, and its phase
    assert lease is None


_NONSENSE = [
    b"",
    b"[]",
    b"5",
    b"null",
    b'"x"',
    b"\xff\xfe",
    b"[" * 500,
    b"[" * 100_000,
    b"1" * 5000,
    b'{"key": []}',
    b'{"key": {}, "ended": 1, "newest": [""]}',
    b'{"ended": "%s"}' % (b"a" * 100_000),
]


@pytest.mark.parametrize("said", _NONSENSE, ids=range(len(_NONSENSE)))
async def test_nonsense_on_the_channel_deafens_nobody(said: bytes) -> None:
    """Whatever was said before, a replica hears of the next set; and it keeps nothing of what is no id."""
    async with redis_server() as redis, replicas(redis.url) as (first, other), redis.client() as client:
        while await client.publish("keybroker:events", said) < 2:
            await asyncio.sleep(0.01)  # until both listen
        parameters = await a_set()
        news = other.store.news(parameters.slot.key)
        await surely(partial(first.store.keep, parameters))
        async with asyncio.timeout(30):
            await news.wait()

    assert len(other.store.endings) == 0


async def test_a_store_that_goes_is_left_alone_and_found_again(caplog: pytest.LogCaptureFixture) -> None:
    """Failures are quick, told once, counted; and its return is noticed without a restart."""
    async with redis_server() as redis, replicas(redis.url, 1) as (replica,):
        parameters = await a_set()
        await surely(partial(replica.store.keep, parameters))
        await redis.kill()
        for _ in range(20):
            with pytest.raises(StoreAway):
                await replica.store.find(parameters.slot)
        ended_alone = await replica.fleet.ended(parameters)
        await replica.fleet.end(parameters.slot.key, parameters.import_token)
        away = replica.metrics.registry.get_sample_value("keybroker_store_away")
        failures = replica.metrics.registry.get_sample_value("keybroker_store_failures_total")
        await redis.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    if await replica.store.endings._ask([parameters]) == [True]:
                        break
                except StoreAway:
                    pass
                await asyncio.sleep(0.1)

    assert not ended_alone
    assert away == 1
    assert failures is not None
    assert failures < 20
    assert sum("store is away" in record.getMessage() for record in caplog.records) == 1
