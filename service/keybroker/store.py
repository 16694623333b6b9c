"""The fleet's shared store, Redis or Valkey: sealed sets, ended sets, leases, the quota. It is never trusted."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from keybroker.errors import KmsBadResponse
from keybroker.kms import check_parameters
from keybroker.lru import Lru
from keybroker.seal import SealError, expiry
from keybroker.store_channel import CHANNEL, Channel
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

_VALIDITY_MS = 24 * 3600 * 1000
_LONGEST_VALIDITY_MS = 25 * 3600 * 1000
_ENDED_REMEMBERED = 100_000
_MARKS = 1000
"""Ended sets of one key that the store remembers: callers can report as many tokens as they like."""
_LONGEST_TOLD_WAIT = 24 * 3600.0
_ID_LENGTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lease of another replica: the seconds it expects to take, and until the lease expires unless renewed."""

    expected_wait: float
    expires_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of the quota: the seconds until it is due, how many replicas wait for one, whether it is ours.

    `interval` are the seconds between two, which throttling doubles.
    """

    wait: float
    replicas: int
    taken: bool
    interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    """The newest set of a key that this replica has seen, and its expiry in ms since 1970, later than older ones'."""

    identifier: str
    expiry: int


def set_id(import_token: bytes) -> str:
    """What a set is called where it must not be told: 32 hexadecimal digits of its token's SHA-256."""
    return hashlib.sha256(import_token).hexdigest()[:32]


def _tag(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Store:
    """One connection to the store, for all Regions. Every method raises StoreAway and nothing else.

    Names hold hashes of ARNs; those of one key share a hash tag, and so a cluster's slot.
    """

    def __init__(
        self,
        *,
        client: Any,
        seal: Seal,
        replica: str,
        supersede: bool,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        """Connects at the first call.

        Args:
            client: redis.asyncio's, of any kind.
            seal: opens and seals entries.
            replica: a name for this process, unlike any other's.
            supersede: whether a newer set for a key ends the older ones of that key.
            clock: monotonic time.
            tasks: asks for many at once.
            metrics: counts failures and entries that do not open.
        """
        self._client = client
        self._seal = seal
        self._replica = replica
        self._supersede = supersede
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._exchange = Exchange(client=client, clock=clock, tasks=tasks, metrics=metrics)
        self._channel = Channel(client=client, exchange=self._exchange, clock=clock, metrics=metrics)
        self._ended: Lru[str, None] = Lru(_ENDED_REMEMBERED)
        self._newest: Lru[str, _Newest] = Lru(_ENDED_REMEMBERED)
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
        if await self.ended(parameters):
            return None
        self.note_newest(parameters)
        return parameters

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

    def note_newest(self, parameters: ParameterSet) -> None:
        """This replica has a set of a key in its hands, newer than all it knows of."""
        if self._supersede:
            newest = _Newest(identifier=set_id(parameters.import_token), expiry=expiry(parameters))
            self._end_newest(parameters.slot.key, but=newest.identifier)
            self._newest[_tag(str(parameters.slot.key))] = newest

    def note_superseded(self, key: KeyArn) -> None:
        """All of a key's sets that this replica has had in its hands may have been superseded, by a set nobody has."""
        self._end_newest(key)

    def _end_newest(self, key: KeyArn, but: str = "") -> None:
        newest = self._newest.pop(_tag(str(key)), None)
        if newest and newest.identifier != but:
            self._ended[newest.identifier] = None

    async def keep(self, parameters: ParameterSet, *, late: bool = False) -> None:
        """Keeps a new set for the others, unless it has been ended; ends the key's older ones if it supersedes them.

        Args:
            parameters: the set.
            late: whether the store may know of a newer one by now: then this one is ended.
        """
        field, value = str(parameters.slot.wrapping), b""
        identifier = set_id(parameters.import_token)
        try:
            value = identifier.encode() + self._seal.seal(parameters)
        except SealError as error:
            field = ""  # the others go without it
            _log.error("a set cannot be sealed: %s", error)
        await self._keep(parameters.slot.key, [field, value, identifier], expiry(parameters), late=late)

    async def supersede(self, key: KeyArn, newest: ParameterSet | None, *, late: bool = False) -> None:
        """Ends all of a key's sets but the newest, which is not kept for others; None if nobody knows that one."""
        if newest:
            await self._keep(key, ["", b"", set_id(newest.import_token)], expiry(newest), late=late)
        else:
            as_if_issued_now = int(self._clock.now().timestamp() * 1000) + _VALIDITY_MS
            await self._keep(key, ["", b"", secrets.token_hex(_ID_LENGTH // 2)], as_if_issued_now, late=late)

    async def _keep(self, key: KeyArn, entry: list[Any], expires: int, *, late: bool) -> None:
        arguments = [*entry, int(self._supersede), expires, int(late), _LONGEST_VALIDITY_MS, CHANNEL, _tag(str(key))]
        await self._exchange.script(KEEP, [_sets(key), _ended(key)], arguments)

    async def end(self, key: KeyArn, identifier: str) -> None:
        """Ends a set for every replica, from the moment this returns."""
        self._ended[identifier] = None
        arguments = [identifier, _LONGEST_VALIDITY_MS, CHANNEL, _tag(str(key)), _MARKS]
        await self._exchange.script(END, [_sets(key), _ended(key)], arguments)

    def known_ended(self, parameters: ParameterSet) -> bool:
        """Whether this replica has heard that a set is ended, or has had a newer one of its key."""
        identifier = set_id(parameters.import_token)
        newest = self._newest.get(_tag(str(parameters.slot.key)))
        newer = newest is not None and newest.identifier != identifier and newest.expiry > expiry(parameters)
        return newer or identifier in self._ended

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
                pipeline.hmget(_sets(parameters.slot.key), "newest", "newest_expiry")
            answers: list[Any] = await pipeline.execute()
            return answers

        answers = await self._exchange.ask(ask())
        ended = []
        for parameters, score, (newest, newest_expiry) in zip(sets, answers[::2], answers[1::2], strict=True):
            identifier = set_id(parameters.import_token)
            if score is not None or (
                newest not in (None, identifier.encode()) and not _older(newest_expiry, parameters)
            ):
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
        await self._exchange.script(RELEASE, [_lease(key)], [self._replica, CHANNEL, _tag(str(key))])

    def news(self, key: KeyArn) -> asyncio.Event:
        """Set when another replica says something about the key; to be had before the question it may answer."""
        return self._news.setdefault(_tag(str(key)), asyncio.Event())

    async def listen(self) -> None:
        """Hears what other replicas do, for as long as it runs."""
        await self._channel.listen(self._hear)

    def _hear(self, event: dict[str, str]) -> None:
        if identifier := event.get("ended"):
            self._ended[identifier] = None
        if "key" not in event:
            return
        newest = self._newest.get(event["key"])
        if newest and event.get("newest", newest.identifier) != newest.identifier:
            self._ended[newest.identifier] = None
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
        wait, active, taken, between = await self._exchange.script(RESERVE, _quota(account, region), arguments)
        return Token(wait=int(wait) / micro, replicas=active, taken=bool(taken), interval=int(between) / micro)

    async def slow_down(self, account: str, region: str, interval: float, seconds: float) -> None:
        """KMS has throttled: for all replicas, half the rate for so many seconds, beginning with a pause."""
        await self._exchange.script(
            SLOW_DOWN, _quota(account, region), [int(interval * 2_000_000), int(seconds * 1000)]
        )


def _older(newest_expiry: bytes | None, parameters: ParameterSet) -> bool:
    """Whether what the store calls the newest is older than this set: whoever has issued it will tell, once he can."""
    try:
        return newest_expiry is not None and int(newest_expiry) < expiry(parameters)
    except ValueError:
        return False


def _sets(key: KeyArn) -> str:
    return f"keybroker:{{{_tag(str(key))}}}:sets"


def _ended(key: KeyArn) -> str:
    return f"keybroker:{{{_tag(str(key))}}}:ended"


def _lease(key: KeyArn) -> str:
    return f"keybroker:{{{_tag(str(key))}}}:lease"


def _quota(account: str, region: str) -> list[str]:
    tag = _tag("quota", account, region)
    return [f"keybroker:{{{tag}}}:quota", f"keybroker:{{{tag}}}:waiting", f"keybroker:{{{tag}}}:slow"]
