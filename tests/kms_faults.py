"""Every way a KMS double can misbehave, by name."""

from aiohttp import web

from tests.kms_breakdowns import BREAKDOWNS
from tests.kms_errors import ERRORS, KmsError
from tests.kms_exchange import Exchange, Fault
from tests.kms_lies import LIES


def _error(code: str) -> Fault:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        return exchange.failure(KmsError(code))

    return Fault(says=f"{code}, status {ERRORS[code]}; nothing is done", answer=answer)


FAULTS: dict[str, Fault] = {
    **LIES,
    **BREAKDOWNS,
    "throttle": _error("ThrottlingException"),
    **{f"error:{code}": _error(code) for code in ERRORS},
}
