"""Which sets have been ended, by whomever: what this replica has seen and heard, and what the store knows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keybroker.lru import Lru
from keybroker.seal import expiry
from keybroker.store_exchange import StoreAway
from keybroker.store_names import ended_of, key_tag, set_id, sets_of

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.model import KeyArn, ParameterSet, Slot
    from keybroker.store_exchange import Exchange
    from keybroker.tasks import Tasks

_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    """The newest set of a key that this replica has seen, and its expiry in ms since 1970, later than older ones'."""

    identifier: str
    expiry: int


class Endings:
    """The sets that are handed out no more."""

    def __init__(self, *, client: Any, exchange: Exchange, supersede: bool, clock: Clock, tasks: Tasks) -> None:
        """Nothing has been ended yet, as far as is known here.

        Args:
            client: redis.asyncio's, of any kind.
            exchange: the way to the store.
            supersede: whether a newer set for a key ends the older ones of that key.
            clock: judges which sets have expired.
            tasks: asks for many at once.
        """
        self._client = client
        self._exchange = exchange
        self._supersede = supersede
        self._clock = clock
        self._tasks = tasks
        self._ended: Lru[str, None] = Lru(_REMEMBERED)
        self._newest: Lru[str, _Newest] = Lru(_REMEMBERED)
        self._questions: list[tuple[ParameterSet, asyncio.Future[bool]]] = []
        self._asking = False

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._ended)

    def note(self, identifier: str) -> None:
        """One has been ended here."""
        self._ended[identifier] = None

    def hear(self, event: dict[str, str]) -> None:
        """Another replica, or whoever can write the store, says that one has been ended, or that there is a newer."""
        if identifier := event.get("ended"):
            self._ended[identifier] = None
        newest = self._newest.get(event.get("key", ""))
        if newest and event.get("newest", newest.identifier) != newest.identifier:
            self._ended[newest.identifier] = None

    def note_newest(self, parameters: ParameterSet) -> None:
        """This replica has a set of a key in its hands, newer than all it knows of."""
        if self._supersede:
            newest = _Newest(identifier=set_id(parameters.import_token), expiry=expiry(parameters))
            self._end_newest(parameters.slot.key, but=newest.identifier)
            self._newest[key_tag(parameters.slot.key)] = newest

    def note_superseded(self, key: KeyArn) -> None:
        """All of a key's sets that this replica has had in its hands may have been superseded, by a set nobody has."""
        self._end_newest(key)

    def _end_newest(self, key: KeyArn, but: str = "") -> None:
        newest = self._newest.pop(key_tag(key), None)
        if newest and newest.identifier != but:
            self._ended[newest.identifier] = None

    def known(self, parameters: ParameterSet) -> bool:
        """Whether this replica has heard that a set is ended, or has had a newer one of its key."""
        identifier = set_id(parameters.import_token)
        newest = self._newest.get(key_tag(parameters.slot.key))
        newer = newest is not None and newest.identifier != identifier and newest.expiry > expiry(parameters)
        return newer or identifier in self._ended

    async def asked(self, parameters: ParameterSet) -> bool:
        """Whether any replica has ended a set. Questions that come while one is under way go together in the next."""
        if self.known(parameters):
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

    async def any_ended_by_one_for(self, slot: Slot) -> bool:
        """Whether the store knows of a live set that a new one for the slot would end; the slot's own is to be had."""

        async def ask() -> list[Any]:
            answers: list[Any] = await self._client.hmget(
                sets_of(slot.key), "newest", "newest_expiry", str(slot.wrapping)
            )
            newest = answers[0]
            ended = newest and await self._client.zscore(ended_of(slot.key), newest) is not None
            return [*answers, ended]

        newest, newest_expiry, entry, ended = await self._exchange.ask(ask())
        if not newest or ended or (entry or b"").startswith(newest):
            return False
        try:
            return int(newest_expiry) > self._clock.now().timestamp() * 1000
        except (TypeError, ValueError):
            return False

    async def _answer_questions(self) -> None:
        try:
            while self._questions:
                questions, self._questions = self._questions, []
                asked = {id(parameters): parameters for parameters, _ in questions}
                try:
                    answers = dict(zip(asked, await self._ask(list(asked.values())), strict=True))
                except Exception as error:  # noqa: BLE001 -- those who wait raise it; nobody may wait for ever
                    for _, answer in questions:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for parameters, answer in questions:
                    if not answer.done():
                        answer.set_result(answers[id(parameters)])
        finally:
            self._asking = False

    async def _ask(self, sets: list[ParameterSet]) -> list[bool]:
        async def ask() -> list[Any]:
            pipeline = self._client.pipeline(transaction=False)
            for parameters in sets:
                pipeline.zscore(ended_of(parameters.slot.key), set_id(parameters.import_token))
                pipeline.hmget(sets_of(parameters.slot.key), "newest", "newest_expiry")
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


def _older(newest_expiry: bytes | None, parameters: ParameterSet) -> bool:
    """Whether what the store calls the newest is older than this set: whoever has issued it will tell, once he can."""
    try:
        return newest_expiry is not None and int(newest_expiry) < expiry(parameters)
    except ValueError:
        return False
