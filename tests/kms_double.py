"""A stand-in for KMS and STS on the loopback that keeps their rules, counts, and can be told to break them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.kms_breakdowns import DRIP_SECONDS, HTML, HUGE
from tests.kms_calls import Call, CallLog, read_call
from tests.kms_errors import CANARY, ERRORS, KmsError
from tests.kms_exchange import OPERATIONS, Answer, Exchange, Fault
from tests.kms_faults import FAULTS
from tests.kms_keys import DAY, Keys, Requester
from tests.kms_lies import OTHER_ACCOUNT
from tests.kms_serving import REQUEST_ID, serving

__all__ = [
    "ACCOUNT",
    "CANARY",
    "DAY",
    "DRIP_SECONDS",
    "ERRORS",
    "FAULTS",
    "HTML",
    "HUGE",
    "OTHER_ACCOUNT",
    "REGION",
    "Answer",
    "Call",
    "Exchange",
    "Fault",
    "KmsDouble",
    "KmsError",
    "kms_double",
]

ACCOUNT = "111122223333"
REGION = "us-east-1"


class KmsDouble(CallLog):
    """The double itself; `kms_double()` starts one.

    The access key id a request is signed with is the account it acts in, as with other emulators; one that is no
    account acts in `ACCOUNT`. Signatures are read, not verified.
    """

    def __init__(self, *, single_use: bool, supersede: bool, validity: float, latency: Mapping[str, float]) -> None:
        super().__init__()
        self.keys = Keys(now=self.now, single_use=single_use, supersede=supersede, validity=validity)
        """The state and its rules: `single_use`, `supersede` and `validity` may be changed at any time."""
        self.latency = dict(latency)
        """Seconds that each call of an operation takes before anything happens."""
        self.endpoint = ""
        self.elsewhere = ""
        self.redirect_target_hits = 0
        """How often the origin that redirects point to was called; nothing should ever follow them there."""
        self._ahead = 0.0
        self._lies: dict[str, list[tuple[Answer, int | None]]] = {}
        self._limits: dict[str, _Bucket] = {}

    def add_key(
        self,
        key_spec: str = "SYMMETRIC_DEFAULT",
        origin: str = "EXTERNAL",
        state: str = "PendingImport",
        account: str = ACCOUNT,
        region: str = REGION,
        *,
        multi_region: bool = False,
    ) -> str:
        """Create a key, without a call; its ARN."""
        return self.keys.add(
            spec=key_spec, origin=origin, state=state, account=account, region=region, multi_region=multi_region
        )

    def material(self, arn: str) -> bytes | None:
        """The plain text that reached the key, None where it has none it could use."""
        return self.keys.material(arn)

    def now(self) -> float:
        """KMS's own clock, in seconds since 1970."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let KMS's clock run ahead: tokens and material expire by it."""
        self._ahead += seconds

    def lie(self, operation: str, fault: str | Answer, times: int | None = None) -> None:
        """Answer the next `times` calls of the operation, or all, with a fault of `FAULTS` or an answer of your own.

        Told more than once, the double lies in the order it was told.

        Raises:
            ValueError: the fault cannot befall this operation.
        """
        if operation not in (FAULTS[fault].operations if isinstance(fault, str) else OPERATIONS):
            raise ValueError(f"{fault} cannot befall {operation}")
        answer = FAULTS[fault].answer if isinstance(fault, str) else fault
        self._lies.setdefault(operation, []).append((answer, times))

    def honest(self) -> None:
        """Take back every lie; limits and latencies stay."""
        self._lies.clear()

    def limit(self, operation: str, per_second: float, burst: int = 1) -> None:
        """Answer ThrottlingException to what goes beyond a rate."""
        self._limits[operation] = _Bucket(per_second=per_second, burst=burst)

    async def answer(self, http: web.Request) -> web.StreamResponse:
        """Answer one call."""
        call = await read_call(http)
        http[REQUEST_ID] = call.request_id
        await self._record(call)
        await asyncio.sleep(self.latency.get(call.operation, 0))
        exchange = Exchange(
            http=http,
            call=call,
            carry_out=lambda: self._carry_out(call),
            elsewhere=self.elsewhere,
        )
        try:
            self._admit(call)
            return await self._next_answer(call.operation)(exchange)
        except KmsError as error:
            return exchange.failure(error)

    async def answer_elsewhere(self, _http: web.Request) -> web.StreamResponse:
        """Count a client that followed a redirect, and be as inviting as can be."""
        self.redirect_target_hits += 1
        return web.json_response({})

    def _admit(self, call: Call) -> None:
        if call.operation not in OPERATIONS:
            raise KmsError("UnknownOperationException")
        if not call.access_key_id:
            raise KmsError("MissingAuthenticationToken")
        if call.operation in self._limits and not self._limits[call.operation].take():
            raise KmsError("ThrottlingException")

    def _next_answer(self, operation: str) -> Answer:
        lies = self._lies.get(operation)
        if not lies:
            return _honestly
        answer, times = lies.pop(0)
        if times is None or times > 1:
            lies.insert(0, (answer, None if times is None else times - 1))
        return answer

    async def _carry_out(self, call: Call) -> dict[str, Any]:
        account = call.access_key_id if len(call.access_key_id) == len(ACCOUNT) else ACCOUNT
        if call.operation == "GetCallerIdentity":
            return {"UserId": account, "Account": account, "Arn": f"arn:aws:iam::{account}:root"}
        carry_out = {
            "DescribeKey": self.keys.describe,
            "GetParametersForImport": self.keys.parameters,
            "ImportKeyMaterial": self.keys.import_material,
            "DeleteImportedKeyMaterial": self.keys.delete_material,
        }[call.operation]
        return await carry_out(Requester(account=account, region=call.region), call.request)


class _Bucket:
    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._filled = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._per_second)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


async def _honestly(exchange: Exchange) -> web.StreamResponse:
    return exchange.success(await exchange.carry_out())


@asynccontextmanager
async def kms_double(
    *,
    single_use: bool = True,
    supersede: bool = True,
    validity: float = DAY,
    latency: Mapping[str, float] | None = None,
) -> AsyncIterator[KmsDouble]:
    """Run a double in this loop: `double.endpoint` is where; `validity` and `latency` are in seconds."""
    double = KmsDouble(single_use=single_use, supersede=supersede, validity=validity, latency=latency or {})
    async with serving(double.answer) as endpoint, serving(double.answer_elsewhere) as elsewhere:
        double.endpoint, double.elsewhere = endpoint, elsewhere
        yield double
