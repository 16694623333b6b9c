"""A gate before one operation of a KMS double: for tests that act while KMS works."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from tests.kms_double import Exchange, KmsDouble


class Gate:
    """Holds what is asked of an operation until it is opened, and lets everything pass from then on.

    Attributes:
        abandoned: how many had hung up by the time it opened for them.
    """

    def __init__(self, double: KmsDouble, operation: str) -> None:
        self.abandoned = 0
        self._open = asyncio.Event()
        double.lie(operation, self._answer)

    def open(self) -> None:
        """Lets everything pass, honestly."""
        self._open.set()

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        await self._open.wait()
        self.abandoned += exchange.gone()
        return exchange.success(await exchange.carry_out())
