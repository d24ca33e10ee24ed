"""Few pods need few nodes: which nodes of a large cluster a plan for a few pods need look at.

Kinds of pods for which nodes abound get nodes of their own, one a pod, the cheapest that can serve one: all of them
find room there, whatever becomes of the others. The other kinds are left, each with all nodes that can serve a pod of
it. So both can be planned apart, and no plan over the whole cluster serves more. What each node offers is kept for the
next plan, sorted by cost; no result depends on which plan came before.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from brain.decide import fit
from brain.decide.cards import FRESH_COST
from brain.decide.fillings import MADE, cost_of
from brain.decide.grid import Grid
from brain.decide.kinds import Kind
from brain.decide.rooms import Room, Shown, single
from brain.model.pod import Pod

_LOOKS: Final = 4
"""How often a node is looked at, on average, before the whole cluster is planned as one."""
Offers = Mapping[str, tuple[int, int]]
"""By resource, what the cheapest instance that a node can give costs, and how many it can give if nothing else."""


@dataclass(frozen=True, slots=True)
class Part:
    """Pods with the only nodes that matter to them.

    Attributes:
        rooms: the nodes, by name.
        kinds: the pods.
    """

    rooms: Sequence[Room]
    kinds: Sequence[Kind]


def parts(rooms: Sequence[Room], kinds: Sequence[Kind]) -> tuple[Part, Part] | None:
    """The pods that all find room, and those that may not; who has room nowhere is in neither.

    None where that is not found by looking at a few nodes.
    """
    return _Near(rooms).parts(kinds)


def standing(rooms: Sequence[Room], kinds: Sequence[Kind]) -> Sequence[Room]:
    """Nodes that can serve some pod as things are: of each kind all, or as many as there are pods; no more matter.

    None at all where some kind has none.
    """
    return _Near(rooms).standing(kinds)


def prepare(rooms: Sequence[Room]) -> None:
    """Look at all nodes while nobody waits, so that the first pod that does need not wait for that."""
    _Near(rooms)


class _Near:
    """The nodes of one plan, by what they offer."""

    def __init__(self, rooms: Sequence[Room]) -> None:
        self._rooms = {room.node.name: room for room in rooms}
        self._index = _Last.index
        self._index.show(self._rooms)
        self._looks = _LOOKS * len(rooms)

    def parts(self, kinds: Sequence[Kind]) -> tuple[Part, Part] | None:
        """See :func:`parts`."""
        sure = sorted(kinds, key=lambda kind: (self._abundance(kind.sample), -sum(kind.sample.mig_request.values())))
        scarce: list[Kind] = []
        contested: set[str] = set()
        while True:
            own: set[str] = set()
            left = []
            for kind in sure:
                found, able = self._own(kind, own | contested)
                if self._looks < 0:
                    return None
                if len(found) == len(kind.pods):
                    own.update(found)
                    left.append(kind)
                elif able:
                    scarce.append(kind)
                    contested.update(able)
            sure = left
            if own.isdisjoint(contested):
                return self._part(own, sure), self._part(contested, scarce)

    def standing(self, kinds: Sequence[Kind]) -> Sequence[Room]:
        """See the function of that name."""
        most = sum(len(kind.pods) for kind in kinds)
        found: set[str] = set()
        for kind in kinds:
            able = list(islice(self._standing(kind), most))
            if not able:
                return []
            found.update(able)
        return self._part(found, kinds).rooms

    def _standing(self, kind: Kind) -> Iterator[str]:
        """Nodes that can serve a pod of a kind as things are."""
        devices, asks = Counter(kind.sample.mig_request), kind.asks
        rarest = min(devices, key=lambda name: (len(self._index.by_resource.get(name, ())), name))
        for cost, name in self._index.by_resource.get(rarest, ()):
            if cost >= MADE:
                return
            if devices <= self._rooms[name].standing and self._takes(name, kind.sample, asks):
                yield name

    def _own(self, kind: Kind, taken: Set[str]) -> tuple[list[str], list[str]]:
        """Nodes for the pods of a kind that nobody has taken, and all that were found to be able to serve one."""
        found: list[str] = []
        able: list[str] = []
        asks = kind.asks
        for name in self._candidates(kind.sample):
            self._looks -= 1
            if self._looks < 0:
                break
            if self._serves(name, kind.sample, asks):
                able.append(name)
                if name not in taken:
                    found.append(name)
                    if len(found) == len(kind.pods):
                        break
        return found, able

    def _abundance(self, pod: Pod) -> int:
        """How many nodes have GPUs that offer the rarest of what a pod asks for."""
        return min(len(self._index.by_resource.get(name, ())) for name in pod.mig_request)

    def _candidates(self, pod: Pod) -> Iterator[str]:
        """Nodes whose GPUs offer a pod enough of each resource, the cheapest first."""
        index, devices = self._index, pod.mig_request
        rarest = min(devices, key=lambda name: (len(index.by_resource.get(name, ())), name))
        wanted = [(name, count) for name, count in devices.items() if name != rarest or count > 1]
        for _, name in index.by_resource.get(rarest, ()):
            if not wanted or all(index.offers[name].get(resource, (0, 0))[1] >= count for resource, count in wanted):
                yield name

    def _serves(self, name: str, pod: Pod, asks: Sequence[tuple[str, int]]) -> bool:
        """Whether a node whose GPUs offer enough of each resource can serve a pod that asks for so much besides."""
        room = self._rooms[name]
        if not self._takes(name, pod, asks):
            return False
        return len(pod.mig_request) == 1 or room.option(pod, change=not room.fixed_reason) is not None

    def _takes(self, name: str, pod: Pod, asks: Sequence[tuple[str, int]]) -> bool:
        """Whether a node takes a pod that asks for so much besides MIG devices, whatever its GPUs offer."""
        room = self._rooms[name]
        for resource, value in asks:
            if room.free.get(resource, 0) < value:
                return False
        return not fit.unsuitable(pod, room.node) and not (pod.host_ports and room.refusal(pod))

    def _part(self, names: Set[str], kinds: Sequence[Kind]) -> Part:
        return Part([self._rooms[name] for name in sorted(names)], kinds)


class _Index:
    """What the nodes of one plan offer.

    Attributes:
        offers: by node.
        by_resource: by resource, cost and name of the nodes that offer it, sorted.
    """

    def __init__(self) -> None:
        self._shown: dict[str, Shown | None] = {}
        self.offers: dict[str, Offers] = {}
        self.by_resource: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)

    def show(self, rooms: Mapping[str, Room]) -> None:
        """Hold some nodes, and no others; those that are as they were are not looked at again."""
        last, self._shown = self._shown, {name: room.untouched for name, room in rooms.items()}
        for name in last.keys() - self._shown.keys():
            self._drop(name)
        for name, shown in self._shown.items():
            if shown is None or last.get(name) is not shown:
                self._drop(name)
                offers = self.offers[name] = _offers(rooms[name])
                for resource, (cost, _) in offers.items():
                    insort(self.by_resource[resource], (cost, name))

    def _drop(self, name: str) -> None:
        for resource, (cost, _) in self.offers.pop(name, {}).items():
            entries = self.by_resource[resource]
            del entries[bisect_left(entries, (cost, name))]


class _Last:
    """The index of the last plan; one plan's at a time, so that no more is kept than one snapshot shows."""

    index = _Index()


def _offers(room: Room) -> Offers:
    """What a node offers."""
    found: dict[str, tuple[int, int]] = {}
    fresh = 0 if room.node.repartitioning else FRESH_COST
    for content in room.contents.values():
        change = not (room.fixed_reason or content.problem)
        for resource, made, cost, count in _offered(content.grid, content.kept, content.free, change=change):
            least, before = found.get(resource, (cost + fresh, 0))
            found[resource] = min(least, cost + fresh if made else cost), before + count
    return found


@lru_cache(maxsize=20_000)
def _offered(grid: Grid, kept: int, free: int, *, change: bool) -> tuple[tuple[str, bool, int, int], ...]:
    """By resource that a GPU can give: whether the cheapest instance must be made, its cost, how many there can be."""
    found = []
    worth = grid.worth(kept)
    for resource in sorted(grid.gives(kept, free, change=change)):
        places = grid.by_resource[resource] & (~grid.blocked(kept) & ~kept if change else free)
        made, cost = False, -1
        chosen = 0
        for one in single(places):
            spent = cost_of(grid, kept, free, one, worth - grid.worth(kept | one))
            if cost < 0 or spent < cost:
                made, cost = not one & free, spent
            # Of instances of one size, taking the first that fits leaves room for the most.
            if not one & (grid.blocked(chosen) | grid.full(kept | chosen)):
                chosen |= one
        found.append((resource, made, cost, chosen.bit_count()))
    return tuple(found)
