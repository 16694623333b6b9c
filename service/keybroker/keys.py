"""What is known of keys: the facts that never change, and for a moment, why the last request for a key was refused."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

from keybroker import errors

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.kms import Kms
    from keybroker.model import KeyArn, KeyDescription, KeyFacts
    from keybroker.tasks import Tasks

_log = logging.getLogger(__name__)
_K = TypeVar("_K")
_V = TypeVar("_V")

# Disabled keys take imports too: key-state.html in the KMS Developer Guide.
_IMPORTABLE_STATES = frozenset({"PendingImport", "Enabled", "Disabled"})

# Seconds a refusal is remembered, so that a loop cannot burn quota. A new key may not be found for some seconds.
_REMEMBERED: dict[type[errors.BrokerError], float] = {
    errors.KeyNotFound: 10.0,
    errors.KeyNotExternal: 60.0,
    errors.KeyStateIncompatible: 10.0,
}


class Lru(OrderedDict[_K, _V], Generic[_K, _V]):
    """A mapping that forgets what was written or touched longest ago."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: _K, value: _V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)


class Keys:
    """The keys of one Region, as KMS describes them."""

    def __init__(self, *, kms: Kms, clock: Clock, tasks: Tasks, max_entries: int) -> None:
        self._kms = kms
        self._clock = clock
        self._tasks = tasks
        self._facts: Lru[KeyArn, KeyFacts] = Lru(max_entries)
        self._refusals: Lru[KeyArn, tuple[errors.BrokerError, float]] = Lru(max_entries)
        self._asking: dict[KeyArn, asyncio.Task[KeyDescription | None]] = {}
        self._told_denied = False

    def known(self, key: KeyArn) -> KeyFacts | None:
        """The key's facts, if KMS has told them."""
        return self._facts.get(key)

    async def facts(self, key: KeyArn) -> KeyFacts | None:
        """The key's facts, from KMS if need be; None if the broker's role may not describe the key.

        Raises:
            BrokerError: as describe.
        """
        if known := self.known(key):
            return known
        self.require_not_refused(key)
        await self.require_importable(key)
        return self.known(key)

    async def require_importable(self, key: KeyArn) -> None:
        """Asks KMS anew whether the key takes an import now; concurrent askers share one request.

        Raises:
            KeyNotFound, KeyNotExternal, KeyStateIncompatible, KmsUnavailable, KmsBadResponse, BrokerCredentials
        """
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.start(self._describe(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        description = await asyncio.shield(task)
        if description and description.state not in _IMPORTABLE_STATES:
            error = errors.KeyStateIncompatible(f"state {description.state}")
            self.remember_refusal(key, error)
            raise error

    async def _describe(self, key: KeyArn) -> KeyDescription | None:
        try:
            description = await self._kms.describe_key(key)
        except errors.KmsDeniedBroker:
            if not self._told_denied:
                self._told_denied = True
                _log.warning(
                    "The broker's role may not kms:DescribeKey: unsuitable keys and requests will spend the quota of"
                    " GetParametersForImport before they are refused"
                )
            return None
        except errors.BrokerError as error:
            self.remember_refusal(key, error)
            raise
        self._facts[key] = description.facts
        if not description.facts.external:
            refusal = errors.KeyNotExternal()
            self.remember_refusal(key, refusal)
            raise refusal
        return description

    def remember_refusal(self, key: KeyArn, error: errors.BrokerError) -> None:
        """Remembers a refusal for a moment, if it is of a kind that will be the same until then."""
        if seconds := _REMEMBERED.get(type(error)):
            self._refusals[key] = error, self._clock.monotonic() + seconds

    def forget_refusal(self, key: KeyArn) -> None:
        """The key has changed."""
        self._refusals.pop(key, None)

    def require_not_refused(self, key: KeyArn) -> None:
        """Raises the refusal remembered for the key, if any."""
        error, until = self._refusals.get(key, (None, 0.0))
        if error:
            if self._clock.monotonic() < until:
                raise type(error)(error.detail)
            del self._refusals[key]
