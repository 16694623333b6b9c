"""The dashboard can be imported as it is, and shows every metric of the broker's own."""

from __future__ import annotations

import itertools
import json
import re

from keybroker.metrics import Metrics
from tests.operators.given import DASHBOARD, panel_expressions, panels, selectors


def test_every_panel_says_what_it_shows() -> None:
    """Its meaning is beside it, and its data are the chosen source's."""
    assert all(panel["title"] and panel["description"] for panel in panels())
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
    assert {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]} == {"${datasource}"}


def test_every_panel_is_of_the_chosen_brokers() -> None:
    """Each metric is narrowed to the job and instance that the variables hold."""
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    narrow = 'job=~"$job", instance=~"$instance"'

    wide = [selector for each in expressions for selector in selectors(each) if narrow not in selector]

    assert [] == wide


def test_no_panel_covers_another() -> None:
    """Each has an id and a place of its own."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [
        cell
        for place in places
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]

    assert len(set(cells)) == len(cells)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
    assert max(x for x, _ in cells) < 24


def test_every_metric_is_drawn() -> None:
    """What the broker counts is worth looking at."""
    families = [family for family in Metrics().registry.collect() if re.match("keybroker_|grpc_", family.name)]
    drawn = {selector.partition("{")[0] for _, expression in panel_expressions() for selector in selectors(expression)}
    suffixes = {"counter": "_total", "histogram": "_bucket", "gauge": ""}

    assert {family.name + suffixes[family.type] for family in families} <= drawn
