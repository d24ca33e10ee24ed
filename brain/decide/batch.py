"""The batch as one integer program: how many GPUs of equal contents get which filling, and which pods go where.

Pods are alike when the planner cannot tell them apart but by age. Priorities are objectives, the highest first, then
the least disturbance. Per node the program respects what the scheduler counts: cpu, memory, pods, devices, host ports.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from brain.decide import fit
from brain.decide.cards import FRESH_COST
from brain.decide.fillings import Filling, table
from brain.decide.kinds import Kind, asked_of
from brain.decide.program import SEARCH_NODES, Draft, Program, Solver, value_of
from brain.decide.rooms import GpuRoom, Room
from brain.model import resources
from brain.model.pod import Pod
from n8s import names

EXACT_COLUMNS: Final = 1_500
"""Largest program over single nodes that is solved at once: it takes up to a second."""
SMALL_COLUMNS: Final = 400
"""Largest program whose nodes are cheap: one that is not solved to the end is searched again, for longer."""
_LONG: Final = 2_000
_BRIEF: Final = 20
"""Nodes of that longer search, and of that for the least disturbance in larger programs."""
PATIENCE: Final = 4
"""How many times as large a program may be that is solved where everything else falls short: it takes some seconds."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the program gives.

    Attributes:
        assigned: pods with the room that has instances for them, now that the rooms' GPUs hold their fillings.
        bound: more pods than this cannot be served without fewer of a higher priority.
    """

    assigned: tuple[tuple[Pod, Room], ...]
    bound: int


def share(
    rooms: Sequence[Room], kinds: Sequence[Kind], needs: Mapping[Hashable, int], *, patience: int = 1
) -> Share | None:
    """Solve the program for kinds of pods and put its fillings into the rooms' GPUs; None where it is too large.

    Of the kinds with a tag that ``needs`` names, so many pods are served together, or none.
    """
    most = EXACT_COLUMNS * patience
    if len(kinds) * len(rooms) > most:
        return None
    model = _Model([_Site.of(room, kinds) for room in rooms], kinds, needs)
    return _solved(model, kinds) if len(model.program.upper) <= most else None


def unchanged(rooms: Sequence[Room], kinds: Sequence[Kind]) -> list[tuple[int, Room]]:
    """As many pods of some kinds, given by position, as can be served as things are; nothing is put into the GPUs."""
    model = _Model([_Site.of(room, kinds) for room in rooms], kinds, {}, change=False)
    values = _most(model.program, tuple(model.placed.values()))
    return [
        (kind, model.sites[site].room)
        for (kind, site), column in sorted(model.placed.items())
        for _ in range(values[column])
    ]


@lru_cache(maxsize=8)
def _most(program: Program, columns: Sequence[int]) -> tuple[int, ...]:
    """The values of a program's columns where some of them together are as large as can be."""
    solver = Solver(program)
    solver.maximize(dict.fromkeys(columns, 1))
    return tuple(solver.values)


@dataclass(frozen=True, slots=True)
class _Site:
    """A node in the program.

    Attributes:
        room: the node.
        suits: the kinds of pods, by position, that may run there.
    """

    room: Room
    suits: tuple[int, ...]

    @staticmethod
    def of(room: Room, kinds: Sequence[Kind]) -> _Site:
        """A node, judged with all that it has left."""
        return _Site(
            room,
            tuple(position for position, kind in enumerate(kinds) if room.suits(kind.sample)),
        )


def _solved(model: _Model, kinds: Sequence[Kind]) -> Share:
    """Solve a model, put its fillings into the GPUs and say where each pod goes."""
    if not model.placed:
        return Share((), 0)
    values, bound = _answer(_Question.of(model, kinds))
    model.fill(values)
    left = [iter(kind.pods) for kind in kinds]
    assigned = [
        (next(left[kind]), model.sites[site].room)
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
        crowded: whether there are too few slots for all, so that nobody need ask whether everybody finds room.
        changes: the columns of fillings for which something must be made, where there are as many free instances of
            each resource as all pods ask for; else none.
    """

    program: Program
    levels: tuple[tuple[tuple[int, ...], int], ...]
    costs: tuple[tuple[int, int], ...]
    crowded: bool
    changes: tuple[int, ...]

    @staticmethod
    def of(model: _Model, kinds: Sequence[Kind]) -> _Question:
        levels: defaultdict[int, list[int]] = defaultdict(list)
        for (kind, _), column in model.placed.items():
            levels[-kinds[kind].sample.priority].append(column)
        suited = {kind for kind, _ in model.placed}
        pods: Counter[int] = Counter()
        for kind in suited:
            pods[-kinds[kind].sample.priority] += len(kinds[kind].pods)
        ranked = tuple((tuple(columns), pods[level]) for level, columns in sorted(levels.items()))
        costs = tuple((column, model.cost(column)) for column in model.filled)
        changes = [column for column, (_, filling) in model.filled.items() if filling.changes]
        standing = _standing(model, [kinds[kind] for kind in suited])
        return _Question(model.program, ranked, costs, _crowded(model, kinds), tuple(changes) if standing else ())


def _standing(model: _Model, kinds: Sequence[Kind]) -> bool:
    """Whether there are, by number, free instances enough for all pods of some kinds."""
    there: Counter[str] = Counter()
    for site in model.sites:
        there.update(site.room.unmanaged or site.room.standing)
    return asked_of(kinds) <= there


def _crowded(model: _Model, kinds: Sequence[Kind]) -> bool:
    """Whether the pods that suit some site take more slots than there are, each where it takes the fewest."""
    least: dict[int, int] = {}
    for kind, site in model.placed:
        sizes = model.sites[site].room.sizes
        slots = sum(count * sizes.get(name, 0) for name, count in kinds[kind].sample.mig_request.items())
        least[kind] = min(slots, least.get(kind, slots))
    gpus = (gpu for site in model.sites for gpu in site.room.gpus)
    free = sum(gpu.gpu.slots - gpu.grid.slots(gpu.kept).bit_count() for gpu in gpus)
    return sum(slots * len(kinds[kind].pods) for kind, slots in least.items()) > free


@lru_cache(maxsize=8)
def _answer(question: _Question) -> tuple[tuple[int, ...], int]:
    """The values of the columns, and how many pods can be served at most."""
    everybody = {column: 1 for columns, _ in question.levels for column in columns}
    solver = Solver(question.program)
    columns = len(question.program.upper)
    pods = sum(pods for _, pods in question.levels)
    apart = question.crowded and len(question.levels) > 1
    bound = 0 if apart else _served(solver, everybody, columns)
    if apart or (value_of(everybody, solver.values) < pods and len(question.levels) > 1):
        # Not everybody finds room: now it matters who comes first.
        bound = 0
        for counts, _ in question.levels:
            level = dict.fromkeys(counts, 1)
            bound += _served(solver, level, columns)
            solver.hold(level)
    else:
        solver.hold(everybody)
    if question.changes:
        solver.spare(question.changes)
    gentle = {column: -cost for column, cost in question.costs}
    proven = False
    if columns <= EXACT_COLUMNS:
        least = solver.maximize(gentle, SEARCH_NODES if columns <= SMALL_COLUMNS else _BRIEF)
        proven = least == value_of(gentle, solver.values)
    if not proven:
        solver.settle(everybody)  # pods stay on their nodes: that takes no time, and mends the most
        solver.maximize(gentle)
    return tuple(solver.values), bound


def _served(solver: Solver, pods: Mapping[int, int], columns: int) -> int:
    """Serve as many pods as can be; more than the answer cannot be served."""
    bound = solver.maximize(pods)
    if columns <= SMALL_COLUMNS and value_of(pods, solver.values) < bound:
        bound = min(bound, solver.maximize(pods, _LONG))
    return bound


class _Model:
    """The program of sites and kinds of pods.

    Attributes:
        sites: the sites.
        placed: the column that says how many pods of a kind (by position) a site (by position) gets.
        filled: by column, the group of GPUs of equal contents and the filling that it counts.
    """

    def __init__(
        self, sites: Sequence[_Site], kinds: Sequence[Kind], needs: Mapping[Hashable, int], *, change: bool = True
    ) -> None:
        """``change``: whether GPUs are filled; else what is free on them is all that there is, and none is filled."""
        self.sites = sites
        self._change = change
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
        self._together(kinds, rows, needs)
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

    def _add(self, position: int, site: _Site, kinds: Sequence[Kind]) -> dict[int, int]:
        """The columns and rows of one site; the columns that count its pods, by kind."""
        columns: dict[int, int] = {}
        for kind in site.suits:
            pods = len(kinds[kind].pods)
            most = min(pods, 1) if kinds[kind].sample.host_ports else pods
            columns[kind] = self.placed[kind, position] = self._draft.column(most)
        needed = tuple(sorted({name for kind in columns for name in kinds[kind].sample.mig_request}))
        supply: dict[str, dict[int, int]] = {name: {} for name in needed}
        for group in _equal(site.room.gpus) if self._change else ():
            used: dict[int, int] = {}
            for filling in _fillings(group[0], needed, change=not site.room.fixed_reason):
                column = self._draft.column(len(group))
                self.filled[column] = (len(self._groups), filling)
                used[column] = 1
                for name, count in zip(needed, filling.provides, strict=True):
                    if count:
                        supply[name][column] = count
            self._draft.row(used, upper=len(group))
            self._groups.append(group)
            self._tainted.append(site.room.node.repartitioning)
        self._demand(site, {column: kinds[kind].sample for kind, column in columns.items()}, supply)
        return columns

    def _together(
        self, kinds: Sequence[Kind], rows: Sequence[Mapping[int, int]], needs: Mapping[Hashable, int]
    ) -> None:
        """Of each tag that needs several pods, enough or none; ``rows`` has each kind's columns."""
        tagged: defaultdict[Hashable, dict[int, int]] = defaultdict(dict)
        for kind, weights in zip(kinds, rows, strict=True):
            if kind.tag in needs:
                tagged[kind.tag] |= weights
        for tag, weights in tagged.items():
            most = sum(len(kind.pods) for kind in kinds if kind.tag == tag)
            served = self._draft.column(1)
            self._draft.row({**weights, served: -most}, upper=0)
            self._draft.row({**weights, served: -needs[tag]}, lower=0)

    def _demand(self, site: _Site, pods: Mapping[int, Pod], supply: Mapping[str, Mapping[int, int]]) -> None:
        """What the pods of a site take together is no more than there is; pods by the column that counts them."""
        standing = site.room.unmanaged if self._change else site.room.standing
        for name, given in supply.items():
            taken = {column: -pod.mig_request[name] for column, pod in pods.items() if name in pod.mig_request}
            self._draft.row({**given, **taken}, lower=-max(0, standing[name]))
        asked: defaultdict[str, dict[int, int]] = defaultdict(dict)
        ports: defaultdict[tuple[str, int], dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
        for column, pod in pods.items():
            asked[resources.PODS][column] = 1
            for name, value in pod.request.items():
                if value > 0 and not name.startswith(names.MIG_PREFIX):
                    asked[name][column] = value
            for protocol, address, port in pod.host_ports:
                ports[protocol, port][address][column] = 1
        for name, weights in asked.items():
            # Bytes are large numbers; a common divisor says the same in smaller ones.
            unit = math.gcd(*weights.values())
            smaller = {column: value // unit for column, value in weights.items()}
            self._draft.row(smaller, upper=max(0, site.room.free.get(name, 0)) // unit)
        for by_address in ports.values():
            everywhere = by_address[fit.ANY_ADDRESS]
            for weights in by_address.values():
                self._draft.row({**everywhere, **weights}, upper=1)


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
