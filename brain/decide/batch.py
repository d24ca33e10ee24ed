"""The batch as one integer program: how many GPUs of equal contents get which filling, and which pods go where.

Pods are alike when the planner cannot tell them apart but by age. Priorities are objectives, the highest first, then
the least disturbance. Per node the program respects what the scheduler counts: cpu, memory, pods, devices, host ports.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from brain.decide.fillings import Filling, fillings
from brain.decide.program import Program, maximize
from brain.decide.rooms import GpuRoom, Room
from brain.model import resources
from brain.model.pod import Pod
from n8s import names

COLUMNS: Final = 6_000
"""Largest program that is solved; above, its time grows beyond what a round of the brain may take."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the program gives.

    Attributes:
        assigned: pods with the room that has instances for them, now that the rooms' GPUs hold their fillings.
        bound: more pods than this cannot be served; None where no program was solved.
    """

    assigned: tuple[tuple[Pod, Room], ...] = ()
    bound: int | None = None


def share(rooms: Sequence[Room], pods: Sequence[Pod]) -> Share:
    """Solve the program for pods, sorted by rank, and put its fillings into the rooms' GPUs."""
    kinds = _kinds(pods)
    if not kinds:
        return Share((), 0)
    model = _Model(rooms, kinds)
    if len(model.program.upper) > COLUMNS:
        return Share()
    priorities = [kind[0].priority for kind in kinds]
    served = [
        {column: 1 for (kind, _), column in model.placed.items() if priorities[kind] == level}
        for level in sorted(set(priorities), reverse=True)
    ]
    served = [objective for objective in served if objective]
    if not served:
        return Share((), 0)
    disturbance = {column: -filling.cost for column, (_, filling) in model.filled.items()}
    solution = maximize(model.program, [*served, disturbance])
    model.fill(solution.values)
    left = [list(kind) for kind in kinds]
    assigned = [
        (left[kind].pop(0), rooms[room])
        for (kind, room), column in sorted(model.placed.items())
        for _ in range(solution.values[column])
    ]
    return Share(tuple(assigned), sum(solution.bounds[: len(served)]))


def _kinds(pods: Sequence[Pod]) -> list[list[Pod]]:
    """Pods that are alike, in their order; kinds in the order of their first pods."""
    kinds: dict[tuple[object, ...], list[Pod]] = {}
    for pod in pods:
        alike = (
            pod.priority,
            tuple(sorted(pod.request.items())),
            tuple(sorted(pod.node_selector.items())),
            pod.node_affinity,
            pod.tolerations,
            pod.host_ports,
        )
        kinds.setdefault(alike, []).append(pod)
    return list(kinds.values())


class _Model:
    """The program of rooms and kinds of pods.

    Attributes:
        placed: the column that says how many pods of a kind (by position) a room (by position) gets.
        filled: by column, the group of GPUs of equal contents and the filling that it counts.
    """

    def __init__(self, rooms: Sequence[Room], kinds: Sequence[Sequence[Pod]]) -> None:
        self.program = Program()
        self.placed: dict[tuple[int, int], int] = {}
        self.filled: dict[int, tuple[int, Filling]] = {}
        self._groups: list[tuple[GpuRoom, ...]] = []
        for position, room in enumerate(rooms):
            self._add(position, room, kinds)
        for kind, pods in enumerate(kinds):
            weights = {column: 1 for (other, _), column in self.placed.items() if other == kind}
            self.program.row(weights, upper=len(pods))

    def fill(self, values: Sequence[int]) -> None:
        """Put the fillings of a solution into the GPUs, in the order of their indices."""
        chosen: defaultdict[int, list[Filling]] = defaultdict(list)
        for column, (group, filling) in self.filled.items():
            chosen[group] += [filling] * values[column]
        for group, wanted in chosen.items():
            for room, filling in zip(self._groups[group], wanted, strict=False):
                gone = {other for placement in filling.placements for other in room.in_the_way(placement)}
                room.free = (room.free - gone) | filling.placements

    def _add(self, position: int, room: Room, kinds: Sequence[Sequence[Pod]]) -> None:
        """The columns and rows of one node."""
        columns: dict[int, int] = {}
        for kind, pods in enumerate(kinds):
            pod = pods[0]
            if not room.refusal(pod) and all(map(room.profile_known, pod.mig_request)):
                columns[kind] = self.program.column(1 if pod.host_ports else len(pods))
                self.placed[kind, position] = columns[kind]
        if not columns:
            return
        needed = tuple(sorted({name for kind in columns for name in kinds[kind][0].mig_request}))
        supply: dict[str, dict[int, int]] = {name: {} for name in needed}
        for group in _alike(room.gpus):
            options = fillings(group[0], needed, change=not room.fixed_reason)
            used: dict[int, int] = {}
            for filling in options:
                column = self.program.column(len(group))
                self.filled[column] = (len(self._groups), filling)
                used[column] = 1
                for name, count in zip(needed, filling.provides, strict=True):
                    if count:
                        supply[name][column] = count
            self.program.row(used, upper=len(group))
            self._groups.append(group)
        self._demand(room, kinds, columns, supply)

    def _demand(
        self,
        room: Room,
        kinds: Sequence[Sequence[Pod]],
        columns: Mapping[int, int],
        supply: Mapping[str, Mapping[int, int]],
    ) -> None:
        """What the pods of a node take together is no more than there is."""
        for name, given in supply.items():
            wanted = {column: kinds[kind][0].mig_request.get(name, 0) for kind, column in columns.items()}
            taken = {column: -count for column, count in wanted.items() if count}
            self.program.row({**given, **taken}, lower=-max(room.unmanaged[name], 0))
        asked: defaultdict[str, dict[int, int]] = defaultdict(dict)
        ports: defaultdict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        for kind, column in columns.items():
            pod = kinds[kind][0]
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
            self.program.row(smaller, upper=room.free.get(name, 0) // unit)
        for weights in ports.values():
            self.program.row(weights, upper=1)


def _alike(gpus: Sequence[GpuRoom]) -> Iterator[tuple[GpuRoom, ...]]:
    """GPUs of equal contents together."""
    groups: defaultdict[tuple[object, ...], list[GpuRoom]] = defaultdict(list)
    for gpu in gpus:
        groups[gpu.state()].append(gpu)
    return map(tuple, groups.values())
