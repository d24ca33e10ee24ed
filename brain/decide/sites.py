"""A large cluster as the planner sees it: sites, which are nodes that suit the same pods, and the GPUs on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

from brain.decide.cards import Card, Stacks, State
from brain.decide.deal import Deal
from brain.decide.fillings import LOAD_BITS, Table, table
from brain.decide.kinds import Kind, Suits, shapes_of, smallest
from brain.decide.rooms import Content, Room
from brain.model import resources
from brain.model.pod import Pod

FINENESS: Final = (1, 2, 4, 8, 16)
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

    def __init__(self, rooms: Sequence[Room], kinds: Sequence[Kind], fineness: int, *, change: bool = True) -> None:
        """``change``: whether GPUs may be changed at all."""
        self.kinds = kinds
        self.shapes = shapes_of(kinds)
        samples = [smallest([kinds[position] for position in shape]) for shape in self.shapes]
        self.devices = [sample.mig_request for sample in samples]
        most = _most(kinds)
        levels = [_scarcity(room, most, fineness) for room in rooms]
        short = [any(seen[level] < fineness for seen in set(levels)) for level in range(len(most))]
        self.scarce = {name: value for (name, value), scarce in zip(most.items(), short, strict=True) if scarce}
        scarcities = [tuple(compress(level, short)) for level in levels]
        self.sites = _sites(rooms, samples, _least(kinds), scarcities, change=change)
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
        return sum(room.open_slots for site in self.sites for room in site.rooms)

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
        nodes = [_cards(site, self._states(stacks, position)) for position, site in enumerate(self.sites)]
        return Deal(self.kinds, self.units, stacks, nodes), stacks

    def _states(self, stacks: Stacks, position: int) -> _States:
        """The stacks of a site's GPUs by their contents; None for those that can give nothing."""

        def find(content: Content) -> State | None:
            change = self.sites[position].change and not content.problem
            key = (content.grid, content.kept, 0 if change else content.free, change)
            found = self._tables.get(key)
            if found is None:
                found = table(content.grid, self._needed, content.kept, content.free, change=change)
                self._tables[key] = found
            return None if found.maximal == (0,) else stacks.state(position, found, content.free, None, 0)

        return _States(find)


class _States(dict[Content, "State | None"]):
    """States by contents, found when first asked for."""

    def __init__(self, find: Callable[[Content], State | None]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, content: Content) -> State | None:
        state = self[content] = self._find(content)
        return state


def _cards(site: Site, states: _States) -> list[tuple[Room, list[Card]]]:
    """A site's nodes with their GPUs, these on their stacks."""
    cards: list[tuple[Room, list[Card]]] = [(room, []) for room in site.rooms]
    columns: defaultdict[int, list[tuple[Room, list[Card], Content]]] = defaultdict(list)
    for room, held in cards:
        for index, content in room.contents.items():
            columns[index].append((room, held, content))
    # From a stack's top: the first GPU of each node, then the second, so that no node gets all the small instances.
    for index, column in sorted(columns.items()):
        for room, held, content in column:
            state = states[content]
            if state is not None:
                card = Card(room, index, state)
                held.append(card)
                state.cards.append(card)
    for state in dict.fromkeys(states.values()):
        if state is not None:
            state.cards.reverse()
    return cards


def _sites(
    rooms: Sequence[Room],
    samples: Sequence[Pod],
    least: Mapping[str, int],
    scarcities: Sequence[tuple[int, ...]],
    *,
    change: bool,
) -> list[Site]:
    """Sites of nodes that have at least what every pod takes; nodes of different scarcity stand apart."""
    demands = tuple(least.items())
    suits = Suits(samples)
    asked = [tuple(sample.mig_request) for sample in samples]
    found: defaultdict[tuple[tuple[int, ...], bool, bool, tuple[int, ...]], list[Room]] = defaultdict(list)
    known: dict[tuple[int, int], tuple[int, ...]] = {}
    for room, scarcity in zip(rooms, scarcities, strict=True):
        free = room.free
        if any(free.get(name, 0) < value for name, value in demands):
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
            found[shapes, change and not room.fixed_reason, room.node.repartitioning, scarcity].append(room)
    return [
        Site(shapes, tuple(sorted(members, key=lambda room: -room.free.get(resources.CPU, 0))), changes, tainted)
        for (shapes, changes, tainted, _), members in found.items()
    ]


def _scarcity(room: Room, most: Mapping[str, int], fineness: int) -> tuple[int, ...]:
    """How much a node has of each resource, in parts of what its GPUs full of the most demanding pods take.

    Nodes of different scarcity are different sites: else a program over sites lends what one node has to another.
    """
    slots, free = room.open_slots, room.free
    return tuple([min(fineness, fineness * free.get(name, 0) // max(1, value * slots)) for name, value in most.items()])


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
