"""The fleet model: what is simulated agrees with what is worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import fleet_model
from benchmarks.fleet_model import DAY, HOUR, Fleet, Simulation

SHORT = fleet_model.shortened(Fleet())
FAST = replace(SHORT, rate=0.1)


def test_the_same_seed_gives_the_same_report() -> None:
    """Every printed figure can be had again."""
    once, again = (list(fleet_model.report(SHORT, [0.1])) for _ in range(2))

    assert once == again


@pytest.mark.parametrize("popularity", ["uniform", "zipf"])
@pytest.mark.parametrize("replicas", [1, 3, 100])
@pytest.mark.parametrize("rate", [0.025, 0.1])
def test_with_the_store_a_cold_start_costs_one_call_a_key(rate: float, replicas: int, popularity: str) -> None:
    """However many brokers ask: keys / rate seconds, never above the rate, no more leases than requests can wait."""
    fleet = replace(SHORT, rate=rate, replicas=replicas, popularity=popularity)

    seconds, counts = fleet_model.fill(fleet)

    assert fleet.keys == counts.calls == round(fleet_model.sets_wanted(fleet))
    assert fleet.keys / rate == pytest.approx(seconds, rel=0.001)
    gaps = [later - earlier for earlier, later in zip(counts.calls_at, counts.calls_at[1:], strict=False)]
    assert 1 / rate == pytest.approx(min(gaps))
    assert rate * fleet.patience + 1 >= counts.most_leases
    assert fleet.sidecars * fleet.requests == counts.answered


@pytest.mark.parametrize(("replicas", "tolerance"), [(4, 0.01), (100, 0.03)])
def test_without_the_store_every_broker_fetches_its_own(replicas: int, tolerance: float) -> None:
    """As many calls as different pairs of broker and key, for the same rate in all."""
    fleet = replace(FAST, replicas=replicas, store=False, min_remaining=-9 * DAY)  # none expires meanwhile

    seconds, counts = fleet_model.fill(fleet)

    wanted = fleet_model.sets_wanted(fleet)
    assert 2 * fleet.keys < wanted
    assert wanted == pytest.approx(counts.calls, rel=tolerance)
    assert wanted / fleet.rate == pytest.approx(seconds, rel=tolerance)


@pytest.mark.parametrize("popularity", ["uniform", "zipf"])
@pytest.mark.parametrize("imports", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("store", [True, False])
def test_an_ordinary_day_needs_what_the_formula_says(imports: float, popularity: str, *, store: bool) -> None:
    """Where the quota is no limit: one call for each life of a set, which an import or its expiry ends."""
    fleet = replace(SHORT, replicas=4, rate=2.0, imports=imports, popularity=popularity, store=store)

    counts = fleet_model.days(fleet, warm_up=4, measured=4)

    assert 4 * DAY * fleet_model.demand(fleet) == pytest.approx(counts.calls, rel=0.03)
    assert counts.refused == 0


@pytest.mark.parametrize("rate", [0.025, 0.1])
def test_store_load_of_a_cold_start(rate: float) -> None:
    """Mostly leases renewed every second by those who wait for their token."""
    fleet = replace(SHORT, rate=rate)

    load = next(figure for figure in fleet_model.figures(fleet) if figure.name == "cold start: store round trips/s")

    assert load.ratio == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("rate", [0.04, 0.1])
def test_store_load_of_an_ordinary_day(rate: float) -> None:
    """A round trip a request, a few more a fetch, and the renewals of its lease while it waits."""
    fleet = replace(SHORT, rate=rate)

    counts = fleet_model.days(fleet, warm_up=6, measured=6)

    assert fleet_model.demand(fleet) < 0.9 * rate
    assert 6 * DAY * fleet_model.round_trips(fleet) == pytest.approx(counts.round_trips, rel=0.06)


def test_more_demand_than_quota_spends_the_quota_and_no_more() -> None:
    """The rest is refused at once."""
    fleet = replace(SHORT, rate=0.01)

    counts = fleet_model.days(fleet)

    assert fleet_model.demand(fleet) > fleet.rate
    assert 2 * DAY * fleet.rate == pytest.approx(counts.calls, abs=1)
    assert counts.refused > 0
    assert counts.asked == pytest.approx(counts.answered + counts.refused, abs=fleet.rate * fleet.patience * 10)


def test_brokers_with_a_small_share_each_lose_some_of_it() -> None:
    """Tokens further apart than a request waits: a bucket saves none up."""
    fleet = replace(SHORT, store=False)

    counts = fleet_model.days(fleet)

    assert fleet.rate > fleet_model.calls_per_second(fleet)
    assert 2 * DAY * fleet_model.calls_per_second(fleet) == pytest.approx(counts.calls, rel=0.01)


def test_only_without_the_store_sets_are_handed_out_beside_newer_ones() -> None:
    """A newer set of the same key may have ended the older."""
    fleet = replace(FAST, replicas=3)

    assert fleet_model.days(fleet).doubtful == 0
    assert fleet_model.days(replace(fleet, store=False)).doubtful > 0


@pytest.mark.parametrize(("rate", "sets"), [(0.25, 21_600), (1.0, 86_400)])
def test_what_the_quota_allows(rate: float, sets: int) -> None:
    """A day's sets, and the keys that can be kept warm with them."""
    fleet = Fleet(rate=rate)

    issued, warm = fleet_model.keep_warm(fleet)
    _, warm_without_imports = fleet_model.keep_warm(replace(fleet, imports=0))

    assert sets == issued
    assert rate * 23 * HOUR == warm_without_imports
    imports = fleet_model.imports_per_key(fleet)
    assert rate * fleet_model.mean_life(fleet, imports) == pytest.approx(warm, rel=0.01)


@pytest.mark.parametrize(("replicas", "keys"), [(3, 1), (3, 2000), (100, 1), (100, 2000)])
def test_hits_share_questions_to_the_store(replicas: int, keys: int) -> None:
    """However often a broker is asked, it has at most one question under way."""
    fleet = replace(SHORT, replicas=replicas, keys=keys, peak=200)

    asked, commands = fleet_model.questions(fleet, seconds=2.0)

    asked_on_paper, commands_on_paper = fleet_model.questions_per_second(fleet)
    assert 2 * asked_on_paper == pytest.approx(asked, rel=0.02)
    assert 2 * commands_on_paper == pytest.approx(commands, rel=0.02)
    assert asked <= 2 * replicas / fleet_model.STORE_SECONDS + replicas


def test_most_within() -> None:
    """The fullest span counts one of its two ends."""
    assert fleet_model.most_within([0, 1, 2, 10, 11, 12, 13], 3) == 3
    assert fleet_model.most_within([], 3) == 0


def test_events_of_one_moment_run_in_order() -> None:
    """What makes the simulation the same every time."""
    simulation = Simulation(SHORT)
    seen: list[str] = []

    simulation.at(2, lambda: seen.append("late"))
    simulation.at(1, lambda: seen.append("first"))
    simulation.at(1, lambda: seen.append("second"))
    simulation.run(1)

    assert ["first", "second"] == seen
