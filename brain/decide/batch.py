"""The batch as one integer program: how many GPUs of equal contents get which filling, and which pods go where.

Pods are alike when the planner cannot tell them apart but by age. Priorities are objectives, the highest first, then
the least disturbance. Per node the program respects what the scheduler counts: cpu, memory, pods, devices, host ports.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from brain.decide import fit
from brain.decide.fillings import Filling, table
from brain.decide.program import Draft, Program, Solver, value_of
from brain.decide.rooms import GpuRoom, Room
from brain.model import resources
from brain.model.pod import Pod
from n8s import names

EXACT_COLUMNS: Final = 6_000
"""Largest program over single nodes; above, its time grows beyond what a round of the brain may take."""
DISTURBANCE_COLUMNS: Final = 2_500
"""Largest program in which pods still move between nodes so that less is disturbed; above, that takes too long."""
FRESH_COST: Final = 100
"""What a change costs more on a node that is not tainted for one yet: so a plan made again keeps to its nodes."""
MERGED_COLUMNS: Final = 60_000
"""Largest program over nodes taken together."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the program gives.

    Attributes:
        assigned: pods with the room that has instances for them, now that the rooms' GPUs hold their fillings.
        bound: more pods than this cannot be served without fewer of a higher priority; None where nothing was solved.
    """

    assigned: tuple[tuple[Pod, Room], ...] = ()
    bound: int | None = None


def share(rooms: Sequence[Room], pods: Sequence[Pod]) -> Share:
    """Solve the program for pods, sorted by rank, and put its fillings into the rooms' GPUs.

    A program over single nodes also says which pod goes where. Where that is too large, nodes that suit the same pods
    are taken together: then the fillings are as good, but pods have to be spread over the nodes afterwards.
    """
    kinds = _kinds(pods, alike)
    if len(kinds) * len(rooms) <= EXACT_COLUMNS:
        sites = [_Site.of((room,), kinds) for room in rooms]
        model = _Model(sites, kinds)
        if len(model.program.upper) <= EXACT_COLUMNS:
            return _solved(model, kinds, place=True)
    kinds = _kinds(pods, _alike_but_for_size)
    model = _Model(_merged(rooms, kinds), kinds)
    return _solved(model, kinds, place=False) if len(model.program.upper) <= MERGED_COLUMNS else Share()


@dataclass(frozen=True, slots=True)
class _Kind:
    """Pods that the program cannot tell apart.

    Attributes:
        pods: the pods, by rank.
        sample: one that stands for them; of each resource but MIG devices it asks for the least that any of them does.
    """

    pods: tuple[Pod, ...]
    sample: Pod


@dataclass(frozen=True, slots=True)
class _Site:
    """Nodes that the program takes as one.

    Attributes:
        rooms: the nodes.
        suits: the kinds of pods, by position, that may run there.
        gpus: their GPUs, those first that shall get the fillings for most pods.
    """

    rooms: tuple[Room, ...]
    suits: tuple[int, ...]
    gpus: tuple[GpuRoom, ...]

    @staticmethod
    def of(rooms: tuple[Room, ...], kinds: Sequence[_Kind]) -> _Site:
        """A single node, judged with all that it has left."""
        (room,) = rooms
        suits = tuple(
            position for position, kind in enumerate(kinds) if room.knows(kind.sample) and not room.refusal(kind.sample)
        )
        return _Site(rooms, suits, tuple(room.gpus))

    @property
    def change(self) -> bool:
        """Whether their GPUs may be changed."""
        return not self.rooms[0].fixed_reason

    def free(self, resource: str) -> int:
        """What they have left of a resource together."""
        return sum(max(0, room.free.get(resource, 0)) for room in self.rooms)

    def devices(self, resource: str) -> int:
        """MIG devices that nodes without known GPUs have left."""
        return sum(max(0, room.unmanaged[resource]) for room in self.rooms)


def _merged(rooms: Sequence[Room], kinds: Sequence[_Kind]) -> list[_Site]:
    """Sites of nodes that suit the same kinds of pods and may be changed alike."""
    alike: defaultdict[tuple[tuple[int, ...], bool], list[Room]] = defaultdict(list)
    for room in rooms:
        suits = tuple(
            position
            for position, kind in enumerate(kinds)
            if room.knows(kind.sample) and not fit.unsuitable(kind.sample, room.node)
        )
        if suits:
            alike[suits, not room.fixed_reason].append(room)
    sites = []
    for (suits, _), members in alike.items():
        # One GPU of each node after the other, the node with most cpu first: so no node gets all the small instances.
        ranked = sorted(members, key=lambda room: -room.free.get(resources.CPU, 0))
        rounds = itertools.zip_longest(*(room.gpus for room in ranked))
        gpus = tuple(gpu for each in rounds for gpu in each if gpu is not None)
        sites.append(_Site(tuple(members), suits, gpus))
    return sites


def _solved(model: _Model, kinds: Sequence[_Kind], *, place: bool) -> Share:
    """Solve a model and put its fillings into the GPUs; with ``place``, also say where each pod goes."""
    if not model.placed:
        return Share((), 0)
    values, bound = _answer(_Question.of(model, kinds))
    model.fill(values)
    if not place:
        return Share((), bound)
    left = [iter(kind.pods) for kind in kinds]
    assigned = [
        (next(left[kind]), model.sites[site].rooms[0])
        for (kind, site), column in sorted(model.placed.items())
        for _ in range(values[column])
    ]
    return Share(tuple(assigned), bound)


@dataclass(frozen=True, slots=True)
class _Question:
    """All that a solution follows from, as a value: most rounds of the brain ask what the round before asked.

    Attributes:
        program: the program.
        levels: the columns that count pods, with the number of pods that there are, the highest priority first.
        costs: what each filling disturbs, by column.
    """

    program: Program
    levels: tuple[tuple[tuple[int, ...], int], ...]
    costs: tuple[tuple[int, int], ...]

    @staticmethod
    def of(model: _Model, kinds: Sequence[_Kind]) -> _Question:
        levels: defaultdict[int, list[int]] = defaultdict(list)
        for (kind, _), column in model.placed.items():
            levels[-kinds[kind].sample.priority].append(column)
        suited = {kind for kind, _ in model.placed}
        pods: Counter[int] = Counter()
        for kind in suited:
            pods[-kinds[kind].sample.priority] += len(kinds[kind].pods)
        ranked = tuple((tuple(columns), pods[level]) for level, columns in sorted(levels.items()))
        return _Question(model.program, ranked, tuple((column, model.cost(column)) for column in model.filled))


@lru_cache(maxsize=8)
def _answer(question: _Question) -> tuple[tuple[int, ...], int]:
    """The values of the columns, and how many pods can be served at most."""
    everybody = {column: 1 for columns, _ in question.levels for column in columns}
    solver = Solver(question.program)
    bound = solver.maximize(everybody)
    if value_of(everybody, solver.values) < sum(pods for _, pods in question.levels) and len(question.levels) > 1:
        # Not everybody finds room: now it matters who comes first.
        bound = 0
        for columns, _ in question.levels:
            level = dict.fromkeys(columns, 1)
            bound += solver.maximize(level)
            solver.hold(level)
    else:
        solver.hold(everybody)
    if len(question.program.upper) > DISTURBANCE_COLUMNS:
        solver.settle(everybody)
    solver.maximize({column: -cost for column, cost in question.costs})
    return tuple(solver.values), bound


def alike(pod: Pod) -> tuple[object, ...]:
    """What tells pods apart, besides their age."""
    return (*_alike_but_for_size(pod), tuple(sorted(pod.request.items())))


def _alike_but_for_size(pod: Pod) -> tuple[object, ...]:
    """What tells pods apart, besides their age and what they ask for other than MIG devices."""
    devices = tuple(sorted(pod.mig_request.items()))
    selector = tuple(sorted(pod.node_selector.items()))
    return pod.priority, devices, selector, pod.node_affinity, pod.tolerations, pod.host_ports


def _kinds(pods: Sequence[Pod], key: Callable[[Pod], tuple[object, ...]]) -> list[_Kind]:
    """Kinds of pods, in the order of their first pods."""
    kinds: dict[tuple[object, ...], list[Pod]] = {}
    for pod in pods:
        kinds.setdefault(key(pod), []).append(pod)
    return [_Kind(tuple(members), _smallest(members)) for members in kinds.values()]


def _smallest(pods: Sequence[Pod]) -> Pod:
    request = dict(pods[0].request)
    for pod in pods[1:]:
        request = {name: min(value, pod.request.get(name, 0)) for name, value in request.items()}
    return replace(pods[0], request=request)


class _Model:
    """The program of sites and kinds of pods.

    Attributes:
        sites: the sites.
        placed: the column that says how many pods of a kind (by position) a site (by position) gets.
        filled: by column, the group of GPUs of equal contents and the filling that it counts.
    """

    def __init__(self, sites: Sequence[_Site], kinds: Sequence[_Kind]) -> None:
        self.sites = sites
        self._draft = Draft()
        self.placed: dict[tuple[int, int], int] = {}
        self.filled: dict[int, tuple[int, Filling]] = {}
        self._groups: list[tuple[GpuRoom, ...]] = []
        self._tainted: list[bool] = []
        rows: list[dict[int, int]] = [{} for _ in kinds]
        for position, site in enumerate(sites):
            for kind, column in self._add(position, site, kinds).items():
                rows[kind][column] = 1
        for pods, weights in zip(kinds, rows, strict=True):
            self._draft.row(weights, upper=len(pods.pods))
        self.program = self._draft.done()

    def cost(self, column: int) -> int:
        """What a GPU's filling disturbs."""
        group, filling = self.filled[column]
        tainted = self._tainted[group]
        return filling.cost + (FRESH_COST if filling.changes and not tainted else 0)

    def fill(self, values: Sequence[int]) -> None:
        """Put the fillings of a solution into the GPUs, those for most pods first."""
        chosen: defaultdict[int, list[Filling]] = defaultdict(list)
        for column, (group, filling) in self.filled.items():
            chosen[group] += [filling] * values[column]
        for group, wanted in chosen.items():
            wanted.sort(key=lambda filling: -sum(filling.provides))
            for room, filling in zip(self._groups[group], wanted, strict=False):
                room.free = room.free & ~room.in_the_way(filling.chosen) | filling.chosen

    def _add(self, position: int, site: _Site, kinds: Sequence[_Kind]) -> dict[int, int]:
        """The columns and rows of one site; the columns that count its pods, by kind."""
        columns: dict[int, int] = {}
        for kind in site.suits:
            pods = len(kinds[kind].pods)
            most = min(pods, len(site.rooms)) if kinds[kind].sample.host_ports else pods
            columns[kind] = self.placed[kind, position] = self._draft.column(most)
        needed = tuple(sorted({name for kind in columns for name in kinds[kind].sample.mig_request}))
        supply: dict[str, dict[int, int]] = {name: {} for name in needed}
        for group in _equal(site.gpus):
            used: dict[int, int] = {}
            for filling in _fillings(group[0], needed, change=site.change):
                column = self._draft.column(len(group))
                self.filled[column] = (len(self._groups), filling)
                used[column] = 1
                for name, count in zip(needed, filling.provides, strict=True):
                    if count:
                        supply[name][column] = count
            self._draft.row(used, upper=len(group))
            self._groups.append(group)
            self._tainted.append(all(room.node.repartitioning for room in site.rooms))
        self._demand(site, {column: kinds[kind].sample for kind, column in columns.items()}, supply)
        return columns

    def _demand(self, site: _Site, pods: Mapping[int, Pod], supply: Mapping[str, Mapping[int, int]]) -> None:
        """What the pods of a site take together is no more than there is; pods by the column that counts them."""
        for name, given in supply.items():
            taken = {column: -pod.mig_request[name] for column, pod in pods.items() if name in pod.mig_request}
            self._draft.row({**given, **taken}, lower=-site.devices(name))
        asked: defaultdict[str, dict[int, int]] = defaultdict(dict)
        ports: defaultdict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        for column, pod in pods.items():
            asked[resources.PODS][column] = 1
            for name, value in pod.request.items():
                if value > 0 and not name.startswith(names.MIG_PREFIX):
                    asked[name][column] = value
            for protocol, _, port in pod.host_ports:
                ports[protocol, port][column] = 1
        for name, weights in asked.items():
            # Bytes are large numbers; a common divisor says the same in smaller ones.
            unit = math.gcd(*weights.values())
            smaller = {column: value // unit for column, value in weights.items()}
            self._draft.row(smaller, upper=site.free(name) // unit)
        for weights in ports.values():
            self._draft.row(weights, upper=len(site.rooms))


def _equal(gpus: Sequence[GpuRoom]) -> Iterator[tuple[GpuRoom, ...]]:
    """GPUs of equal contents together."""
    groups: defaultdict[tuple[object, ...], list[GpuRoom]] = defaultdict(list)
    for gpu in gpus:
        groups[gpu.state].append(gpu)
    return map(tuple, groups.values())


def _fillings(room: GpuRoom, needed: tuple[str, ...], *, change: bool) -> tuple[Filling, ...]:
    """The useful fillings of a GPU; none where it can hold nothing that is needed."""
    if not any(resource in room.grid.by_resource for resource in needed):
        return ()
    fillings = table(room.grid, needed, room.kept, room.free, change=change and not room.gpu.problem)
    return fillings.useful(room.free, len(needed))
