"""Room by exchange: two served pods that ask for the same devices change places, so that a third finds cpu or memory.

GPUs are not touched: what a node gives stays the same, only who gets it differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from brain.decide.deal import Deal
from brain.decide.rooms import Room

_MOST_LOOKS: Final = 12
"""Partners looked at for one pod and one kind that might change places with it."""


class Swaps:
    """Exchanges within one deal.

    Kinds of the same shape ask for the same devices and suit the same nodes, so any two of their pods may change places
    where both nodes have what else they ask for.
    """

    def __init__(self, deal: Deal, asks: Sequence[Mapping[str, int]], shapes: Sequence[Sequence[int]]) -> None:
        """Of a deal, what each kind takes of a node besides devices, and the kinds of each shape."""
        self._deal = deal
        self._asks = asks
        self._alike = {kind: tuple(other for other in kinds if other != kind) for kinds in shapes for kind in kinds}
        self._here: defaultdict[int, list[int]] = defaultdict(list)
        self._of_kind: defaultdict[int, list[int]] = defaultdict(list)
        for number, (kind, room) in enumerate(deal.served_at):
            self._here[id(room)].append(number)
            self._of_kind[kind].append(number)
        name = _scarcest(asks)
        lacking = [-deal.free(room).get(name, 0) for _, room in deal.served_at]
        for numbers in self._of_kind.values():
            numbers.sort(key=lacking.__getitem__)

    def make_room(self, kind: int, room: Room) -> bool:
        """Exchange pods of a node for less demanding ones until a pod of a kind fits; whether it does."""
        lacking = self._lacking(kind, room)
        if not lacking:
            return True
        name = max(lacking, key=lambda name: (lacking[name], name))
        here = self._here.get(id(room), [])
        for number in sorted(here, key=lambda number: -self._asks[self._deal.served_at[number][0]].get(name, 0)):
            if self._exchange(number, room, name):
                lacking = self._lacking(kind, room)
                if not lacking:
                    return True
                name = max(lacking, key=lambda name: (lacking[name], name))
        return False

    def _lacking(self, kind: int, room: Room) -> dict[str, int]:
        free = self._deal.free(room)
        return {
            name: value - free.get(name, 0) for name, value in self._asks[kind].items() if free.get(name, 0) < value
        }

    def _exchange(self, number: int, room: Room, name: str) -> bool:
        """Exchange one pod of a node for one that takes less of a resource, the least first; whether that was done."""
        kind = self._deal.served_at[number][0]
        mine = self._asks[kind]
        smaller = [other for other in self._alike[kind] if self._asks[other].get(name, 0) < mine.get(name, 0)]
        for other in sorted(smaller, key=lambda other: (self._asks[other].get(name, 0), other)):
            for partner in self._of_kind.get(other, ())[:_MOST_LOOKS]:
                there = self._deal.served_at[partner][1]
                if there is not room and self._deal.exchange(number, partner):
                    self._here[id(room)].remove(number)
                    self._here[id(room)].append(partner)
                    self._here[id(there)].remove(partner)
                    self._here[id(there)].append(number)
                    # What is left there is less now: others come first from here on.
                    self._of_kind[other].remove(partner)
                    self._of_kind[other].append(partner)
                    return True
        return False


def _scarcest(asks: Sequence[Mapping[str, int]]) -> str:
    """The resource in which kinds differ most, by how many values it has."""
    values: dict[str, set[int]] = {}
    for ask in asks:
        for name, value in ask.items():
            values.setdefault(name, set()).add(value)
    return max(sorted(values), key=lambda name: len(values[name]), default="")
