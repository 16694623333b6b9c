"""The story of every request: refused by what costs nothing, then carried out once."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from keybroker import audit, errors
from keybroker.ciphertext import require_plausible_ciphertext
from keybroker.fetches import Ask
from keybroker.model import KeyArn, Operation, Sharing, Slot, Source

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from keybroker.clock import Clock
    from keybroker.fetches import Waiting
    from keybroker.keys import Keys
    from keybroker.kms import Kms
    from keybroker.metrics import Metrics
    from keybroker.model import (
        Caller,
        Home,
        ImportRequest,
        KeyDescription,
        MaterialChange,
        ParameterSet,
        ParametersRequest,
    )
    from keybroker.parameters import Parameters
    from keybroker.policy import Policy
    from keybroker.quota import Quota
    from keybroker.tasks import Tasks

_log = logging.getLogger(__name__)

# After these, KMS would refuse the set, or may: it is not handed out again.
_ENDS_THE_SET = (
    errors.ImportTokenInvalid,
    errors.ImportTokenExpired,
    errors.KeyMaterialMismatch,
    errors.OutcomeUnknown,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One Region's KMS, with a cache and a quota of its own."""

    kms: Kms
    keys: Keys
    quota: Quota
    parameters: Parameters


class Broker:
    """The use cases. Every method raises errors.BrokerError, or TimeoutError past its deadline.

    Deadlines are monotonic times of the clock.
    """

    def __init__(
        self,
        *,
        home: Home,
        policy: Policy,
        regions: Mapping[str, Region],
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        min_remaining: float,
        reuse_until_expiry: bool,
    ) -> None:
        """A broker at home.

        Args:
            home: the account and the Regions.
            policy: what may be done; may be replaced at any time.
            regions: by name, one for each Region of the home.
            clock: measures deadlines.
            tasks: runs imports and deletes, which no caller can interrupt.
            metrics: counts the sets handed out.
            min_remaining: seconds a handed-out set is valid at least, where the caller does not say.
            reuse_until_expiry: whether a set is kept after an import with it has succeeded.
        """
        self._home = home
        self.policy = policy
        self.regions = regions
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._min_remaining = min_remaining
        self._reuse_until_expiry = reuse_until_expiry

    async def parameters(
        self, caller: Caller, request: ParametersRequest, deadline: float, waiting: Waiting | None = None
    ) -> tuple[ParameterSet, Source]:
        """A parameter set, and where it came from. As one key of many, `waiting` shows how far it is."""
        key = self._authorize(caller, Operation.GetParametersForImport, request.key_id)  # 1 to 3
        self.policy.require_allowed(request.wrapping, key.partition)  # 4  nothing deprecated, before any I/O
        region = self.regions[key.region]
        facts = region.keys.known(key)
        described = facts is None
        if described:
            facts = await region.keys.look_up(key, caller.name)
        wrapping = self.policy.choose(request.wrapping, key, facts)  # 5  what fits this key
        slot = Slot(key=key, wrapping=wrapping)
        min_remaining = max(self._min_remaining, request.min_remaining or 0)
        ask = Ask(
            caller=caller.name,
            min_remaining=min_remaining,
            deadline=deadline,
            described=described,
            waiting=waiting,
        )
        if request.sharing is Sharing.EXCLUSIVE:  # 6  cached, joined, or one KMS call
            parameters, source = await region.parameters.exclusive(slot, ask), Source.KMS
        else:
            parameters, source = await region.parameters.shared(slot, ask)
        audit.current().note_parameters(parameters, source)
        self._metrics.parameters.labels(source).inc()
        self._metrics.set_remaining.observe((parameters.valid_to - self._clock.now()).total_seconds())
        return parameters, source

    async def import_key_material(self, caller: Caller, request: ImportRequest, deadline: float) -> MaterialChange:
        """Imports wrapped key material, once."""
        key = self._authorize(caller, Operation.ImportKeyMaterial, request.key_id)
        region = self.regions[key.region]
        known_set = region.parameters.find(key, request.import_token)
        if known_set:
            audit.current().note_used_set(known_set)
        require_plausible_ciphertext(request.encrypted_key_material, known_set.slot.wrapping if known_set else None)
        return await self._uninterrupted(key, self._import(region, key, request), deadline)

    async def delete_imported_key_material(
        self, caller: Caller, key_id: str, key_material_id: str | None, deadline: float
    ) -> MaterialChange:
        """Deletes key material, once."""
        key = self._authorize(caller, Operation.DeleteImportedKeyMaterial, key_id)
        kms = self.regions[key.region].kms
        return await self._uninterrupted(key, kms.delete_imported_key_material(key, key_material_id), deadline)

    async def discard(self, caller: Caller, key_id: str, import_token: bytes) -> None:
        """Forgets a set."""
        key = self._authorize(caller, Operation.DiscardParameters, key_id)
        await self.regions[key.region].parameters.forget(key, import_token)

    async def status(self, caller: Caller, key_id: str) -> KeyDescription:
        """The key as KMS describes it now."""
        key = self._authorize(caller, Operation.GetKeyImportStatus, key_id)
        return await self.regions[key.region].keys.describe(key, caller.name)

    def _authorize(self, caller: Caller, operation: Operation, key_id: str) -> KeyArn:
        key = KeyArn.parse(key_id, self._home)  # 1  a full ARN, or refused
        audit.current().note_decision(key, self.policy.version)
        self.policy.require_own(key, self._home)  # 2  own account, served Region
        self.policy.require_granted(caller, operation, key)  # 3  this caller, this key
        return key

    async def _import(self, region: Region, key: KeyArn, request: ImportRequest) -> MaterialChange:
        try:
            change = await region.kms.import_key_material(key, request)
        except _ENDS_THE_SET:
            await region.parameters.forget(key, request.import_token)
            raise
        except errors.KeyNotExternal as error:
            facts = region.keys.known(key)
            if facts and facts.external:
                # KMS has one code for "not EXTERNAL" and "not for this kind of key"; the origin is known to be right.
                raise errors.RequestMalformed(
                    "This kind of key takes no import_type, key_material_id or key_material_description."
                ) from error
            raise
        if not self._reuse_until_expiry:
            await region.parameters.forget(key, request.import_token)
        region.keys.forget_refusal(key)
        return change

    async def _uninterrupted(
        self, key: KeyArn, change: Coroutine[Any, Any, MaterialChange], deadline: float
    ) -> MaterialChange:
        """Runs a change to its end whether or not the caller waits: what KMS did must be noted."""
        record = audit.current()
        task = self._tasks.start(change, for_request=True)
        record.follow(task)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - self._clock.monotonic()))
        if not done:
            task.add_done_callback(partial(_log_late, key, record.correlation_id))
            raise errors.OutcomeUnknown("the caller's deadline passed before KMS answered")
        return task.result()


def _log_late(key: KeyArn, correlation_id: str | None, change: asyncio.Task[MaterialChange]) -> None:
    """How a change ended whose caller was told OUTCOME_UNKNOWN."""
    failed = change.cancelled() or change.exception() is not None
    extra = {"key_arn": str(key), "correlation_id": correlation_id, "done": not failed}
    _log.warning("a change ended after its caller's deadline", extra=extra)
