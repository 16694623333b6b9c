"""The fleet's shared store, Redis or Valkey: sealed sets, ended sets, leases, the quota. It is never trusted."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from keybroker.errors import KmsBadResponse
from keybroker.kms import check_parameters
from keybroker.seal import SealError, expiry
from keybroker.store_channel import CHANNEL, Channel
from keybroker.store_endings import Endings
from keybroker.store_exchange import FAILURES, Exchange, StoreAway, StoreRefuses
from keybroker.store_names import ID_LENGTH, ended_of, key_tag, lease_of, quota_of, set_id, sets_of
from keybroker.store_scripts import DROP, END, KEEP, RELEASE, RENEW, RESERVE, SLOW_DOWN, TAKE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.seal import Seal
    from keybroker.tasks import Tasks

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LEASE = 3.0
"""Seconds after which the lease of a replica that has died is free."""

_LONGEST_VALIDITY_MS = 25 * 3600 * 1000
_MARKS = 1000
"""Ended sets of one key that the store remembers: callers can report as many tokens as they like."""
_LONGEST_TOLD_WAIT = 24 * 3600.0


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
        self._metrics = metrics
        self._exchange = Exchange(client=client, clock=clock, tasks=tasks, metrics=metrics)
        self._channel = Channel(client=client, exchange=self._exchange, clock=clock, metrics=metrics)
        self.endings = Endings(client=client, exchange=self._exchange, supersede=supersede, clock=clock, tasks=tasks)
        self._news: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    @property
    def away(self) -> bool:
        """Whether it is left alone, until it answers again."""
        return self._exchange.away

    async def insist(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Asks again where no answer came: a moment's stall, of this process too, is not yet a store that is away.

        Raises:
            StoreAway
        """
        for _ in range(FAILURES):
            try:
                return await question()
            except StoreRefuses:
                raise
            except StoreAway:
                if self.away:
                    raise
        return await question()

    # -- sets

    async def find(self, slot: Slot) -> ParameterSet | None:
        """The slot's set, if there is one that opens, is sound and has not been ended."""
        name, field = sets_of(slot.key), str(slot.wrapping)
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
        if await self.endings.asked(parameters):
            return None
        self.endings.note_newest(parameters)
        return parameters

    def _opened(self, slot: Slot, value: bytes) -> ParameterSet:
        """What is in an entry, checked like an answer from KMS."""
        parameters = self._seal.open(slot, value[ID_LENGTH:])
        if value[:ID_LENGTH] != set_id(parameters.import_token).encode():
            raise SealError("the entry is not under its own name")
        as_answered = {
            "KeyId": str(slot.key),
            "PublicKey": parameters.public_key,
            "ImportToken": bytes(parameters.import_token),
            "ParametersValidTo": parameters.valid_to,
            "ResponseMetadata": {"RequestId": parameters.aws_request_id},
        }
        return check_parameters(as_answered, slot, self._clock.now())

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

    async def supersede(self, key: KeyArn, identifier: str, expires: int, *, late: bool = False) -> None:
        """Ends all of a key's sets but the newest, of this id and expiry (ms since 1970), which is kept for nobody."""
        await self._keep(key, ["", b"", identifier], expires, late=late)

    async def _keep(self, key: KeyArn, entry: list[Any], expires: int, *, late: bool) -> None:
        arguments = [*entry, int(self._supersede), expires, int(late), _LONGEST_VALIDITY_MS, CHANNEL, key_tag(key)]
        await self._exchange.script(KEEP, [sets_of(key), ended_of(key)], arguments)

    async def end(self, key: KeyArn, identifier: str) -> None:
        """Ends a set for every replica, from the moment this returns."""
        self.endings.note(identifier)
        arguments = [identifier, _LONGEST_VALIDITY_MS, CHANNEL, key_tag(key), _MARKS]
        await self._exchange.script(END, [sets_of(key), ended_of(key)], arguments)

    # -- leases

    async def take_lease(self, key: KeyArn) -> Held | None:
        """None if the key's lease is now this replica's."""
        answer = await self._exchange.script(TAKE, [lease_of(key)], [self._replica, int(LEASE * 1000)])
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
        await self._exchange.script(RENEW, [lease_of(key)], [self._replica, f"{expected_wait:.3f}", int(LEASE * 1000)])

    async def release_lease(self, key: KeyArn) -> None:
        """Frees the lease for the others, who are told."""
        await self._exchange.script(RELEASE, [lease_of(key)], [self._replica, CHANNEL, key_tag(key)])

    def news(self, key: KeyArn) -> asyncio.Event:
        """Set when another replica says something about the key; to be had before the question it may answer."""
        return self._news.setdefault(key_tag(key), asyncio.Event())

    async def listen(self) -> None:
        """Hears what other replicas do, for as long as it runs."""
        await self._channel.listen(self._hear)

    def _hear(self, event: dict[str, str]) -> None:
        self.endings.hear(event)
        if waiting := self._news.pop(event.get("key", ""), None):
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
        wait, active, taken, between = await self._exchange.script(RESERVE, quota_of(account, region), arguments)
        return Token(wait=int(wait) / micro, replicas=active, taken=bool(taken), interval=int(between) / micro)

    async def slow_down(self, account: str, region: str, interval: float, seconds: float) -> None:
        """KMS has throttled: for all replicas, half the rate for so many seconds, beginning with a pause."""
        await self._exchange.script(
            SLOW_DOWN, quota_of(account, region), [int(interval * 2_000_000), int(seconds * 1000)]
        )
