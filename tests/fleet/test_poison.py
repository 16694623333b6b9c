"""Whoever can write the store can make the fleet call KMS more often, and that is all."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.conftest import read_refusal
from tests.fleet.harness import fleet, times
from tests.fleet.load import load
from tests.fleet.redis_content import values
from tests.kms_double import kms_double
from tests.redis_server import redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fleet.harness import Fleet, Replica
    from tests.fleet.ledger import Handout
    from tests.fleet.redis_content import Value

REPLICAS = 3
KEYS = 8
VARIANTS = times(128, campaign=10_000)
TINY = "max_entries = 1"  # of the own cache, so that every key is looked for in the store again


def _bit_flipped(own: bytes, _other: bytes, _attackers: bytes, dice: random.Random) -> bytes:
    altered = bytearray(own)
    altered[dice.randrange(len(altered))] ^= 1 << dice.randrange(8)
    return bytes(altered)


def _bit_flipped_in_front(own: bytes, _other: bytes, _attackers: bytes, dice: random.Random) -> bytes:
    altered = bytearray(own)
    altered[dice.randrange(80)] ^= 1 << dice.randrange(8)
    return bytes(altered)


def _spliced(own: bytes, other: bytes, _attackers: bytes, dice: random.Random) -> bytes:
    at = dice.choice((8, 16, 32, 33, 41, 49, 61, dice.randrange(len(own))))
    return own[:at] + other[at:]


_FORGERIES: dict[str, Callable[[bytes, bytes, bytes, random.Random], bytes]] = {
    "a bit flipped": _bit_flipped,
    "a bit of the head flipped": _bit_flipped_in_front,
    "truncated": lambda own, _, __, dice: own[: dice.randrange(len(own))],
    "beheaded": lambda own, _, __, dice: own[dice.randrange(1, len(own)) :],
    "extended": lambda own, _, __, dice: own + dice.randbytes(dice.randrange(1, 64)),
    "another key's": lambda _, other, __, ___: other,
    "another key's under the own name": lambda own, other, _, __: own[:32] + other[32:],
    "spliced with another key's": _spliced,
    "the attacker's": lambda _, __, attackers, ___: attackers,
    "the attacker's under the own name": lambda own, _, attackers, __: own[:32] + attackers[32:],
    "spliced with the attacker's": lambda own, _, attackers, dice: _spliced(own, attackers, b"", dice),
    "empty": lambda _, __, ___, ____: b"",
    "noise": lambda own, _, __, dice: dice.randbytes(len(own)),
    "zeros": lambda own, _, __, ___: bytes(len(own)),
    "huge": lambda own, _, __, ___: own * 64,
    "text": lambda _, __, ___, ____: b'{"public_key": "AAAA", "import_token": "AAAA"}',
}


async def _entry_of(brokers: Fleet, client: Any, arn: str) -> Value:
    """Where the store has a key's set: what appears there when the key is asked for first."""
    before = {(value.name, value.field) for value in await values(client)}
    await brokers.get(brokers.replicas[0], arn)
    fresh = [value for value in await values(client) if (value.name, value.field) not in before and value.holds_a_set]
    assert len(fresh) == 1
    return fresh[0]


async def _attackers_entries(directory: Path, brokers: Fleet, arns: list[str]) -> list[bytes]:
    """Entries for the same keys, with good RSA keys of the attacker's: from a broker with its own KMS and seal key."""
    directory.mkdir(mode=0o700)
    async with redis_server() as redis, redis.client() as client, kms_double() as double:
        double.keys._keys.update(brokers.double.keys._keys)
        async with fleet(directory, stores=[redis.url], double=double) as attackers:
            return [(await _entry_of(attackers, client, arn)).content for arn in arns]


async def _read(client: Any, entry: Value) -> bytes:
    content = await (client.get(entry.name) if entry.field is None else client.hget(entry.name, entry.field))
    return content or b""


@pytest.mark.timeout(90 + VARIANTS // 10)
async def test_no_forged_entry_is_served(tmp_path: Path) -> None:
    """Every kind of forgery, over and over, read by two replicas at once: each caller gets a set that KMS issued."""
    dice = random.Random(4)  # noqa: S311 -- the same forgeries every time
    kinds = itertools.cycle(_FORGERIES.items())
    forged, served_forged, tried = 0, 0, dict.fromkeys(_FORGERIES, 0)
    async with (
        redis_server() as redis,
        redis.client() as client,
        fleet(tmp_path, stores=[redis.url] * REPLICAS, parameters=TINY) as brokers,
    ):
        arns = [brokers.double.add_key() for _ in range(KEYS)]
        entries = [await _entry_of(brokers, client, arn) for arn in arns]
        attackers = await _attackers_entries(tmp_path / "attacker", brokers, arns)
        other = brokers.double.add_key()
        while forged < VARIANTS:
            before = await asyncio.gather(*(brokers.get(brokers.replicas[0], arn) for arn in arns))
            await brokers.get_everywhere(other)  # drives the keys out of every replica's own cache
            honest = [await _read(client, entry) for entry in entries]
            for n, entry in enumerate(entries):
                kind, forge = next(kinds)
                content = forge(honest[n], honest[n - 1], attackers[n], dice)
                assert content != honest[n]
                await entry.write(client, content)
                tried[kind] += 1
                forged += 1
            calls = brokers.count()
            after = await asyncio.gather(
                *(brokers.get(replica, arn) for replica in brokers.replicas[1:] for arn in arns)
            )
            assert brokers.count() - calls <= KEYS
            served_forged += sum(
                answer.token == earlier.token
                for answer in after
                for earlier in before
                if earlier.key_arn == answer.key_arn
            )
            next(kinds)  # so that each key meets each kind
        warnings = sum(len(replica.warnings()) for replica in brokers.replicas)

    print(f"{forged} forged entries, at least {min(tried.values())} of each kind: {brokers.ledger.checked} answers,")
    print(f"{len(brokers.ledger.wrong)} wrong, {served_forged} from the store all the same; {warnings} warnings logged")
    assert brokers.ledger.wrong == []
    assert served_forged == 0
    assert min(tried.values()) > 0
    assert warnings > 0


async def test_an_old_entry_put_back(tmp_path: Path) -> None:
    """A consumed set's own entry, good but for being consumed: no replica hands it out again."""
    rounds = times(8, campaign=100)
    stale: list[tuple[int, int, str]] = []
    async with (
        redis_server() as redis,
        redis.client() as client,
        fleet(tmp_path, stores=[redis.url] * REPLICAS, parameters=TINY) as brokers,
    ):
        other = brokers.double.add_key()
        for number in range(rounds):
            arn = brokers.double.add_key()
            entry = await _entry_of(brokers, client, arn)
            held = await brokers.get_everywhere(arn)
            await brokers.import_into(brokers.replicas[number % REPLICAS], held[0], bytes(32))
            await brokers.get_everywhere(other)  # drives the key out of every replica's own cache
            await entry.write(client, entry.content)

            after = await brokers.get_everywhere(arn, each=2)

            stale += [(number, each.replica, each.source) for each in after if each.token == held[0].token]
    print(f"{rounds} consumed sets put back: {len(stale)} handed out again")
    assert stale == []


@pytest.mark.timeout(120)
async def test_an_attacker_at_work_under_load(tmp_path: Path) -> None:
    """All in the store is overwritten, of the wrong type, or announced falsely, again and again: no call fails."""
    dice = random.Random(4)  # noqa: S311 -- as above
    seconds = times(3, campaign=40)
    async with (
        redis_server() as redis,
        redis.client() as client,
        fleet(tmp_path, stores=[redis.url] * REPLICAS, rate=50.0, parameters=TINY) as brokers,
    ):
        warm = [brokers.double.add_key() for _ in range(KEYS)]
        heard: list[tuple[bytes, bytes]] = []
        async with client.pubsub() as ear, load(brokers, warm, cold_per_second=4) as callers:
            await ear.psubscribe("*")
            for _ in range(seconds * 5):
                while message := await ear.get_message(ignore_subscribe_messages=True, timeout=0):
                    heard.append((message["channel"], message["data"]))
                for value in await values(client):
                    if dice.random() < 1 / 8:
                        await value.write_another_type(client)
                    elif dice.random() < 1 / 2:
                        await value.write(client, _bit_flipped(value.content or b"0", b"", b"", dice))
                for channel, data in dice.sample(heard, min(8, len(heard))):
                    await client.publish(channel, _bit_flipped(data or b"0", b"", b"", dice))
                    await client.publish(channel, dice.randbytes(40))
                    await client.publish(channel, b"[" * 5000)
                await asyncio.sleep(0.2)
        listening = (await client.pubsub_numsub("keybroker:events"))[0][1]

    print(f"{seconds} s under attack, {len(heard)} messages overheard: {callers.summary()}")
    assert callers.failed == []
    assert brokers.ledger.wrong == []
    assert callers.unready == []
    assert listening == REPLICAS


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned:
    """A fleet, and an attacker's connection to its store."""

    brokers: Fleet
    client: Any


@pytest.fixture
async def poisoned(tmp_path: Path) -> AsyncIterator[Poisoned]:
    """Two replicas on one store."""
    async with (
        redis_server() as redis,
        redis.client() as client,
        fleet(tmp_path, stores=[redis.url] * 2, rate=20.0) as brokers,
    ):
        yield Poisoned(brokers=brokers, client=client)


async def test_a_poisoned_quota(poisoned: Poisoned) -> None:
    """Whatever is written over what is no set, new keys are served, in time, with no more calls than replicas need."""
    brokers, client = poisoned.brokers, poisoned.client
    contents = [b"banana", b"1e300", b"9" * 18, b"-" + b"9" * 18, b"nan", b"inf", b""]
    failed: dict[bytes, list[str]] = {}
    calls: dict[bytes, int] = {}
    for content in contents:
        await asyncio.gather(brokers.get_everywhere(brokers.double.add_key()), return_exceptions=True)
        for value in await values(client):
            if not value.holds_a_set:
                await value.write(client, content)
        arns = [brokers.double.add_key() for _ in range(10)]
        before = brokers.count()
        asking = [brokers.get(replica, arn, patience=20) for replica in brokers.replicas for arn in arns]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        failed[content] = [_in_a_word(each) for each in outcomes if isinstance(each, BaseException)]
        calls[content] = brokers.count() - before

    print(f"calls for 10 keys through 2 replicas, by what was written: {calls}")
    assert failed == {content: [] for content in contents}
    assert max(calls.values()) <= 15  # 10, and a few where the machine stalls


async def test_leases_that_never_end(poisoned: Poisoned) -> None:
    """Whatever stands for ever where a replica would note that it is calling KMS: callers are served all the same."""
    brokers, client = poisoned.brokers, poisoned.client
    contents = [b"attacker 0", b"attacker 1e300", b"attacker nan", b"attacker -1e300", b"attacker", b"\xff" * 100]
    await brokers.get_everywhere(brokers.double.add_key())  # what all keys have in common is there by now
    held = {content: await _held_and_noted(brokers, client) for content in contents}
    for content, (handout, notes) in held.items():
        await brokers.discard(brokers.replicas[0], handout)
        for note in notes:
            await client.set(note, content)

    async def ask(content: bytes, replica: Replica) -> str:
        handout, _ = held[content]
        asking = brokers.get(replica, handout.key_arn, patience=20)
        (outcome,) = await asyncio.gather(asking, return_exceptions=True)
        return _in_a_word(outcome, handout)

    served = await asyncio.gather(*(ask(content, replica) for content in contents for replica in brokers.replicas))

    each = len(brokers.replicas)
    outcomes = {content: served[n * each : (n + 1) * each] for n, content in enumerate(contents)}

    assert outcomes == {content: ["a set"] * len(brokers.replicas) for content in contents}


def _in_a_word(outcome: Handout | BaseException, spent: Handout | None = None) -> str:
    if isinstance(outcome, grpc.aio.AioRpcError):
        return read_refusal(outcome).reason or outcome.code().name
    if isinstance(outcome, BaseException):
        return repr(outcome)
    return "a set" if spent is None or outcome.token != spent.token else "the spent set"


async def _held_and_noted(brokers: Fleet, client: Any) -> tuple[Handout, set[bytes]]:
    """A key's set, and what was noted in the store while KMS was asked for it."""
    arn = brokers.double.add_key()
    before = {value.name for value in await values(client)}
    brokers.ledger.hold()
    asking = asyncio.ensure_future(brokers.get(brokers.replicas[0], arn))
    async with asyncio.timeout(30):
        while not brokers.callers_of(arn):
            await asyncio.sleep(0.01)
    notes = {value.name for value in await values(client)} - before
    brokers.ledger.resume()
    assert notes
    return await asking, notes
