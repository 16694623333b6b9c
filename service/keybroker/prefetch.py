"""Sets fetched before anyone asks, with quota that nobody else wants."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from keybroker import errors
from keybroker.fetches import Ask
from keybroker.model import KeyArn, Slot, WrappingChoice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keybroker.broker import Broker
    from keybroker.clock import Clock
    from keybroker.model import Home

_log = logging.getLogger(__name__)

_PAUSE = 30.0
"""Seconds between two rounds, more or less, so that the replicas of a fleet spread."""

_LOOK_AGAIN = 1.0
"""Seconds after which it looks again, at least, whether there is a token that nobody wants."""

_PATIENCE = 120.0
_CALLER = "prefetch"


class Prefetch:
    """Keeps a set in the cache for each of some keys. Not one that is in callers' hands: a newer might end that."""

    NAME = "prefetch"

    def __init__(
        self,
        keys: Sequence[tuple[str, WrappingChoice]],
        *,
        broker: Broker,
        home: Home,
        clock: Clock,
        min_remaining: float,
    ) -> None:
        """For these keys.

        Args:
            keys: key ids, each with the wrapping that callers will ask for.
            broker: whose caches are filled, under its policy.
            home: whose keys they are.
            clock: paces the rounds.
            min_remaining: seconds for which a set must be valid to be worth keeping.

        Raises:
            errors.BrokerError: one of the keys, or wrappings, could never be had.
        """
        self._broker = broker
        self._clock = clock
        self._min_remaining = min_remaining
        self._keys = [(KeyArn.parse(key_id, home), choice) for key_id, choice in keys]
        for key, choice in self._keys:
            broker.policy.require_own(key, home)
            broker.policy.require_allowed(choice, key.partition)
            broker.regions[key.region].parameters.prefetched(key)

    async def run(self) -> None:
        """Goes round until it is cancelled."""
        await self._clock.sleep(random.uniform(0, _PAUSE))  # noqa: S311 -- a fleet's replicas may all have been started at once
        while self._keys:
            for key, choice in random.sample(self._keys, len(self._keys)):
                await self._warm(key, choice)
            await self._sleep(_PAUSE)

    async def _warm(self, key: KeyArn, choice: WrappingChoice) -> None:
        region = self._broker.regions[key.region]
        try:
            facts = region.keys.known(key) or await region.keys.look_up(key, _CALLER)
            slot = Slot(key=key, wrapping=self._broker.policy.choose(choice, key, facts))
            while await region.parameters.wants_warming(slot, self._min_remaining):
                if wait := region.quota.spare_in():
                    await self._clock.sleep(max(_LOOK_AGAIN, wait))
                    continue
                deadline = self._clock.monotonic() + _PATIENCE
                ask = Ask(
                    caller=_CALLER,
                    min_remaining=self._min_remaining,
                    deadline=deadline,
                    described=False,
                    warming=True,
                )
                await region.parameters.shared(slot, ask)
        except (errors.BrokerError, TimeoutError) as error:
            reason = getattr(error, "reason", "DEADLINE_EXCEEDED")
            _log.warning("a set could not be prefetched", extra={"key_arn": str(key), "reason": reason})

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 -- spreads a fleet's replicas
