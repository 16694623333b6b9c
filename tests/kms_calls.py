"""What a KMS double or proxy writes down of every call that reaches it."""

import asyncio
import json
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

_TARGET = "TrentService."
_CREDENTIAL = re.compile(r"Credential=(?P<access_key_id>[^/,\s]+)/\d{8}/(?P<region>[^/]+)/[^/]+/aws4_request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as it arrived: `region` and `access_key_id` are what it was signed for, empty if it was not."""

    operation: str
    key_id: str | None
    region: str
    access_key_id: str
    arrived: float
    """Seconds of the monotonic clock."""
    request: dict[str, Any]
    request_id: str


class CallLog:
    """Every call in the order of arrival."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._arrival = asyncio.Condition()

    def count(self, operation: str) -> int:
        """How often the operation was asked for, whatever came of it."""
        return len(self.arrivals(operation))

    def arrivals(self, operation: str) -> list[float]:
        """When each call of the operation arrived, in seconds of the monotonic clock."""
        return [call.arrived for call in self.calls if call.operation == operation]

    async def reached(self, operation: str, times: int = 1) -> None:
        """Wait until the operation was asked for that often; the caller sets the time limit."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.count(operation) >= times)

    async def _record(self, call: Call) -> None:
        async with self._arrival:
            self.calls.append(call)
            self._arrival.notify_all()


async def read_call(http: web.Request) -> Call:
    """Read a request of KMS's JSON protocol, or of the query protocol STS speaks.

    Raises:
        web.HTTPBadRequest: it is neither.
    """
    arrived = time.monotonic()
    body = await http.read()
    target = http.headers.get("X-Amz-Target", "")
    try:
        request: dict[str, Any] = json.loads(body) if target else dict(parse_qsl(body.decode(), strict_parsing=True))
    except ValueError as error:
        raise web.HTTPBadRequest from error
    credential = _CREDENTIAL.search(http.headers.get("Authorization", ""))
    return Call(
        operation=target.removeprefix(_TARGET) if target else request.get("Action", ""),
        key_id=request.get("KeyId"),
        region=credential["region"] if credential else "",
        access_key_id=credential["access_key_id"] if credential else "",
        arrived=arrived,
        request=request,
        request_id=str(uuid.uuid4()),
    )
