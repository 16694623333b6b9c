"""Many brokers behave as one: one KMS call for each key, and never more than the quota."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.fleet.harness import GET, fleet, worst_excess
from tests.fleet.ledger import Handout
from tests.fleet.redis_content import values
from tests.redis_server import redis_server
from tests.tcp_proxy import tcp_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fleet.harness import Fleet
    from tests.redis_server import RedisServer

REPLICAS = 3
CALLERS = 480
KMS_SECONDS = 0.3
LATENESS = 1.5  # seconds by which a loaded machine sends a call late, or notes it late; generous
STOP_SECONDS = 8.0  # that a replica with nothing to do may take to end; generous

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A fleet and its store."""

    brokers: Fleet
    redis: RedisServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Three replicas on one store, with a quota that does not matter and a KMS that takes its time."""
    directory = tmp_path_factory.mktemp("fleet")
    async with (
        redis_server() as redis,
        fleet(directory, stores=[redis.url] * REPLICAS, latency={GET: KMS_SECONDS}) as brokers,
    ):
        yield Site(brokers=brokers, redis=redis)


async def test_many_callers_of_cold_keys_on_many_replicas_cause_one_call_each(site: Site) -> None:
    """480 callers of 8 keys through 3 replicas: KMS is called 8 times, and every caller of a key gets the same set."""
    brokers = site.brokers
    arns = [brokers.double.add_key() for _ in range(8)]
    started = time.monotonic()
    answers = await asyncio.gather(
        *(brokers.get(brokers.replicas[n % REPLICAS], arns[n // REPLICAS % len(arns)]) for n in range(CALLERS))
    )
    elapsed = time.monotonic() - started
    callers = {arn: brokers.callers_of(arn) for arn in arns}
    again = await asyncio.gather(*(brokers.get_everywhere(arn) for arn in arns))

    calls = sum(len(numbers) for numbers in callers.values())
    print(f"{CALLERS} callers, {REPLICAS} replicas, {len(arns)} keys: {calls} calls, all served in {elapsed:.2f} s")
    print(f"sources {dict(Counter(each.source for each in answers))}, {brokers.count('DescribeKey')} DescribeKey")
    assert {arn: len(numbers) for arn, numbers in callers.items()} == dict.fromkeys(arns, 1)
    for arn in arns:
        assert len({answer.token for answer in answers if answer.key_arn == arn}) == 1
    from_kms = {(answer.key_arn, answer.replica) for answer in answers if answer.source == "KMS"}
    from_store = {(answer.key_arn, answer.replica) for answer in answers if answer.source == "STORE"}
    assert from_kms == {(arn, callers[arn][0]) for arn in arns}
    assert from_store == {(arn, number) for arn in arns for number in range(REPLICAS)} - from_kms
    assert {answer.source for everywhere in again for answer in everywhere} == {"CACHE"}


async def test_a_new_replica_fills_itself_from_the_store(site: Site) -> None:
    """One that starts after the others finds their sets in the store and calls KMS for none; the old one ends soon."""
    brokers = site.brokers
    arns = [brokers.double.add_key() for _ in range(4)]
    first, *_, last = brokers.replicas
    stopping = time.monotonic()
    await last.stop()
    stopped = time.monotonic() - stopping
    before = await asyncio.gather(*(brokers.get(first, arn) for arn in arns))
    await last.start()
    after = [await brokers.get(last, arn) for arn in arns]

    assert [answer.source for answer in after] == ["STORE"] * len(arns)
    assert [answer.token for answer in after] == [answer.token for answer in before]
    assert [brokers.callers_of(arn) for arn in arns] == [[first.number]] * len(arns)
    print(f"a replica with nothing to do ends within {stopped:.1f} s")
    assert stopped < STOP_SECONDS


async def test_the_store_shows_neither_keys_nor_sets(site: Site) -> None:
    """No name and no value in Redis holds a key id, a token, a public key, or where they begin."""
    brokers = site.brokers
    answers = await asyncio.gather(*(brokers.get(brokers.replicas[0], brokers.double.add_key()) for _ in range(4)))
    async with site.redis.client() as client:
        written = await values(client)

    assert any(value.holds_a_set for value in written)
    content = b"".join(value.name + (value.field or b"") + value.content for value in written)
    for answer in answers:
        for shown in (answer.key_arn.encode(), answer.key_arn.rpartition("/")[2].encode()):
            assert shown not in content
        for secret in (answer.token, answer.public_key):
            assert secret[-64:] not in content
            assert secret[:48] not in content


async def test_a_cold_fleet_fills_at_the_quota(tmp_path_factory: pytest.TempPathFactory) -> None:
    """100 keys wanted everywhere at once, at 20/s: one call each, none throttled, and no token goes to waste."""
    rate, keys, directory = 20.0, 100, tmp_path_factory.mktemp("fleet")
    async with redis_server() as redis, fleet(directory, stores=[redis.url] * REPLICAS, rate=rate) as brokers:
        brokers.double.limit(GET, rate, burst=1 + int(LATENESS * rate))
        arns = [brokers.double.add_key() for _ in range(keys)]
        started = time.monotonic()
        asking = [brokers.get(replica, arn) for arn in arns for replica in brokers.replicas]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        elapsed, stood_still = time.monotonic() - started, brokers.stalls.total(since=started)
        arrivals, calls = brokers.arrivals(), brokers.count()
        shares = [replica.proxy.count(GET) for replica in brokers.replicas]
        lost_store = [replica.number for replica in brokers.replicas if replica.lost_store()]

    ratio = elapsed / (keys / rate)
    print(f"{keys} keys at {rate}/s in {elapsed:.2f} s: time to fill / (keys / rate) = {ratio:.3f}; {shares} calls")
    print(f"the machine stood still for {stood_still:.2f} s of it")
    print(
        f"calls above rate x time in the busiest stretch: {worst_excess(arrivals, rate):.2f}; {lost_store} lost Redis"
    )
    assert [str(outcome) for outcome in outcomes if isinstance(outcome, BaseException)] == []
    tokens = {answer.token for answer in outcomes if isinstance(answer, Handout)}
    assert lost_store or (calls, len(tokens)) == (
        keys,
        keys,
    )  # Redis is away where the machine stalls for half a second
    assert worst_excess(arrivals, rate) <= 1 + LATENESS * rate
    assert lost_store or elapsed - stood_still <= 1.05 * keys / rate


async def test_nobody_waits_for_a_greedy_caller_of_another_replica(tmp_path_factory: pytest.TempPathFactory) -> None:
    """He lines up for 80 keys there; who wants the last of them here, and has 10 s, is served out of his own turn."""
    rate, keys, directory = 4.0, 80, tmp_path_factory.mktemp("fleet")
    async with redis_server() as redis, fleet(directory, stores=[redis.url] * 2, rate=rate) as brokers:
        greedy, own = brokers.replicas
        arns = [brokers.double.add_key() for _ in range(keys)]
        asking = [asyncio.ensure_future(brokers.get(greedy, arn)) for arn in arns]
        while greedy.proxy.count(GET) < 2:
            await asyncio.sleep(0.05)
        answer = await brokers.get(own, arns[-1], patience=10.0)
        served_before = sum(call.done() for call in asking)
        await asyncio.gather(*asking)
        calls = brokers.count()

    print(f"a caller of one of {keys} keys that another lined up for had it after {served_before} of them")
    assert answer.key_arn == arns[-1]
    assert served_before < keys - 1
    assert calls == keys


async def test_what_a_replica_waits_for_on_its_own_it_takes_from_the_store_once_it_can(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Cut off, it lines up for 40 keys, which another fetches meanwhile; with the cut its calls to KMS end."""
    rate, directory = 10.0, tmp_path_factory.mktemp("fleet")
    async with (
        redis_server() as redis,
        tcp_proxy("127.0.0.1", redis.port) as way,
        fleet(directory, stores=[redis.url, way.url], rate=rate) as brokers,
    ):
        arns = [brokers.double.add_key() for _ in range(40)]
        with_store, cut_off = brokers.replicas
        await way.refuse()
        waiting = asyncio.gather(*(brokers.get(cut_off, arn) for arn in arns))
        await asyncio.gather(*(brokers.get(with_store, arn) for arn in arns))
        await way.heal()
        answers = await waiting
        calls = cut_off.proxy.count(GET)

    sources = Counter(answer.source for answer in answers)
    print(
        f"of 40 sets the replica had {sources['KMS']} from KMS while it was cut off, and {sources['STORE']} after that"
    )
    assert sources["STORE"] > 0
    assert sources["KMS"] == calls == len(arns) - sources["STORE"]
