"""What is known of keys: the facts that never change, and for a moment, why the last request for a key was refused."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from keybroker import errors
from keybroker.lru import Lru

if TYPE_CHECKING:
    from keybroker.clock import Clock
    from keybroker.kms import Kms
    from keybroker.limits import RateLimit
    from keybroker.model import KeyArn, KeyDescription, KeyFacts
    from keybroker.tasks import Tasks

_log = logging.getLogger(__name__)

# Disabled keys take imports too: key-state.html in the KMS Developer Guide.
_IMPORTABLE_STATES = frozenset({"PendingImport", "Enabled", "Disabled"})

# Requests to KMS at once; the SDK has 32 connections, and those that change keys need some of them.
_AT_ONCE = 16

# Seconds a refusal is remembered, so that a loop cannot burn quota. A new key may not be found for some seconds.
_REMEMBERED: dict[type[errors.BrokerError], float] = {
    errors.KeyNotFound: 10.0,
    errors.KeyNotExternal: 60.0,
    errors.KeyStateIncompatible: 10.0,
}


class Keys:
    """The keys of one Region, as KMS describes them."""

    def __init__(self, *, kms: Kms, clock: Clock, tasks: Tasks, lookups: RateLimit, max_entries: int) -> None:
        """Knows nothing yet.

        Args:
            kms: the Region's KMS.
            clock: monotonic time.
            tasks: runs the requests.
            lookups: what a caller may make the broker ask of KMS.
            max_entries: keys remembered.
        """
        self._kms = kms
        self._lookups = lookups
        self._clock = clock
        self._tasks = tasks
        self._facts: Lru[KeyArn, KeyFacts] = Lru(max_entries)
        self._refusals: Lru[KeyArn, tuple[errors.BrokerError, float]] = Lru(max_entries)
        self._asking: dict[KeyArn, asyncio.Task[KeyDescription]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._told_denied = False

    def known(self, key: KeyArn) -> KeyFacts | None:
        """The key's facts, if KMS has told them; kept as long as they are in use."""
        facts = self._facts.get(key)
        if facts:
            self._facts.move_to_end(key)
        return facts

    async def look_up(self, key: KeyArn, caller: str) -> KeyFacts | None:
        """The facts of a key not known yet, from KMS; None if the broker's role may not describe the key.

        Raises:
            CallerRateExceeded, or what require_importable raises
        """
        self.require_not_refused(key)
        if key not in self._asking:
            self.charge(caller)
        await self.require_importable(key)
        return self.known(key)

    def charge(self, caller: str) -> None:
        """Counts a request to KMS against the caller who causes it.

        Raises:
            CallerRateExceeded
        """
        self._lookups.spend(caller)

    async def require_importable(self, key: KeyArn) -> None:
        """Asks KMS anew whether the key takes an import now, unless the broker's role may not ask.

        Raises:
            KeyNotFound, KeyNotExternal, KeyStateIncompatible, KmsUnavailable, KmsBadResponse, BrokerCredentials
        """
        try:
            description = await self._describe(key)
        except errors.KmsDeniedBroker:
            if not self._told_denied:
                self._told_denied = True
                _log.warning(
                    "The broker's role may not kms:DescribeKey: unsuitable keys and requests will spend the quota of"
                    " GetParametersForImport before they are refused"
                )
            return
        refusal: errors.BrokerError | None = None
        if not description.facts.external:
            refusal = errors.KeyNotExternal()
        elif description.state not in _IMPORTABLE_STATES:
            refusal = errors.KeyStateIncompatible(f"state {description.state}")
        if refusal:
            self.remember_refusal(key, refusal)
            raise refusal

    async def describe(self, key: KeyArn, caller: str) -> KeyDescription:
        """The key as it is now, from KMS.

        Raises:
            CallerRateExceeded, KeyNotFound, KmsDeniedBroker, KmsUnavailable, KmsBadResponse, BrokerCredentials
        """
        if key not in self._asking:
            self.charge(caller)
        return await self._describe(key)

    async def _describe(self, key: KeyArn) -> KeyDescription:
        """Concurrent askers share one request."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.start(self._ask_kms(key), for_request=True)
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask_kms(self, key: KeyArn) -> KeyDescription:
        async with self._turns:
            try:
                description = await self._kms.describe_key(key)
            except errors.BrokerError as error:
                self.remember_refusal(key, error)
                raise
        self._facts[key] = description.facts
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
