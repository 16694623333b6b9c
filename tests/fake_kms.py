"""A KMS of one Region in memory, behind the broker's own Protocol: it keeps state, and does as it is told."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from keybroker import errors
from keybroker.model import Home, KeyArn, KeyDescription, KeyFacts, MaterialChange, ParameterSet, SecretBytes

if TYPE_CHECKING:
    from datetime import datetime

    from keybroker.clock import Clock
    from keybroker.model import ImportRequest, Slot

HOME = Home(partition="aws", account="111122223333", regions=("us-east-1", "eu-west-1"))


def key_arn(number: int = 1, region: str = "us-east-1") -> KeyArn:
    """A key of this account, a different one for each number."""
    return KeyArn.parse(f"arn:aws:kms:{region}:{HOME.account}:key/{number:08x}-12ab-34cd-56ef-1234567890ab", HOME)


@dataclass(slots=True)
class FakeKms:
    """Every key exists, is EXTERNAL and PendingImport, unless told otherwise.

    Attributes:
        described: keys DescribeKey was asked for, in order.
        issued: sets, in order.
        imported: tokens of successful imports.
        failures: raised by the coming calls of an operation, first come first served.
        gate: calls that spend quota wait until it is set.
    """

    clock: Clock
    validity: timedelta = timedelta(hours=24)
    described: list[KeyArn] = field(default_factory=list)
    issued: list[ParameterSet] = field(default_factory=list)
    imported: list[bytes] = field(default_factory=list)
    deleted: list[KeyArn] = field(default_factory=list)
    states: dict[KeyArn, str] = field(default_factory=dict)
    facts: dict[KeyArn, KeyFacts] = field(default_factory=dict)
    material_valid_to: dict[KeyArn, datetime] = field(default_factory=dict)
    failures: dict[str, deque[BaseException]] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.gate.set()

    def fail(self, operation: str, *failures: BaseException) -> None:
        """The next calls of the operation raise these."""
        self.failures.setdefault(operation, deque()).extend(failures)

    async def describe_key(self, key: KeyArn) -> KeyDescription:
        self.described.append(key)
        self._perhaps_fail("describe_key")
        facts = self.facts.get(key, KeyFacts(external=True, key_spec="SYMMETRIC_DEFAULT"))
        return KeyDescription(
            key=key,
            facts=facts,
            state=self.states.get(key, "PendingImport"),
            multi_region=key.key_id.startswith("mrk-"),
            material_valid_to=self.material_valid_to.get(key),
        )

    async def get_parameters_for_import(self, slot: Slot) -> ParameterSet:
        parameters = ParameterSet(
            slot=slot,
            public_key=b"public key",
            import_token=SecretBytes(f"token {next(self._numbers)}".encode()),
            valid_to=self.clock.now() + self.validity,
            aws_request_id="request",
        )
        self.issued.append(parameters)
        await self.gate.wait()
        self._perhaps_fail("get_parameters_for_import")
        return parameters

    async def import_key_material(self, key: KeyArn, request: ImportRequest) -> MaterialChange:
        await self.gate.wait()
        self._perhaps_fail("import_key_material")
        if request.import_token in self.imported:
            raise errors.ImportTokenInvalid
        self.imported.append(request.import_token)
        return MaterialChange(key=key, key_material_id="ab" * 32, aws_request_id="request")

    async def delete_imported_key_material(self, key: KeyArn, key_material_id: str | None) -> MaterialChange:
        self._perhaps_fail("delete_imported_key_material")
        self.deleted.append(key)
        return MaterialChange(key=key, key_material_id=key_material_id or "", aws_request_id="request")

    def _perhaps_fail(self, operation: str) -> None:
        if waiting := self.failures.get(operation):
            raise waiting.popleft()
