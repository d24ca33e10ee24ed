"""Nodes as they would be if some pods had gone: where a pod would fit then, a repartition included.

Pods on their way out count as gone unless asked otherwise, pods that a plan has given a node as there. Nodes are looked
at when they are first asked about. Mutable; made for one round and thrown away.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from operator import attrgetter, or_
from typing import Final

from brain.decide import eligibility, fit
from brain.decide.combine import Amounts
from brain.decide.fillings import counts_of, table
from brain.decide.grid import Grid
from brain.decide.neighbours import Neighbours
from brain.decide.reclaim import Victim
from brain.decide.rooms import Grids, Room
from brain.model import resources
from brain.model.mig import Geometry, InstanceState
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import names

_MOST_HOLDERS: Final = 8
"""Pods on one GPU of which all sets are looked at for how many of them must go at least."""


class Land:
    """The nodes of a snapshot, and on which of them a pod may run; one for all that a round looks at."""

    def __init__(self, snapshot: Snapshot, due: Set[str] = frozenset()) -> None:
        """``due``: keys of pods that are yet to follow others that have gone for one."""
        self._snapshot = snapshot
        self.due = due
        self.lingering = snapshot.lingering()
        self._suiting: dict[object, tuple[str, ...]] = {}
        self._shapes: dict[str, object | None] = {}
        self._neighbours: Neighbours | None = None
        self.nodes = {node.name: node for node in sorted(snapshot.nodes, key=attrgetter("name"))}
        self.bound = snapshot.bound()

    def alone(self, pod: Pod) -> bool:
        """Whether no other pod has a say in where the pod may run."""
        return not (pod.affinity or pod.anti_affinity or pod.spread or self._snapshot.avoiding())

    def shape(self, pod: Pod) -> object | None:
        """What says where a pod fits; None where other pods have a say in it."""
        if pod.key not in self._shapes:
            asks, selector = (tuple(sorted(of.items())) for of in (pod.request, pod.node_selector))
            shape = asks, selector, pod.node_affinity, pod.tolerations
            self._shapes[pod.key] = None if pod.host_ports or not self.alone(pod) else shape
        return self._shapes[pod.key]

    def suiting(self, pod: Pod) -> Sequence[str]:
        """Nodes that the pod may run on, however full, by name."""
        where = tuple(sorted(pod.node_selector.items())), pod.node_affinity, pod.tolerations
        found = self._suiting.get(where)
        if found is None:
            suiting = (name for name, node in self.nodes.items() if not fit.unsuitable(pod, node))
            found = self._suiting[where] = tuple(suiting)
        if self.alone(pod):
            return found
        if self._neighbours is None:
            self._neighbours = Neighbours(self._snapshot)
        return [name for name in found if not self._neighbours.refusal(pod, name)]


class Ground:
    """The nodes of a cluster."""

    def __init__(
        self,
        land: Land,
        assigned: Iterable[tuple[Pod, str]] = (),
        geometries: Mapping[str, Mapping[int, Geometry]] | None = None,
        *,
        now: bool = False,
        due: bool = False,
    ) -> None:
        """``assigned`` and ``geometries`` are what a plan does.

        ``now``: pods on their way out are still there; ``due``: those that are yet to go are not, either.
        """
        self._land = land
        self._now = now
        self._due = land.due if due else frozenset[str]()
        self._given: defaultdict[str, list[Pod]] = defaultdict(list)
        for pod, node in assigned:
            self._given[node].append(pod)
        self._geometries = geometries or {}
        self._rooms: dict[str, Room] = {}
        self._held: dict[str, dict[str, list[tuple[int, int]]]] = {}
        self._grids = Grids()

    def shape(self, pod: Pod) -> object | None:
        """See :meth:`Land.shape`."""
        return self._land.shape(pod)

    def suiting(self, pod: Pod) -> Sequence[str]:
        """See :meth:`Land.suiting`."""
        return self._land.suiting(pod)

    def fits(self, pod: Pod, node: str, without: Sequence[Pod] = (), *, change: bool = True) -> bool:
        """Whether a pod fits on a node once some of its pods have gone; ``change``: its GPUs partitioned again."""
        room = self._room(node)
        with self._gone(node, room, without):
            return room.suits(pod) and room.option(pod, change=change) is not None

    def has_room(self, pod: Pod) -> bool:
        """Whether a pod fits on some node with nothing changed."""
        names_ = (name for name in self.suiting(pod) if _shows(self._land.nodes[name], pod))
        return any(self.fits(pod, name, change=False) for name in names_)

    def take(self, pod: Pod, node: str) -> None:
        """Give a pod its place on a node where it fits."""
        room = self._room(node)
        option = room.option(pod, change=True)
        room.take(pod, option[1] if option is not None else ())

    def give_back(self, pod: Pod, node: str) -> None:
        """Undo :meth:`take` for a pod without MIG devices."""
        self._room(node).give_back(pod, ())

    def release(self, pods: Iterable[Pod]) -> None:
        """Let some pods be gone for good."""
        for pod in pods:
            if pod.node:
                self._let_go(pod.node, self._room(pod.node), pod)

    def short(self, pod: Pod, node: str) -> Mapping[str, int]:
        """How much must come free of what a node has too little of, instances on its GPUs aside."""
        room = self._room(node)
        wants = {resources.PODS: 1, **pod.request}
        if room.gpus:
            wants = {name: value for name, value in wants.items() if not name.startswith(names.MIG_PREFIX)}
        has = {**room.free, **room.unmanaged}
        return {name: value - has.get(name, 0) for name, value in wants.items() if value > max(0, has.get(name, 0))}

    def devices(self, pod: Pod, node: str) -> tuple[Amounts, Sequence[Device]]:
        """How many instances of each profile a pod wants of a node's GPUs, and these."""
        room = self._room(node)
        if not (room.gpus and pod.mig_request):
            return (), ()
        needed = tuple(sorted(pod.mig_request))
        most = tuple(pod.mig_request[name] for name in needed)
        held: list[defaultdict[str, int]] = [defaultdict(int) for _ in room.gpus]
        for key, instances in self._held[node].items():
            for position, bit in instances:
                held[position][key] |= bit
        return most, [
            Device(gpu.grid, needed, most, gpu.kept, gpu.free, not gpu.gpu.problem, each)
            for gpu, each in zip(room.gpus, held, strict=True)
        ]

    def lacks(self, pod: Pod, node: str) -> Collection[str]:
        """Resources of which a node has too little for a pod; GPU memory stands for MIG devices of its GPUs."""
        room = self._room(node)
        plain = {name for name, value in pod.request.items() if value > room.free.get(name, value) and value > 0}
        if room.option(pod, change=True) is None:
            plain |= {names.GPU_MEMORY} if room.gpus else set(pod.mig_request)
        return plain

    def _room(self, name: str) -> Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = self._made(name)
        return room

    def _made(self, name: str) -> Room:
        node, pods = self._land.nodes[name], self._land.bound.get(name, ())
        leaving = set[str]()
        if not self._now:
            leaving |= {pod.key for pod in pods if pod.terminating or pod.key in self._due}
            leaving |= self._land.lingering.get(name, frozenset())
        agent = node.agent
        if agent is not None:
            gpus = tuple(
                replace(
                    gpu,
                    instances=tuple(
                        replace(i, state=InstanceState.FREE, holder=None, processes=())
                        if i.holder is not None and i.holder.key in leaving
                        else i
                        for i in gpu.instances
                    ),
                )
                for gpu in agent.gpus
            )
            wanted = self._geometries.get(name)
            ordered = {**(agent.ordered or {}), **wanted} if wanted else agent.ordered
            agent = replace(agent, gpus=gpus if leaving else agent.gpus, ordered=ordered)
        room = Room.of(replace(node, agent=agent), tuple(pod for pod in pods if pod.key not in leaving), self._grids)
        if room.gpus:
            room.fixed_reason = eligibility.fixed(node)
        for pod in self._given.get(name, ()):
            for resource, count in sorted(pod.mig_request.items()):
                room.keep(resource, count)
            room.take(pod, ())
        self._held[name] = self._instances(room)
        return room

    def _instances(self, room: Room) -> dict[str, list[tuple[int, int]]]:
        """By pod key, the instances that it holds: the GPU by position, and the instance as a set of its grid."""
        found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, gpu in enumerate(room.gpus):
            for instance in gpu.gpu.instances:
                if instance.state is InstanceState.USED and instance.holder is not None:
                    found[instance.holder.key].append((position, gpu.grid.bit(instance)))
        return dict(found)

    def _let_go(self, node: str, room: Room, pod: Pod) -> None:
        fit.give_back(room.free, pod)
        if not room.gpus:
            room.unmanaged.update(pod.mig_request)
        for position, bit in self._held[node].get(pod.key, ()):
            gpu = room.gpus[position]
            gpu.kept &= ~bit
            gpu.free |= bit

    @contextmanager
    def _gone(self, node: str, room: Room, pods: Sequence[Pod]) -> Iterator[None]:
        """A node without some pods, for a while."""
        touched = {position for pod in pods for position, _ in self._held[node].get(pod.key, ())}
        before = [(room.gpus[position], room.gpus[position].kept, room.gpus[position].free) for position in touched]
        here = [pod for pod in pods if pod.node == node]
        for pod in here:
            self._let_go(node, room, pod)
        try:
            yield
        finally:
            for gpu, kept, free in before:
                gpu.kept, gpu.free = kept, free
            for pod in here:
                fit.take(room.free, pod)
                if not room.gpus:
                    room.unmanaged.subtract(pod.mig_request)


def _shows(node: Node, pod: Pod) -> bool:
    """Whether a node may have what a pod asks for as it is: whether its GPUs have free instances of each profile."""
    if node.agent is None or not pod.mig_request:
        return True
    free = {i.profile for gpu in node.agent.gpus for i in gpu.instances if i.state is InstanceState.FREE}
    return pod.mig_request.keys() <= {names.mig_resource(profile) for profile in free}


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU that may give a pod instances.

    Attributes:
        grid: its model.
        needed: what the pod asks for.
        most: how many of each.
        kept: what stays, what pods hold included.
        free: what may be used or destroyed.
        change: whether it can be partitioned again.
        held: what each pod holds, by key.
    """

    grid: Grid
    needed: tuple[str, ...]
    most: Amounts
    kept: int
    free: int
    change: bool
    held: Mapping[str, int]

    def loads(self, gone: int) -> Sequence[Amounts]:
        """What it can give once some of what is held comes free: instances by profile, as many as the pod asks for."""
        return _loads(self.grid, self.needed, self.most, self.kept & ~gone, self.free | gone, change=self.change)

    def ways(self, held: Sequence[int]) -> Sequence[tuple[Sequence[int], Amounts]]:
        """What it can give if some go of those who hold so much: who, by position, and what; nobody goes in vain."""
        return _ways(self.grid, self.needed, self.most, self.kept, self.free, held=tuple(held), change=self.change)

    def fewest(self, keys: Iterable[str]) -> Sequence[int]:
        """By how many instances it is to give, how many of some pods must go from it at least."""
        held = sorted(self.held[key] for key in keys if key in self.held)
        if len(held) > _MOST_HOLDERS:
            most = max(map(sum, self.loads(reduce(or_, held))))
            return [0] * (max(map(sum, self.loads(0))) + 1) + [1] * most
        found: list[int] = []
        for gone, load in self.ways(held):
            found += [len(gone)] * (sum(load) + 1 - len(found))
        return found


@lru_cache(maxsize=20_000)
def _loads(
    grid: Grid, needed: tuple[str, ...], most: Amounts, kept: int, free: int, *, change: bool
) -> tuple[Amounts, ...]:
    maximal = table(grid, needed, kept, free, change=change).maximal
    found = {tuple(map(min, counts_of(load, len(needed)), most)) for load in maximal}
    return tuple(
        sorted(one for one in found if not any(other != one and all(map(int.__ge__, other, one)) for other in found))
    )


@lru_cache(maxsize=20_000)
def _ways(
    grid: Grid, needed: tuple[str, ...], most: Amounts, kept: int, free: int, *, held: tuple[int, ...], change: bool
) -> tuple[tuple[tuple[int, ...], Amounts], ...]:
    found: list[tuple[tuple[int, ...], Amounts]] = []
    for count in range(len(held) + 1):
        smaller = {load for _, load in found}
        for chosen in itertools.combinations(range(len(held)), count):
            gone = reduce(or_, [held[at] for at in chosen], 0)
            loads = _loads(grid, needed, most, kept & ~gone, free | gone, change=change)
            found += [
                (chosen, load) for load in loads if not any(all(map(int.__ge__, other, load)) for other in smaller)
            ]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class PodSites:
    """Where one pod may fit; ``only``: the nodes that are worth looking at, where that is known."""

    ground: Ground
    pod: Pod
    only: Set[str] | None = None

    def nodes(self) -> Sequence[str]:
        """Nodes that suit the pod, by name."""
        suiting = self.ground.suiting(self.pod)
        return suiting if self.only is None else [name for name in suiting if name in self.only]

    def fits(self, node: str, without: Sequence[Victim]) -> bool:
        """Whether the pod fits on a node once some of its pods have gone."""
        return self.ground.fits(self.pod, node, [victim.pod for victim in without])

    def short(self, node: str) -> Mapping[str, int]:
        """See :meth:`Ground.short`."""
        return self.ground.short(self.pod, node)

    def devices(self, node: str) -> tuple[Amounts, Sequence[Device]]:
        """See :meth:`Ground.devices`."""
        return self.ground.devices(self.pod, node)

    def lacks(self, node: str) -> Collection[str]:
        """See :meth:`Ground.lacks`."""
        return self.ground.lacks(self.pod, node)
