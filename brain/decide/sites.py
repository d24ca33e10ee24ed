"""A large cluster as the planner sees it: sites, which are nodes that suit the same pods, and the GPUs on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from brain.decide.cards import Card, Stacks
from brain.decide.deal import Deal
from brain.decide.fillings import LOAD_BITS, Table, table
from brain.decide.kinds import Kind, Suits, shapes_of, smallest
from brain.decide.rooms import Room
from brain.model import resources
from brain.model.pod import Pod

FINENESS: Final = (8, 4, 16, 2, 32)
"""Parts in which the scarcity of a resource is counted, those first that mostly serve the most pods."""


@dataclass(frozen=True, slots=True)
class Site:
    """Nodes that suit the same pods and may be changed alike.

    Attributes:
        shapes: the shapes of pods, by position, that may run there.
        rooms: the nodes, those with the most cpu left first.
        change: whether their GPUs may be changed.
        tainted: whether they carry our taint already.
    """

    shapes: tuple[int, ...]
    rooms: tuple[Room, ...]
    change: bool
    tainted: bool


class Sites:
    """The sites of a cluster and the pods that wait.

    Attributes:
        kinds: the pods.
        shapes: kinds, by position, that differ only in what they ask for other than MIG devices.
        devices: what a pod of each shape asks for.
        of_shape: by shape, the sites, by position, that suit it.
        scarce: the most that a pod takes of each resource, MIG devices aside, that some node may run out of.
        sites: the sites.
        units: by resource that pods ask for, one instance of it as a load.
    """

    def __init__(self, rooms: Sequence[Room], kinds: Sequence[Kind], fineness: int) -> None:
        self.kinds = kinds
        self.shapes = shapes_of(kinds)
        samples = [smallest([kinds[position] for position in shape]) for shape in self.shapes]
        self.devices = [sample.mig_request for sample in samples]
        self.scarce = _scarce(rooms, kinds, fineness)
        self.sites = _sites(rooms, samples, kinds, self.scarce, fineness)
        self.of_shape = [
            tuple(position for position, site in enumerate(self.sites) if shape in site.shapes)
            for shape in range(len(samples))
        ]
        self._needed = tuple(sorted({name for devices in self.devices for name in devices}))
        self.units = {name: 1 << LOAD_BITS * position for position, name in enumerate(self._needed)}
        self._tables: dict[tuple[object, ...], Table] = {}

    @property
    def slots(self) -> int:
        """Slots of all GPUs that nothing has that must stay."""
        gpus = (gpu for site in self.sites for room in site.rooms for gpu in room.gpus)
        return sum(gpu.gpu.slots - gpu.grid.slots(gpu.kept).bit_count() for gpu in gpus)

    @property
    def demand(self) -> int:
        """Slots that all pods ask for."""
        return sum(
            self.size(shape) * sum(len(self.kinds[kind].pods) for kind in kinds)
            for shape, kinds in enumerate(self.shapes)
        )

    def size(self, shape: int) -> int:
        """Slots that a pod of a shape takes, on the nodes that suit it first."""
        if not self.of_shape[shape]:
            return 0
        sizes = self.sites[self.of_shape[shape][0]].rooms[0].sizes
        return sum(count * sizes.get(name, 0) for name, count in self.devices[shape].items())

    def several(self, shape: int) -> bool:
        """Whether a pod of a shape asks for more than one instance."""
        return sum(self.devices[shape].values()) > 1

    def priority(self, shape: int) -> int:
        """The priority of a shape's pods."""
        return self.kinds[self.shapes[shape][0]].sample.priority

    def deal(self) -> tuple[Deal, Stacks]:
        """A new deal, in which nobody is served yet, and its GPUs."""
        stacks = Stacks(
            [site.tainted for site in self.sites], sum(unit << LOAD_BITS - 1 for unit in self.units.values())
        )
        nodes: list[list[tuple[Room, list[Card]]]] = []
        for position, site in enumerate(self.sites):
            cards: list[tuple[Room, list[Card]]] = [(room, []) for room in site.rooms]
            # The first GPU of each node, then the second: so no node gets all the small instances.
            for index in range(max(len(room.gpus) for room in site.rooms)):
                for room, held in cards:
                    card = self._card(stacks, position, room, index) if index < len(room.gpus) else None
                    if card is not None:
                        held.append(card)
            for state in stacks.by_site[position]:
                state.cards.reverse()
            nodes.append(cards)
        return Deal(self.kinds, self.units, stacks, nodes), stacks

    def _card(self, stacks: Stacks, site: int, room: Room, index: int) -> Card | None:
        """A GPU on its stack; None where it can give nothing."""
        gpu = room.gpus[index]
        change = self.sites[site].change and not gpu.gpu.problem
        key = (gpu.grid, gpu.kept, 0 if change else gpu.free, change)
        found = self._tables.get(key)
        if found is None:
            found = self._tables[key] = table(gpu.grid, self._needed, gpu.kept, gpu.free, change=change)
        if found.maximal == (0,):
            return None
        state = stacks.state(site, found, gpu.free, None, 0)
        card = Card(room, index, state)
        state.cards.append(card)
        return card


def _sites(
    rooms: Sequence[Room], samples: Sequence[Pod], kinds: Sequence[Kind], scarce: Mapping[str, int], fineness: int
) -> list[Site]:
    least = _least(kinds)
    suits = Suits(samples)
    asked = [tuple(sample.mig_request) for sample in samples]
    found: defaultdict[tuple[tuple[int, ...], bool, bool, tuple[int, ...]], list[Room]] = defaultdict(list)
    known: dict[tuple[int, int], tuple[int, ...]] = {}
    for room in rooms:
        if any(room.free.get(name, 0) < value for name, value in least.items()):
            continue
        refusals = suits.refusals(room.node)
        seen = (id(refusals), id(room.sizes))
        shapes = known.get(seen)
        if shapes is None:
            shapes = known[seen] = tuple(
                shape
                for shape, devices in enumerate(asked)
                if not refusals[shape] and all(name in room.sizes for name in devices)
            )
        if shapes:
            found[shapes, not room.fixed_reason, room.node.repartitioning, _scarcity(room, scarce, fineness)].append(
                room
            )
    return [
        Site(shapes, tuple(sorted(members, key=lambda room: -room.free.get(resources.CPU, 0))), change, tainted)
        for (shapes, change, tainted, _), members in found.items()
    ]


def _scarce(rooms: Sequence[Room], kinds: Sequence[Kind], fineness: int) -> Mapping[str, int]:
    most = _most(kinds)
    levels = {_scarcity(room, most, fineness) for room in rooms}
    return {
        name: value
        for level, (name, value) in enumerate(most.items())
        if any(seen[level] < fineness for seen in levels)
    }


def _scarcity(room: Room, most: Mapping[str, int], fineness: int) -> tuple[int, ...]:
    """How much a node has of each resource, in parts of what its GPUs full of the most demanding pods take.

    Nodes of different scarcity are different sites: else a program over sites lends what one node has to another.
    """
    slots = sum(gpu.gpu.slots - gpu.grid.slots(gpu.kept).bit_count() for gpu in room.gpus)
    return tuple(
        min(fineness, fineness * room.free.get(name, 0) // max(1, value * slots)) for name, value in most.items()
    )


def _most(kinds: Sequence[Kind]) -> dict[str, int]:
    """The most that any pod takes of each resource but MIG devices, by name."""
    most: dict[str, int] = {}
    for kind in kinds:
        for name, value in kind.asks:
            most[name] = max(value, most.get(name, 0))
    return dict(sorted(most.items()))


def _least(kinds: Sequence[Kind]) -> dict[str, int]:
    """What every pod takes of a node at least, MIG devices aside: a node that has less takes none."""
    least = dict(kinds[0].asks) if kinds else {}
    for kind in kinds[1:]:
        asks = dict(kind.asks)
        least = {name: min(value, asks[name]) for name, value in least.items() if name in asks}
    return least
