"""What operators are given: the dashboard and the alerts, and the expressions in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/keybroker.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
ALERTS_TEST = ROOT / "deploy/prometheus/alerts_test.yml"
RUNBOOK = ROOT / "docs/runbook.md"

# As Grafana would put them in, for a scrape each second.
_VARIABLES = {"$__rate_interval": "10s", "$__range": "1m", "$job": ".+", "$instance": ".+"}
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SPANS = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_SELECTOR = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?P<matchers>\{[^}]*\})?(?P<call>\s*\()?")
_WORDS = frozenset({"and", "or", "unless", "Inf"})


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows' titles."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def panel_expressions() -> Iterator[tuple[str, str]]:
    """Each panel's title and expression, the variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


def alert_names() -> list[str]:
    """The alerts, in their order."""
    return re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)


def selectors(expression: str) -> set[str]:
    """The metrics of an expression, with their label matchers."""
    bare = _SPANS.sub("", _LABELS.sub("", expression))
    found = [match for match in _SELECTOR.finditer(bare) if not match["call"] and match["name"] not in _WORDS]
    return {match["name"] + (match["matchers"] or "") for match in found}
