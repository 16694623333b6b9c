"""Looks at keys whose imported material expires: a key without material is an outage of all that it protects."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from functools import partial
from typing import TYPE_CHECKING

from keybroker import errors
from keybroker.background import kept_up
from keybroker.model import KeyArn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keybroker.broker import Broker
    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.model import Home, KeyDescription

_log = logging.getLogger(__name__)

INTERVAL = 3600.0
"""Seconds between two looks at a key, more or less; one DescribeKey each."""

AGAIN = 60.0
"""Seconds after a look that failed."""

_CALLER = "watch"

_EXPECTED = frozenset({"Enabled", "Disabled", "PendingImport"})
_USELESS = frozenset({"PendingImport", "PendingDeletion", "PendingReplicaDeletion"})
"""States in which a key does nothing for anybody, whatever material it holds."""


class Watch:
    """Sets a gauge for each key, and warns while its material expires within `warn_before`."""

    NAME = "watch"

    def __init__(
        self,
        keys: Mapping[str, str],
        *,
        warn_before: float,
        broker: Broker,
        home: Home,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Watches nothing yet.

        Args:
            keys: key ids by the names that the metrics show.
            warn_before: seconds.
            broker: through whose KMS the keys are looked at.
            home: whose keys they are.
            clock: paces the looks.
            metrics: where the gauges are.

        Raises:
            errors.BrokerError: one of the keys is none, or another account's or Region's.
        """
        self._keys = {name: KeyArn.parse(key_id, home) for name, key_id in keys.items()}
        for key in self._keys.values():
            broker.policy.require_own(key, home)
        self._warn_before = warn_before
        self._broker = broker
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Looks until it is cancelled."""
        loops = {f"watch {name}": partial(self._watch, name, key) for name, key in self._keys.items()}
        await asyncio.gather(*(kept_up(loop, name, self._clock) for name, loop in loops.items()))

    async def _watch(self, name: str, key: KeyArn) -> None:
        while True:
            pause = INTERVAL
            try:
                description = await self._broker.regions[key.region].keys.describe(key, _CALLER)
            except errors.BrokerError as error:
                self._metrics.watch_failures.labels(name).inc()
                _log.warning("a watched key could not be looked at", extra={"key": name, "reason": error.reason})
                pause = AGAIN
            else:
                self._tell(name, description)
            await self._clock.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 -- spreads a fleet's replicas

    def _tell(self, name: str, description: KeyDescription) -> None:
        state, valid_to = description.state, description.material_valid_to

        def left() -> float:
            if state in _USELESS:
                return 0.0
            return max(0.0, (valid_to - self._clock.now()).total_seconds()) if valid_to else math.inf

        # By the time it is read, and not by the look's: looks may fail for as long as the material lasts.
        self._metrics.watched_material_seconds.labels(name).set_function(left)
        if state not in _EXPECTED:
            _log.warning("a watched key is in an unexpected state", extra={"key": name, "state": state})
        elif not description.facts.external:
            _log.warning("a watched key's material was not imported, and does not expire", extra={"key": name})
        elif left() == 0:
            _log.error("a watched key holds no key material", extra={"key": name, "state": state})
        elif left() < self._warn_before:
            _log.warning("a watched key's material expires", extra={"key": name, "valid_to": str(valid_to)})
