"""A fleet of brokers on one quota: simulated event by event, and worked out on paper beside it.

    python -m benchmarks.fleet_model            # 1,000 sidecars, 20,000 keys
    python -m benchmarks.fleet_model --short    # a tenth of the fleet, the keys and the rate

Pods ask for sets, brokers fetch them. A broker is one pod's sidecar, or one of a few replicas for all pods. With the
store, brokers share sets and one bucket; without it each has its own sets and an even share of the rate, as while the
store is away. A request that is refused because it would wait too long takes no token.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate, count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DAY = 86_400.0
HOUR = 3_600.0
GIB = 2**30

KMS_SECONDS = 0.1
"""One GetParametersForImport."""
STORE_SECONDS = 0.001
"""One round trip to the store."""
ENTRY_BYTES = 3 * 1024
"""A sealed set."""
ENTRY_BYTES_HELD = 4 * 1024
"""A sealed set with its name, the hash and the allocator's rounding, in Redis."""

# Round trips to the store.
HIT = 1  # has the set been ended?
LOOK = 1  # is there a set?
TO_START = 4  # look, take the lease, tell the wait, look again
TO_RESERVE = 1
TO_FINISH = 2  # keep the set and tell, free the lease and tell
TO_FOLLOW = 2  # look, try the lease; again when it would have run out, had it not been renewed
FOLLOWED_EVERY = 2.5  # seconds: a lease of 3 s that is renewed every second has between 2 and 3 left
TO_REFUSE = TO_START + TO_RESERVE + 1  # free the lease
TO_END = 1  # an import's mark
EXTRA_FOR_FETCH = TO_START + TO_RESERVE + TO_FINISH - HIT
COMMANDS_OF_QUESTION = 2
NEWS_OF_FETCH = 2  # messages to every broker: a new set, a freed lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is simulated.

    Attributes:
        rate: the account's quota, sets per second.
        requests: of one pod in one day.
        imports: the share of requests that are followed by an import, which uses the set up.
        min_remaining: seconds a handed-out set is still valid at least.
        patience: seconds a request may wait; an expected wait beyond it is refused at once.
        peak: requests per second of one pod when all sets are cached.
    """

    rate: float = 0.25
    sidecars: int = 1000
    replicas: int = 1000
    keys: int = 20_000
    requests: int = 100
    popularity: str = "uniform"
    imports: float = 0.05
    min_remaining: float = HOUR
    patience: float = 900.0
    peak: float = 20.0
    store: bool = True
    seed: int = 1

    @property
    def lifetime(self) -> float:
        """Seconds a set is handed out."""
        return DAY - self.min_remaining

    @property
    def scopes(self) -> int:
        """How many buckets and collections of sets there are."""
        return 1 if self.store else self.replicas

    @property
    def interval(self) -> float:
        """Seconds between two tokens of one bucket."""
        return self.scopes / self.rate

    @property
    def weights(self) -> Sequence[float]:
        """How likely a request is for each key."""
        return _weights(self.keys, self.popularity)


@cache
def _weights(keys: int, popularity: str) -> Sequence[float]:
    raw = [1 / rank for rank in range(1, keys + 1)] if popularity == "zipf" else [1.0] * keys
    total = sum(raw)
    return [weight / total for weight in raw]


@dataclass(slots=True, kw_only=True)
class Counts:
    """What happened.

    Attributes:
        doubtful: answers with a set that a newer one for the key may have ended.
        round_trips: to the store, without `followed`: those of brokers waiting for another's fetch.
        messages: from the store to a broker, each counted.
    """

    asked: int = 0
    answered: int = 0
    refused: int = 0
    doubtful: int = 0
    imports: int = 0
    calls: int = 0
    round_trips: int = 0
    followed: int = 0
    messages: int = 0
    leases: int = 0
    most_leases: int = 0
    calls_at: list[float] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Ask:
    replica: int
    key: int
    imports: bool
    done: Callable[[float], None]  # 0: answered; else refused, and how long to stay away


@dataclass(slots=True, kw_only=True, eq=False)
class _Set:
    number: int
    expires: float


@dataclass(slots=True, kw_only=True, eq=False)
class _Fetch:
    scope: int
    key: int
    since: float
    asks: list[_Ask]
    replica: int
    followers: dict[int, float]  # other replicas, and since when


@dataclass(slots=True, eq=False)
class _Line:
    fetches: deque[_Fetch] = field(default_factory=deque)
    turn: float | None = None  # when the head's reserved token comes


class Simulation:
    """Brokers, store and KMS on one simulated clock."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.random = random.Random(fleet.seed)
        self.now = 0.0
        self.counts = Counts()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        phase = 0.0 if fleet.store else fleet.interval
        self._next_token = [self.random.uniform(0, phase) for _ in range(fleet.scopes)]
        self._busy_lines = [0] * fleet.scopes
        self._lines = [_Line() for _ in range(fleet.replicas)]
        self._sets: dict[tuple[int, int], _Set] = {}
        self._local: dict[tuple[int, int], int] = {}  # which set a replica holds, in its own cache
        self._fetches: dict[tuple[int, int], _Fetch] = {}
        self._newest: dict[int, int] = {}
        self._numbers = count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Schedules an action; those of one moment run in the order they were scheduled."""
        heapq.heappush(self._events, (time, next(self._order), action))

    def run(self, until: float = math.inf) -> None:
        """Lets time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()

    def ask(self, ask: _Ask) -> None:
        """One request to a broker."""
        self.counts.asked += 1
        scope = self._scope(ask.replica)
        held = self._sets.get((scope, ask.key))
        if held and held.expires > self.now:
            self.counts.round_trips += HIT
            if self._local.get((ask.replica, ask.key)) != held.number:
                self.counts.round_trips += LOOK
            self._hand_out(ask, held)
            return
        fetch = self._fetches.get((scope, ask.key))
        if fetch is None:
            wait = self._expected_wait(ask.replica)
            if wait > self.fleet.patience:
                self.counts.refused += 1
                self.counts.round_trips += TO_REFUSE
                ask.done(wait)
                return
            fetch = self._start(scope, ask)
        elif ask.replica != fetch.replica:
            fetch.followers.setdefault(ask.replica, self.now)
        fetch.asks.append(ask)

    def _scope(self, replica: int) -> int:
        return 0 if self.fleet.store else replica

    def _expected_wait(self, replica: int) -> float:
        scope = self._scope(replica)
        line = self._lines[replica]
        if line.turn is None:
            return max(0.0, self._next_token[scope] - self.now)
        turns = len(line.fetches) * self._busy_lines[scope]  # brokers take turns
        return line.turn - self.now + turns * self.fleet.interval

    def _start(self, scope: int, ask: _Ask) -> _Fetch:
        fetch = _Fetch(scope=scope, key=ask.key, since=self.now, asks=[], replica=ask.replica, followers={})
        self._fetches[scope, ask.key] = fetch
        self.counts.round_trips += TO_START
        self.counts.leases += 1
        self.counts.most_leases = max(self.counts.most_leases, self.counts.leases)
        line = self._lines[ask.replica]
        self._busy_lines[scope] += not line.fetches
        line.fetches.append(fetch)
        if line.turn is None:
            self._reserve(line, scope)
        return fetch

    def _reserve(self, line: _Line, scope: int) -> None:
        """Takes the bucket's next token for the head of one broker's line."""
        line.turn = max(self.now, self._next_token[scope])
        self._next_token[scope] = line.turn + self.fleet.interval
        self.counts.round_trips += TO_RESERVE
        self.at(line.turn, partial(self._spend, line, scope))

    def _spend(self, line: _Line, scope: int) -> None:
        fetch = line.fetches.popleft()
        line.turn = None
        self.counts.calls += 1
        self.counts.calls_at.append(self.now)
        self.at(self.now + KMS_SECONDS, partial(self._arrive, fetch))
        if line.fetches:
            self._reserve(line, scope)
        else:
            self._busy_lines[scope] -= 1

    def _arrive(self, fetch: _Fetch) -> None:
        new = _Set(number=next(self._numbers), expires=self.now + self.fleet.lifetime)
        self._newest[fetch.key] = new.number
        self._sets[fetch.scope, fetch.key] = new
        del self._fetches[fetch.scope, fetch.key]
        self.counts.leases -= 1
        self.counts.round_trips += TO_FINISH + math.floor(self.now - fetch.since)  # the lease is renewed every second
        for since in fetch.followers.values():
            self.counts.followed += TO_FOLLOW * (1 + math.floor((self.now - since) / FOLLOWED_EVERY)) + LOOK + HIT
        self.counts.messages += NEWS_OF_FETCH * self.fleet.replicas
        for ask in fetch.asks:
            if self._sets.get((fetch.scope, fetch.key)) is new:
                self._hand_out(ask, new)
            else:  # another one who waited has used it up
                self.ask(ask)

    def _hand_out(self, ask: _Ask, held: _Set) -> None:
        self.counts.answered += 1
        self._local[ask.replica, ask.key] = held.number
        self.counts.doubtful += held.number != self._newest[ask.key]
        if ask.imports:
            del self._sets[self._scope(ask.replica), ask.key]
            self.counts.imports += 1
            self.counts.round_trips += TO_END
            self.counts.messages += self.fleet.replicas
        ask.done(0)


class _Pod:
    """Asks for its keys one after the other, and comes back when told to."""

    def __init__(self, simulation: Simulation, number: int, keys: list[int]) -> None:
        self._simulation = simulation
        self._replica = number % simulation.fleet.replicas
        self._keys = keys
        self.finished = 0.0

    def go_on(self) -> None:
        if self._keys:
            self._simulation.ask(_Ask(replica=self._replica, key=self._keys[-1], imports=False, done=self._done))
        else:
            self.finished = self._simulation.now

    def _done(self, stay_away: float) -> None:
        if not stay_away:
            self._keys.pop()
        self._simulation.at(self._simulation.now + stay_away, self.go_on)


def fill(fleet: Fleet) -> tuple[float, Counts]:
    """A cold start: every key is some pod's own, the rest of a pod's day is drawn by popularity; nobody imports.

    Returns:
        The seconds until every request is answered, and what happened.
    """
    simulation = Simulation(fleet)
    chances = list(accumulate(fleet.weights))
    pods = []
    for number in range(fleet.sidecars):
        keys = list(range(number, fleet.keys, fleet.sidecars))
        keys += simulation.random.choices(range(fleet.keys), cum_weights=chances, k=max(0, fleet.requests - len(keys)))
        simulation.random.shuffle(keys)
        pods.append(_Pod(simulation, number, keys))
        simulation.at(0, pods[-1].go_on)
    simulation.run()
    return max(pod.finished for pod in pods), simulation.counts


def days(fleet: Fleet, *, warm_up: int = 2, measured: int = 2) -> Counts:
    """Ordinary days: requests at random moments; the refused ones are not repeated. The first days are not counted."""
    simulation = Simulation(fleet)
    chances = list(accumulate(fleet.weights))
    arrivals = fleet.sidecars * fleet.requests / DAY
    draw = simulation.random

    def arrive() -> None:
        replica = draw.randrange(fleet.sidecars) % fleet.replicas
        key = draw.choices(range(fleet.keys), cum_weights=chances)[0]
        simulation.ask(_Ask(replica=replica, key=key, imports=draw.random() < fleet.imports, done=lambda _: None))
        simulation.at(simulation.now + draw.expovariate(arrivals), arrive)

    simulation.at(0, arrive)
    simulation.run(warm_up * DAY)
    simulation.counts = Counts(leases=simulation.counts.leases)
    simulation.run((warm_up + measured) * DAY)
    return simulation.counts


def keep_warm(fleet: Fleet) -> tuple[int, int]:
    """More keys than the quota can serve, each asked for again as soon as its set ends.

    Returns:
        The sets issued in one day, and the keys with a set at its end.
    """
    draw = random.Random(fleet.seed)
    ends: list[float] = []
    tokens_a_day = round(fleet.rate * DAY)
    for token in range(3 * tokens_a_day):
        now = token / fleet.rate
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        used_up = draw.expovariate(imports_per_key(fleet)) if fleet.imports else math.inf
        heapq.heappush(ends, now + min(fleet.lifetime, used_up))
    return tokens_a_day, len(ends)


def questions(fleet: Fleet, *, seconds: float) -> tuple[int, int]:
    """Everything is cached and every pod asks `peak` times a second.

    Hits of one broker that arrive while a question is under way go together in the next, which asks once for each set.

    Returns:
        Round trips, and commands in them.
    """
    draw = random.Random(fleet.seed)
    chances = list(accumulate(fleet.weights))
    starts = [-1.0] * fleet.replicas  # when a broker's last question left, or will
    sets: list[set[int]] = [set() for _ in starts]
    asked, commands, now = 0, 0, 0.0
    while (now := now + draw.expovariate(fleet.sidecars * fleet.peak)) < seconds:
        broker, key = draw.randrange(fleet.replicas), draw.choices(range(fleet.keys), cum_weights=chances)[0]
        if starts[broker] <= now:  # else the next is still to leave, and takes this hit along
            starts[broker] = max(now, starts[broker] + STORE_SECONDS)
            sets[broker] = set()
            asked += 1
        commands += 0 if key in sets[broker] else COMMANDS_OF_QUESTION
        sets[broker].add(key)
    return asked, commands


# On paper.


def imports_per_key(fleet: Fleet) -> float:
    """Imports per second of one key, were all keys equally popular."""
    return fleet.imports * fleet.sidecars * fleet.requests / fleet.keys / DAY


def mean_life(fleet: Fleet, imports: float) -> float:
    """Seconds until a set expires or an import uses it up, at `imports` a second."""
    return -math.expm1(-imports * fleet.lifetime) / imports if imports else fleet.lifetime


def sets_wanted(fleet: Fleet) -> float:
    """Sets that a cold fleet fetches: the different keys that each collection of sets is asked for."""
    drawn = max(0, fleet.requests - fleet.keys / fleet.sidecars) * fleet.sidecars / fleet.scopes
    missed = [math.pow(1 - weight, drawn) for weight in fleet.weights]
    return fleet.scopes * sum(1 - m for m in missed) + sum(missed)


def demand(fleet: Fleet) -> float:
    """Sets per second that the requests need: of each key one for every life of a set and the pause after it."""
    arrivals = fleet.sidecars * fleet.requests / DAY / fleet.scopes
    needed = 0.0
    for weight in fleet.weights:
        asked = arrivals * weight
        life = (1 - fleet.imports) * mean_life(fleet, fleet.imports * asked)
        needed += fleet.scopes / (1 / asked + life)
    return needed


def mean_wait(fleet: Fleet) -> float:
    """Seconds a fetch waits: random arrivals, evenly spaced turns (M/D/1); the patience where demand is too high."""
    load = demand(fleet) / fleet.rate
    return min(fleet.patience, load / (2 * (1 - load)) / fleet.rate) if load < 1 else fleet.patience


def calls_per_second(fleet: Fleet) -> float:
    """KMS calls on an ordinary day: what is needed, or what the buckets give.

    A bucket saves no token up. Where requests do not wait as long as a token takes, some of its time is lost: when a
    token comes, somebody who came within the last `patience` seconds spends it, or it waits for the next who comes.
    This takes every request for a miss, so it is near for brokers with few hits and too high for others.
    """
    arrivals = fleet.sidecars * fleet.requests / DAY / fleet.scopes
    idle = math.exp(-arrivals * fleet.patience) / arrivals if fleet.patience < fleet.interval else 0.0
    return min(demand(fleet), fleet.scopes / (fleet.interval + idle))


def round_trips(fleet: Fleet) -> float:
    """Round trips to the store on an ordinary day, per second.

    One for a request, one more if another broker fetched the set; more, and the lease's renewals, for a fetch; one
    for an import.
    """
    requests = fleet.sidecars * fleet.requests / DAY
    fetches = calls_per_second(fleet) * (EXTRA_FOR_FETCH + mean_wait(fleet))
    return requests * (HIT + fleet.imports * TO_END) + fetches + answers_from_store(fleet) * LOOK


def answers_from_store(fleet: Fleet) -> float:
    """Answers per second with a set that another broker fetched: one for every other broker asked in the set's life."""
    arrivals = fleet.sidecars * fleet.requests / DAY
    answers = 0.0
    for weight in fleet.weights:
        asked = arrivals * weight
        each, ending = asked / fleet.replicas, asked * fleet.imports
        not_asked = (ending + each * math.exp(-(ending + each) * fleet.lifetime)) / (ending + each)
        life = (1 - fleet.imports) * mean_life(fleet, ending)
        answers += (fleet.replicas - 1) * (1 - fleet.imports) * (1 - not_asked) / (1 / asked + life)
    return answers


def questions_per_second(fleet: Fleet) -> tuple[float, float]:
    """Round trips at the peak, and commands in them.

    After each question the next leaves at once if somebody came meanwhile, else with the next who comes.
    """
    hits = fleet.sidecars * fleet.peak / fleet.replicas
    nobody = math.exp(-hits * STORE_SECONDS)
    asked = fleet.replicas / (STORE_SECONDS + nobody / hits)
    together = sum(-math.expm1(-hits * weight * STORE_SECONDS) for weight in fleet.weights)
    return asked, COMMANDS_OF_QUESTION * asked * (together + nobody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report."""

    name: str
    simulated: float | None = None
    paper: float | None = None

    @property
    def ratio(self) -> float | None:
        """Simulated to paper."""
        return self.simulated / self.paper if self.simulated is not None and self.paper else None

    def __str__(self) -> str:
        simulated, paper = ("" if n is None else f"{n:,.2f}".removesuffix(".00") for n in (self.simulated, self.paper))
        ratio = "" if self.ratio is None else f"{self.ratio:.3f}"
        return f"  {self.name:<58}{simulated:>12}{paper:>12}{ratio:>8}".rstrip()


def figures(fleet: Fleet) -> Iterator[Figure]:
    """The report for one rate, with the store or without."""
    seconds, filled = fill(fleet)
    wanted = sets_wanted(fleet)
    yield Figure(name="cold start: KMS calls", simulated=filled.calls, paper=wanted)
    yield Figure(name="cold start: hours", simulated=seconds / HOUR, paper=wanted / fleet.rate / HOUR)
    in_time = most_within(filled.calls_at, fleet.lifetime)
    paper = min(wanted, fleet.rate * fleet.lifetime)
    yield Figure(name="cold start: sets valid at once, at most", simulated=in_time, paper=paper)
    busiest = most_within(filled.calls_at, 60.0)
    yield Figure(name="cold start: KMS calls in the busiest minute", simulated=busiest, paper=60 * fleet.rate)
    if fleet.store:
        leases = min(fleet.sidecars, fleet.rate * fleet.patience)
        yield Figure(name="cold start: leases at once, at most", simulated=filled.most_leases, paper=leases)
        others = sets_wanted(replace(fleet, store=False)) - wanted
        work = fleet.sidecars * fleet.requests * HIT + others * LOOK + EXTRA_FOR_FETCH * wanted
        back = (fleet.sidecars - leases) / fleet.patience  # of the refused, per second
        trips = work * fleet.rate / wanted + leases + back * TO_REFUSE
        yield Figure(name="cold start: store round trips/s", simulated=filled.round_trips / seconds, paper=trips)
        yield Figure(name="cold start: more, while another broker fetches", simulated=filled.followed / seconds)
        yield Figure(name="cold start: messages to brokers/s", simulated=filled.messages / seconds)
    yield from _ordinary(fleet)


def _ordinary(fleet: Fleet) -> Iterator[Figure]:
    measured = 2
    day = days(fleet, measured=measured)
    calls = DAY * calls_per_second(fleet)
    yield Figure(name="ordinary day: sets the requests need", paper=DAY * demand(fleet))
    yield Figure(name="ordinary day: KMS calls", simulated=day.calls / measured, paper=calls)
    yield Figure(name="ordinary day: requests refused, %", simulated=100 * day.refused / day.asked)
    yield Figure(name="ordinary day: answers with a doubtful set, %", simulated=100 * day.doubtful / day.answered)
    if fleet.store:
        trips = (day.round_trips + day.followed) / measured / DAY
        yield Figure(name="ordinary day: store round trips/s", simulated=trips, paper=round_trips(fleet))
        yield Figure(name="ordinary day: messages to brokers/s", simulated=day.messages / measured / DAY)


def quota_figures(fleet: Fleet) -> Iterator[Figure]:
    """What the quota allows."""
    issued, _ = keep_warm(fleet)
    yield Figure(name="sets a day, and so imports a day, at most", simulated=issued, paper=fleet.rate * DAY)
    idle = replace(fleet, imports=0)
    yield Figure(name="keys kept warm without imports", simulated=keep_warm(idle)[1], paper=fleet.rate * fleet.lifetime)
    each = DAY * imports_per_key(fleet)
    warm = fleet.rate * mean_life(fleet, imports_per_key(fleet))
    yield Figure(
        name=f"keys kept warm with {each:.2f} imports a key and day", simulated=keep_warm(fleet)[1], paper=warm
    )


def peak_figures(fleet: Fleet) -> Iterator[Figure]:
    """The store's load when everything is cached."""
    seconds = 2.0
    for name, keys in ("all keys", fleet.keys), ("one key", 1):
        some = replace(fleet, keys=keys)
        (asked, commands), (on_paper, commands_on_paper) = questions(some, seconds=seconds), questions_per_second(some)
        yield Figure(name=f"{name}: store round trips/s", simulated=asked / seconds, paper=on_paper)
        yield Figure(name=f"{name}: commands in them/s", simulated=commands / seconds, paper=commands_on_paper)


def most_within(times: Sequence[float], span: float) -> int:
    """How many of the times, which are in order, lie within one span at most."""
    first, most = 0, 0
    for last, time in enumerate(times):
        while times[first] <= time - span:
            first += 1
        most = max(most, last - first + 1)
    return most


def report(fleet: Fleet, rates: Sequence[float]) -> Iterator[str]:
    """Everything, line by line."""
    hours = fleet.lifetime / HOUR
    yield f"{fleet.sidecars:,} pods, {fleet.replicas:,} brokers, {fleet.keys:,} keys, {fleet.popularity} popularity"
    yield f"{fleet.requests} requests a pod and day, {fleet.imports:.0%} lead to imports; sets last {hours:g} h"
    for rate in rates:
        yield f"\n{f'{rate:g} sets/s':<60}{'simulated':>12}{'on paper':>12}{'ratio':>8}"
        yield from map(str, quota_figures(replace(fleet, rate=rate)))
        for store in True, False:
            yield "with the store:" if store else f"without it, {rate / fleet.replicas:g} sets/s each:"
            yield from map(str, figures(replace(fleet, rate=rate, store=store)))
    hits = fleet.sidecars * fleet.peak
    yield f"\n{f'all cached, {hits:,.0f} requests/s':<60}{'simulated':>12}{'on paper':>12}{'ratio':>8}"
    yield from map(str, peak_figures(fleet))
    sealed, held = fleet.keys * ENTRY_BYTES / 2**20, fleet.keys * ENTRY_BYTES_HELD / 2**20
    yield f"\nmemory: {fleet.keys:,} entries {sealed:,.0f} MiB sealed, {held:,.0f} MiB in Redis"
    yield f"1 GiB holds {GIB // ENTRY_BYTES:,} entries of 3 KiB, {GIB // ENTRY_BYTES_HELD:,} with Redis's own share"


def main() -> None:
    """The command line."""
    usual = Fleet()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_model", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, nargs="+", default=[0.25, 1.0], help="sets per second (0.25 and 1)")
    parser.add_argument("--replicas", type=int, help="brokers (one for each pod)")
    for name, meaning in (
        ("sidecars", "pods"),
        ("keys", "keys"),
        ("requests", "requests of one pod in one day"),
        ("seed", "of the random numbers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name), help=f"{meaning} (%(default)s)")
    for name, meaning in (
        ("imports", "share of requests that end in an import"),
        ("min-remaining", "seconds a handed-out set is still valid"),
        ("patience", "seconds a request waits at most"),
        ("peak", "requests per second of one pod when all is cached"),
    ):
        default = getattr(usual, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{meaning} (%(default)g)")
    parser.add_argument("--popularity", choices=("uniform", "zipf"), default=usual.popularity, help="of the keys")
    parser.add_argument("--short", action="store_true", help="a tenth of the pods, brokers, keys and rate")
    options = vars(parser.parse_args())
    rates, short = options.pop("rate"), options.pop("short")
    options["replicas"] = options["replicas"] or options["sidecars"]
    fleet = Fleet(**options)
    if short:
        fleet, rates = shortened(fleet), [rate / 10 for rate in rates]
    for line in report(fleet, rates):
        print(line, flush=True)


def shortened(fleet: Fleet) -> Fleet:
    """A tenth of the fleet with a tenth of the work, for a tenth of the rate; a few brokers stay as many."""
    sidecars, keys = max(1, fleet.sidecars // 10), max(1, fleet.keys // 10)
    replicas = max(min(fleet.replicas, 3), fleet.replicas // 10)
    return replace(fleet, sidecars=sidecars, replicas=replicas, keys=keys, rate=fleet.rate / 10)


if __name__ == "__main__":
    main()
