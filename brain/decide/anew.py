"""Room by dealing anew: an integer program says who gets what is free on some nodes, where nothing is to be made.

As things are a node gives so many instances of each resource, wherever they lie. So the program knows no GPUs, and
finds what a deal pod by pod misses: which of the pods that ask for several instances go together. Nodes on which cpu or
memory might run out before the instances do are left as they were dealt: with them a program takes many seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import chain
from typing import Final

from brain.decide import batch
from brain.decide.deal import Deal
from brain.decide.kinds import Kind, alike
from brain.decide.rooms import Room
from brain.decide.sites import Sites

_MOST_PROGRAMS: Final = 4
"""Times that some nodes are dealt anew; the nodes differ as far as there are more."""
_COLUMNS: Final = 1_500
"""Columns of one program."""


def serve_left(sites: Sites, deal: Deal) -> None:
    """Serve the pods that a deal, which makes nothing, has left: where that can be found, all of them."""
    nodes = _Nodes(sites)
    tried: set[int] = set()
    for _ in range(_MOST_PROGRAMS):
        rooms = nodes.chosen(deal, tried) if any(deal.left) else []
        if all(id(room) in tried for room in rooms):
            break
        tried.update(map(id, rooms))
        nodes.deal_anew(deal, rooms)


@dataclass(frozen=True, slots=True)
class _Node:
    """A node with what is free there as things are.

    Attributes:
        room: the node.
        site: its site, by position.
        there: how many free instances of each resource it has.
        groups: the groups of pods, by position, of which one at least finds room there if nobody else does.
    """

    room: Room
    site: int
    there: Counter[str]
    groups: tuple[int, ...]


class _Nodes:
    """The nodes that may be dealt anew, and the pods in groups: those of one differ in priority only."""

    def __init__(self, sites: Sites) -> None:
        self._kinds = sites.kinds
        shape_of = {kind: shape for shape, kinds in enumerate(sites.shapes) for kind in kinds}
        groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        for kind in sorted(shape_of):
            _, *rest = alike(self._kinds[kind].sample)
            groups[tuple(rest)].append(kind)
        self._groups = list(groups.values())
        self._nodes: dict[int, _Node] = {}
        wanted = [Counter(self._kinds[group[0]].sample.mig_request) for group in self._groups]
        for position, site in enumerate(sites.sites):
            suited = [number for number, group in enumerate(self._groups) if shape_of[group[0]] in site.shapes]
            for room in site.rooms:
                there = room.standing
                able = tuple(number for number in suited if wanted[number] <= there)
                asks = [ask for number in able for ask in self._kinds[self._groups[number][0]].asks]
                most = there.total()
                if able and all(room.free.get(name, 0) >= most * value for name, value in asks):
                    self._nodes[id(room)] = _Node(room, position, there, able)

    def chosen(self, deal: Deal, tried: Set[int]) -> list[Room]:
        """Nodes to deal anew: those first that have something left of what is wanted, then those not yet tried."""
        left = {number for number, group in enumerate(self._groups) if any(deal.left[kind] for kind in group)}
        names = {name for number in left for name in self._kinds[self._groups[number][0]].sample.mig_request}
        spare = {key: node.there.copy() for key, node in self._nodes.items()}
        for kind, room in deal.served_at:
            if id(room) in spare:
                spare[id(room)].subtract(self._kinds[kind].sample.mig_request)
        ranked = sorted(
            self._nodes,
            key=lambda key: (
                not any(spare[key][name] for name in names),
                key in tried,
                left.isdisjoint(self._nodes[key].groups),
            ),
        )
        found: list[Room] = []
        columns = 0
        for key in ranked:
            node = self._nodes[key]
            columns += len(node.groups)
            if columns > _COLUMNS:
                break
            found.append(node.room)
        return found

    def deal_anew(self, deal: Deal, rooms: Sequence[Room]) -> None:
        """Serve as many pods as can be on some nodes, whoever was served there."""
        deal.take_back(rooms)
        waiting = [[kind for kind in group if deal.left[kind]] for group in self._groups]
        groups = [group for group in waiting if group]
        kinds = [
            Kind(
                tuple(chain.from_iterable(self._kinds[kind].pods[: deal.left[kind]] for kind in group)),
                self._kinds[group[0]].sample,
            )
            for group in groups
        ]
        for number, room in batch.unchanged(rooms, kinds):
            kind = next(kind for kind in groups[number] if deal.left[kind])
            deal.place(kind, self._nodes[id(room)].site, room)
