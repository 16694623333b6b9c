"""What KMS issued and what the fleet handed out: every answer is held against both."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from keyimport.v1 import key_import_pb2 as pb

if TYPE_CHECKING:
    from aiohttp import web

    from tests.kms_double import Exchange, KmsDouble

_OPERATION = "GetParametersForImport"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """A set as KMS issued it; `number` counts them."""

    number: int
    key_arn: str
    token: bytes
    public_key: bytes
    spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Handout:
    """An answer of a replica; `asked` and `answered` are of the monotonic clock."""

    replica: int
    key_arn: str
    token: bytes
    public_key: bytes
    fingerprint: str
    source: str
    asked: float
    answered: float

    @classmethod
    def of(cls, answer: Any, *, replica: int, asked: float) -> Self:
        """The answer to what was asked at that time."""
        return cls(
            replica=replica,
            key_arn=answer.key_arn,
            token=answer.import_token,
            public_key=answer.public_key,
            fingerprint=answer.public_key_sha256.hex(),
            source=pb.ParametersSource.Name(answer.source).removeprefix("PARAMETERS_SOURCE_"),
            asked=asked,
            answered=time.monotonic(),
        )


class WrongSet(Exception):
    """A replica handed out what KMS did not issue for this slot."""


class Ledger:
    """Every set a KMS double issues, from now on, and a judge of every answer.

    Attributes:
        wrong: what was handed out wrongly, in words.
        checked: how many answers were judged.
    """

    def __init__(self, double: KmsDouble) -> None:
        self.wrong: list[str] = []
        self.checked = 0
        self._double = double
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._issued: dict[bytes, Issue] = {}
        double.lie(_OPERATION, self._answer)

    def hold(self) -> None:
        """KMS takes its time for each set that it is asked for, from now on."""
        self._flowing.clear()

    def resume(self) -> None:
        """KMS answers, what it was asked meanwhile too, whether or not someone still waits for it."""
        self._flowing.set()

    def issue_of(self, handout: Handout) -> Issue:
        """Where a set comes from."""
        return self._issued[handout.token]

    def issued_for(self, arn: str) -> list[Issue]:
        """All sets of a key, the newest last."""
        return [issue for issue in self._issued.values() if issue.key_arn == arn]

    def check(self, handout: Handout, arn: str, spec: str) -> None:
        """Holds an answer against what KMS issued for this key and spec: key, token and fingerprint, as one.

        Raises:
            WrongSet: also entered in `wrong`.
        """
        self.checked += 1
        issue = self._issued.get(handout.token)
        fingerprint = hashlib.sha256(handout.public_key).hexdigest()
        right = (
            issue is not None
            and (issue.key_arn, issue.public_key, issue.spec) == (arn, handout.public_key, spec)
            and handout.key_arn == arn
            and handout.fingerprint == fingerprint
            and (arn, fingerprint) in self._double.keys.issued
        )
        if not right:
            self.wrong.append(f"replica {handout.replica}, {arn}, {spec}, {handout.source}: {fingerprint}")
            raise WrongSet(self.wrong[-1])

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        await self._flowing.wait()
        result = await exchange.carry_out()
        token = base64.b64decode(result["ImportToken"])
        self._issued[token] = Issue(
            number=len(self._issued),
            key_arn=result["KeyId"],
            token=token,
            public_key=base64.b64decode(result["PublicKey"]),
            spec=exchange.call.request["WrappingKeySpec"],
        )
        return exchange.success(result)
