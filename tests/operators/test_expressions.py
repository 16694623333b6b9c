"""Every expression of the dashboard and the alerts finds what it names in a live Prometheus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.operators.busy_broker import busy_broker
from tests.operators.given import ALERTS, panel_expressions, selectors
from tests.operators.prometheus_server import prometheus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.operators.prometheus_server import Prometheus

PATIENCE = 20.0  # seconds until two scrapes have seen everything, on a busy machine


async def _empty(server: Prometheus, expressions: Iterable[str]) -> set[str]:
    """Those that find nothing, however long one waits."""
    left = set(expressions)
    for _ in range(int(PATIENCE)):
        left = {expression for expression in left if not await server.query(expression)}
        if not left:
            break
        await asyncio.sleep(1)
    return left


async def test_every_expression_finds_what_it_names(tmp_path: Path) -> None:
    """No name or label value is misspelt: each has samples after a morning in which everything happened."""
    drawn = [expression for _, expression in panel_expressions()]
    async with (
        busy_broker(tmp_path) as broker,
        prometheus(broker.ops, job="keybroker", rules=ALERTS) as server,
    ):
        await broker.live()
        undrawn = await _empty(server, drawn)
        alerts = await server.alerts()
        named = set().union(*(selectors(expression) for expression in (*drawn, *(rule["query"] for rule in alerts))))
        unfound = await _empty(server, named)
        names = await server.metric_names()
        unhealthy = [(rule["name"], rule.get("lastError")) for rule in alerts if rule["health"] != "ok"]

    assert set() == undrawn
    assert set() == unfound
    assert {selector.partition("{")[0] for selector in named} <= names
    assert [] == unhealthy


def test_a_misspelt_name_would_be_seen() -> None:
    """The reading of expressions leaves out functions, labels and spans of time, and nothing else."""
    expression = 'sum by (job, le) (rate(a{x="y, z"}[5m] offset 1h)) / on (job) group_left () b > Inf unless up or f(0)'

    assert selectors(expression) == {'a{x="y, z"}', "b", "up"}
