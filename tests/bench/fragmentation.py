"""Whether fragmentation grows: a long random run of pods that come and go, ours against first fit.

Four nodes of four A100-40GB; 10,000 pods of each mix, in batches of one to four, with exponential life times and an
offered load of nine tenths of the slots. Both get the same pods; who finds no room at once is turned away. ``planner``
is ours, one plan a batch, and the kubelet's choice among free instances is random; ``first fit`` gives each pod the
first start, on the first GPU, that nothing in use blocks.

Two measures of fragmentation, by quarters of the run; numbers that grow would mean that it does. ``free``: pods turned
away although as many slots as they ask for were free in total. ``arranged``: pods turned away for whom there would have
been room had the running ones been moved, which nobody can do; it is the optimum at each step. ``short`` counts pods
that the planner turned away beyond the proven optimum around what runs.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from brain.decide.partition import plan
from brain.decide.program import Draft, Solver
from brain.model.mig import Gpu, Instance, InstanceState, Placement
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from tests import worlds

PODS: Final = 10_000
NODES: Final = 4
GPUS: Final = 4
LOAD: Final = 0.9
QUARTERS: Final = 4
MIXES: Final[Mapping[str, Mapping[str, int]]] = {
    "small": {"1g.5gb": 8, "2g.10gb": 4, "3g.20gb": 1},
    "even": {"1g.5gb": 8, "2g.10gb": 4, "3g.20gb": 2, "4g.20gb": 2, "7g.40gb": 1},
    "large": {"1g.5gb": 1, "3g.20gb": 3, "4g.20gb": 3, "7g.40gb": 2},
}
"""Weights of the profiles among the pods."""

_PROFILES: Final = {profile.name: profile for profile in worlds.profiles("A100-40GB")}
_EMPTY: Final = worlds.gpu(0, "", "A100-40GB")
_FULL: Final = (
    *("7g.40gb", "4g.20gb 3g.20gb", "4g.20gb 2g.10gb 1g.5gb", "4g.20gb 1g.5gb 1g.5gb 1g.5gb", "3g.20gb 3g.20gb"),
    *("3g.20gb 2g.10gb 2g.10gb", "3g.20gb 2g.10gb 1g.5gb 1g.5gb", "3g.20gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb"),
    *("2g.10gb 2g.10gb 2g.10gb 1g.5gb", "2g.10gb 2g.10gb 1g.5gb 1g.5gb 1g.5gb"),
    *("2g.10gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb", "1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb"),
)
"""The sets of instances of an A100 that no other contains."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Pods that come together.

    Attributes:
        time: when, in mean life times.
        pods: for each, its profile and for how long it runs.
    """

    time: float
    pods: tuple[tuple[str, float], ...]


def arrivals(mix: Mapping[str, int], rng: random.Random) -> Iterator[Arrival]:
    """The pods of one run."""
    names, weights = list(mix), list(mix.values())
    mean = sum(_PROFILES[name].size * weight for name, weight in mix.items()) / sum(weights)
    rate = LOAD * NODES * GPUS * _EMPTY.slots / mean
    time, left = 0.0, PODS
    while left:
        count = min(left, rng.randint(1, 4))
        time += rng.expovariate(rate / 2.5)
        yield Arrival(time, tuple((rng.choices(names, weights)[0], rng.expovariate(1.0)) for _ in range(count)))
        left -= count


class Got(NamedTuple):
    """An instance that a pod has."""

    node: int
    gpu: int
    start: int
    size: int


class Yard(Protocol):
    """A cluster under one way to give GPUs."""

    def come(self, profiles: Sequence[str]) -> list[Got | None]:
        """Pods come; for each what it got, None where it was turned away."""

    def leave(self, got: Got) -> None:
        """A pod ends."""


@dataclass
class Planned:
    """Ours."""

    rng: random.Random
    gpus: list[list[Gpu]] = field(
        default_factory=lambda: [[replace(_EMPTY, index=gpu) for gpu in range(GPUS)] for _ in range(NODES)]
    )
    short: int = 0

    def come(self, profiles: Sequence[str]) -> list[Got | None]:
        """Plan, change the GPUs, and let the kubelet choose."""
        pods = [worlds.pod(f"p{number}", {profile: 1}, created=number) for number, profile in enumerate(profiles)]
        result = plan(self._snapshot(pods))
        for name, changed in result.geometries.items():
            for index, geometry in changed.items():
                self._change(int(name), index, geometry)
        self.short += max(0, result.bound - len(result.assigned))
        return [
            self._give(int(result.assigned[pod.key]), profile) if pod.key in result.assigned else None
            for pod, profile in zip(pods, profiles, strict=True)
        ]

    def leave(self, got: Got) -> None:
        """The instance stays, free."""
        self._set(got, InstanceState.FREE)

    def _snapshot(self, pods: Sequence[Pod]) -> Snapshot:
        return Snapshot(tuple(worlds.node(str(number), gpus) for number, gpus in enumerate(self.gpus)), tuple(pods))

    def _change(self, node: int, index: int, geometry: Sequence[Placement]) -> None:
        gpu = self.gpus[node][index]
        known = {instance.placement: instance for instance in gpu.instances}
        assert all(place in geometry for place, instance in known.items() if instance.fixed), "in use and destroyed"
        instances = tuple(
            known.get(place)
            or Instance(place.profile, place.start, _PROFILES[place.profile].size, uuid=f"MIG-{index}-{place.start}")
            for place in geometry
        )
        self.gpus[node][index] = replace(gpu, instances=instances)

    def _give(self, node: int, profile: str) -> Got:
        free = [
            Got(node, gpu.index, instance.start, instance.size)
            for gpu in self.gpus[node]
            for instance in gpu.instances
            if instance.profile == profile and not instance.fixed
        ]
        got = self.rng.choice(free)
        self._set(got, InstanceState.USED)
        return got

    def _set(self, got: Got, state: InstanceState) -> None:
        before = self.gpus[got.node][got.gpu]
        instances = tuple(replace(one, state=state) if one.start == got.start else one for one in before.instances)
        self.gpus[got.node][got.gpu] = replace(before, instances=instances)


class FirstFit:
    """The first start on the first GPU that nothing in use blocks."""

    def __init__(self) -> None:
        self._taken = [0] * (NODES * GPUS)

    def come(self, profiles: Sequence[str]) -> list[Got | None]:
        """One after the other."""
        return [self._give(_PROFILES[profile].size, _PROFILES[profile].starts) for profile in profiles]

    def leave(self, got: Got) -> None:
        """Its slots are free."""
        _, gpu, start, size = got
        self._taken[gpu] ^= ((1 << size) - 1) << start

    def _give(self, size: int, starts: Sequence[int]) -> Got | None:
        for gpu, taken in enumerate(self._taken):
            for start in starts:
                mask = ((1 << size) - 1) << start
                if not mask & taken:
                    self._taken[gpu] |= mask
                    return Got(0, gpu, start, size)
        return None


@lru_cache(maxsize=100_000)
def arranges(wanted: tuple[tuple[str, int], ...]) -> bool:
    """Whether the cluster can hold so many instances of each profile at once."""
    draft = Draft()
    columns = {filling: draft.column(NODES * GPUS) for filling in _FULL}
    served = {name: draft.column(count) for name, count in wanted}
    draft.row(dict.fromkeys(columns.values(), 1), upper=NODES * GPUS)
    for name, column in served.items():
        supply = {columns[filling]: filling.split().count(name) for filling in _FULL if name in filling.split()}
        draft.row({**supply, column: -1}, lower=0)
    solver = Solver(draft.done())
    solver.maximize(dict.fromkeys(served.values(), 1))
    return sum(solver.values[column] for column in served.values()) == sum(count for _, count in wanted)


@dataclass
class Tally:
    """Pods turned away, and how many of them by quarters: enough slots free; room if running pods were moved."""

    away: int = 0
    free: list[int] = field(default_factory=lambda: [0] * QUARTERS)
    arranged: list[int] = field(default_factory=lambda: [0] * QUARTERS)


def run(yard: Yard, mix: Mapping[str, int]) -> Tally:
    """One run."""
    ends: list[tuple[float, int, str, Got]] = []
    held: Counter[str] = Counter()
    tally, seen = Tally(), 0
    for arrival in arrivals(mix, random.Random(7)):  # noqa: S311
        while ends and ends[0][0] <= arrival.time:
            _, _, ended, had = heapq.heappop(ends)
            held[ended] -= 1
            yard.leave(had)
        profiles = [profile for profile, _ in arrival.pods]
        given = yard.come(profiles)
        held.update(profile for profile, got in zip(profiles, given, strict=True) if got is not None)
        free = NODES * GPUS * _EMPTY.slots - sum(_PROFILES[name].size * count for name, count in held.items())
        for (profile, seconds), got in zip(arrival.pods, given, strict=True):
            if got is not None:
                heapq.heappush(ends, (arrival.time + seconds, seen, profile, got))
            else:
                quarter = seen * QUARTERS // PODS
                tally.away += 1
                tally.free[quarter] += free >= _PROFILES[profile].size
                tally.arranged[quarter] += arranges(tuple(sorted((held + Counter([profile])).items())))
            seen += 1
    return tally


def main() -> None:
    """Prints one line a mix and way."""
    print(f"{NODES} nodes, {NODES * GPUS} GPUs, {PODS} pods a mix")
    print(f"mix     way         away   {'free':27}   {'arranged':27}   short")
    for name, mix in MIXES.items():
        ours = Planned(random.Random(11))  # noqa: S311
        yards: dict[str, Yard] = {"planner": ours, "first fit": FirstFit()}
        for way, yard in yards.items():
            tally = run(yard, mix)
            free, arranged = (" ".join(f"{count:6}" for count in each) for each in (tally.free, tally.arranged))
            print(f"{name:7} {way:10} {tally.away:5}   {free}   {arranged}   {ours.short if yard is ours else ''}")
