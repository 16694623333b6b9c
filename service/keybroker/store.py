"""The fleet's shared store, Redis or Valkey: sealed sets, ended sets, leases, the quota. It is never trusted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from redis.exceptions import RedisClusterException, RedisError

from keybroker.errors import KmsBadResponse
from keybroker.kms import check_parameters
from keybroker.lru import Lru
from keybroker.seal import SealError
from keybroker.store_exchange import Exchange, StoreAway
from keybroker.store_scripts import DROP, END, KEEP, RELEASE, RENEW, RESERVE, SLOW_DOWN, TAKE

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.seal import Seal
    from keybroker.tasks import Tasks

_log = logging.getLogger(__name__)

LEASE = 3.0
"""Seconds after which the lease of a replica that has died is free."""

_LONGEST_VALIDITY_MS = 25 * 3600 * 1000
_ENDED_REMEMBERED = 100_000
_LONGEST_TOLD_WAIT = 24 * 3600.0
_ID_LENGTH = 32
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_LONGEST_EVENT = 512
_CHANNEL = "keybroker:events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lease of another replica: the seconds it expects to take, and until the lease expires unless renewed."""

    expected_wait: float
    expires_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of the quota: the seconds until it is due, how many replicas wait for one, whether it is ours."""

    wait: float
    replicas: int
    taken: bool


def set_id(import_token: bytes) -> str:
    """What a set is called where it must not be told: 32 hexadecimal digits of its token's SHA-256."""
    return hashlib.sha256(import_token).hexdigest()[:32]


def _tag(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Store:
    """One connection to the store, for all Regions. Every method raises StoreAway and nothing else.

    Names hold hashes of ARNs; those of one key share a hash tag, and so a cluster's slot.
    """

    def __init__(self, *, client: Any, seal: Seal, replica: str, clock: Clock, tasks: Tasks, metrics: Metrics) -> None:
        """Connects at the first call.

        Args:
            client: redis.asyncio's, of any kind.
            seal: opens and seals entries.
            replica: a name for this process, unlike any other's.
            clock: monotonic time.
            tasks: asks for many at once.
            metrics: counts failures and entries that do not open.
        """
        self._client = client
        self._seal = seal
        self._replica = replica
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._exchange = Exchange(client=client, clock=clock, tasks=tasks, metrics=metrics)
        self._ended: Lru[str, None] = Lru(_ENDED_REMEMBERED)
        self._newest: Lru[str, str] = Lru(_ENDED_REMEMBERED)
        self._news: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._questions: list[tuple[ParameterSet, asyncio.Future[bool]]] = []
        self._asking = False

    @property
    def away(self) -> bool:
        """Whether it is left alone, until it answers again."""
        return self._exchange.away

    # -- sets

    async def find(self, slot: Slot) -> ParameterSet | None:
        """The slot's set, if there is one that opens, is sound and has not been ended."""
        name, field = _sets(slot.key), str(slot.wrapping)
        value = await self._exchange.ask(self._client.hget(name, field))
        if not value:
            return None
        try:
            parameters = self._opened(slot, value)
        except (SealError, KmsBadResponse) as error:
            self._metrics.store_rejected_entries.inc()
            _log.error("an entry in the store does not open, and is deleted: %s", error, extra={"cause": error})
            await self._exchange.script(DROP, [name], [field, value])
            return None
        return None if await self.ended(parameters) else parameters

    def _opened(self, slot: Slot, value: bytes) -> ParameterSet:
        """What is in an entry, checked like an answer from KMS."""
        parameters = self._seal.open(slot, value[_ID_LENGTH:])
        if value[:_ID_LENGTH] != set_id(parameters.import_token).encode():
            raise SealError("the entry is not under its own name")
        as_answered = {
            "KeyId": str(slot.key),
            "PublicKey": parameters.public_key,
            "ImportToken": bytes(parameters.import_token),
            "ParametersValidTo": parameters.valid_to,
            "ResponseMetadata": {"RequestId": parameters.aws_request_id},
        }
        return check_parameters(as_answered, slot, self._clock.now())

    async def keep(self, parameters: ParameterSet, *, supersede: bool) -> None:
        """Keeps a new set for the others, unless it has been ended; ends the key's older ones if it supersedes them."""
        key, identifier = parameters.slot.key, set_id(parameters.import_token)
        field, value = str(parameters.slot.wrapping), b""
        try:
            value = identifier.encode() + self._seal.seal(parameters)
        except SealError as error:
            field = ""  # the others go without it
            _log.error("a set cannot be sealed: %s", error)
        await self._keep(key, field, value, identifier, supersede=supersede)

    async def supersede(self, key: KeyArn, newest: str) -> None:
        """Ends all of a key's sets but the newest, which is not kept for others."""
        await self._keep(key, "", b"", newest, supersede=True)

    async def _keep(self, key: KeyArn, field: str, value: bytes, identifier: str, *, supersede: bool) -> None:
        if supersede:
            self._newest[_tag(str(key))] = identifier
        arguments = [field, value, identifier, int(supersede), _LONGEST_VALIDITY_MS, _CHANNEL, _tag(str(key))]
        await self._exchange.script(KEEP, [_sets(key), _ended(key)], arguments)

    async def end(self, key: KeyArn, identifier: str) -> None:
        """Ends a set for every replica, from the moment this returns."""
        self._ended[identifier] = None
        await self._exchange.script(
            END, [_sets(key), _ended(key)], [identifier, _LONGEST_VALIDITY_MS, _CHANNEL, _tag(str(key))]
        )

    def known_ended(self, parameters: ParameterSet) -> bool:
        """Whether this replica has heard that a set is ended."""
        identifier = set_id(parameters.import_token)
        newest = self._newest.get(_tag(str(parameters.slot.key)), identifier)
        return identifier in self._ended or newest != identifier

    async def ended(self, parameters: ParameterSet) -> bool:
        """Whether any replica has ended a set. Questions that come while one is under way go together in the next."""
        if self.known_ended(parameters):
            return True
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._questions.append((parameters, answer))
        if not self._asking:
            self._asking = True
            self._tasks.start(self._answer_questions())
        try:
            return await answer
        except StoreAway as error:
            raise StoreAway from error

    async def _answer_questions(self) -> None:
        try:
            while self._questions:
                questions, self._questions = self._questions, []
                asked = {id(parameters): parameters for parameters, _ in questions}
                try:
                    answers = dict(zip(asked, await self._ask_ended(list(asked.values())), strict=True))
                except StoreAway as error:
                    for _, answer in questions:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for parameters, answer in questions:
                    if not answer.done():
                        answer.set_result(answers[id(parameters)])
        finally:
            self._asking = False

    async def _ask_ended(self, sets: list[ParameterSet]) -> list[bool]:
        async def ask() -> list[Any]:
            pipeline = self._client.pipeline(transaction=False)
            for parameters in sets:
                pipeline.zscore(_ended(parameters.slot.key), set_id(parameters.import_token))
                pipeline.hget(_sets(parameters.slot.key), "newest")
            answers: list[Any] = await pipeline.execute()
            return answers

        answers = await self._exchange.ask(ask())
        ended = []
        for parameters, score, newest in zip(sets, answers[::2], answers[1::2], strict=True):
            identifier = set_id(parameters.import_token)
            if score is not None or newest not in (None, identifier.encode()):
                self._ended[identifier] = None
            ended.append(identifier in self._ended)
        return ended

    # -- leases

    async def take_lease(self, key: KeyArn) -> Held | None:
        """None if the key's lease is now this replica's."""
        answer = await self._exchange.script(TAKE, [_lease(key)], [self._replica, int(LEASE * 1000)])
        if answer is None:
            return None
        value, rest = answer
        wait = 0.0
        with suppress(ValueError, IndexError, AttributeError):
            told = float(value.split(b" ")[1])
            wait = told if 0 <= told <= _LONGEST_TOLD_WAIT else 0.0
        return Held(expected_wait=wait, expires_in=rest / 1000)

    async def renew_lease(self, key: KeyArn, expected_wait: float) -> None:
        """Keeps the lease, and tells how long it will take."""
        await self._exchange.script(RENEW, [_lease(key)], [self._replica, f"{expected_wait:.3f}", int(LEASE * 1000)])

    async def release_lease(self, key: KeyArn) -> None:
        """Frees the lease for the others, who are told."""
        await self._exchange.script(RELEASE, [_lease(key)], [self._replica, _CHANNEL, _tag(str(key))])

    def news(self, key: KeyArn) -> asyncio.Event:
        """Set when another replica says something about the key; to be had before the question it may answer."""
        return self._news.setdefault(_tag(str(key)), asyncio.Event())

    async def listen(self) -> None:
        """Hears what other replicas do, for as long as it runs."""
        while True:
            with suppress(RedisError, RedisClusterException, OSError, TimeoutError, KeyError):
                await self._client.initialize()  # a cluster's client does not know its nodes before
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(_CHANNEL)
                    self._exchange.try_again()
                    while True:
                        if message := await channel.get_message(timeout=5.0):
                            self._hear(message["data"])
            await self._clock.sleep(0.5)

    def _hear(self, data: bytes) -> None:
        event = _event(data)
        if identifier := event.get("ended"):
            self._ended[identifier] = None
        if "key" not in event:
            return
        if newest := event.get("newest"):
            self._newest[event["key"]] = newest
        if waiting := self._news.pop(event["key"], None):
            waiting.set()

    # -- quota

    async def reserve(self, account: str, region: str, *, interval: float, guard: float, longest: float) -> Token:
        """The next token of the account's quota in a Region, by the store's clock.

        Args:
            account: 12 digits.
            region: its name.
            interval: seconds between two tokens.
            guard: seconds in which no token is given out, after a time without the store.
            longest: seconds; a token that is due later is not taken.
        """
        micro = 1_000_000
        arguments = [int(interval * micro), int(guard * micro), self._replica, int(longest * micro)]
        wait, active, taken = await self._exchange.script(RESERVE, _quota(account, region), arguments)
        return Token(wait=int(wait) / micro, replicas=active, taken=bool(taken))

    async def slow_down(self, account: str, region: str, interval: float, seconds: float) -> None:
        """KMS has throttled: for all replicas, half the rate for so many seconds, beginning with a pause."""
        await self._exchange.script(
            SLOW_DOWN, _quota(account, region), [int(interval * 2_000_000), int(seconds * 1000)]
        )


def _event(data: bytes) -> dict[str, str]:
    """What is said on the channel, by name. Whoever can write the store can say anything: what is no id is left out."""
    if len(data) > _LONGEST_EVENT:
        return {}
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(event, dict):
        return {}
    return {name: value for name, value in event.items() if isinstance(value, str) and _ID.fullmatch(value)}


def _sets(key: KeyArn) -> str:
    return f"keybroker:{{{_tag(str(key))}}}:sets"


def _ended(key: KeyArn) -> str:
    return f"keybroker:{{{_tag(str(key))}}}:ended"


def _lease(key: KeyArn) -> str:
    return f"keybroker:{{{_tag(str(key))}}}:lease"


def _quota(account: str, region: str) -> list[str]:
    tag = _tag("quota", account, region)
    return [f"keybroker:{{{tag}}}:quota", f"keybroker:{{{tag}}}:waiting", f"keybroker:{{{tag}}}:slow"]
