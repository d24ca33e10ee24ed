"""What each kind of GPU should give in a large cluster: a linear program over sites, then whole GPUs of its answer."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from brain.decide.cards import Card, Stacks, State
from brain.decide.deal import Deal
from brain.decide.fillings import LOAD_BITS
from brain.decide.kinds import Kind, smallest
from brain.decide.relaxation import Relaxation
from brain.decide.sites import Sites

_MOST_COLUMNS: Final = 3_000
"""Columns of pods up to which the program tells apart what they ask for besides MIG devices."""
_MOST_LEVELS: Final = 8
"""Priorities that the program tells apart; those below the last are one to it."""
_NEARLY: Final = 1e-6
"""What the solver may be off."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Pods that the program takes as one.

    Attributes:
        shape: their shape.
        kinds: their kinds, by position.
        pods: how many wait.
        asks: what each takes of a node, at least, of what some node may run out of; MIG devices aside.
    """

    shape: int
    kinds: tuple[int, ...]
    pods: int
    asks: Mapping[str, int]


class Mixture:
    """The program of what a deal has left.

    Attributes:
        quotas: after :meth:`solve`, how many pods of a kind a site should get at most, both by position.
    """

    def __init__(self, sites: Sites, stacks: Stacks, deal: Deal) -> None:
        self.quotas: dict[tuple[int, int], int] = {}
        self._sites = sites
        self._stacks = stacks
        self._relaxation = Relaxation()
        self._entries = _entries(sites, deal)
        self._left = deal.left.copy()
        self._placed: dict[tuple[int, int], int] = {}
        self._filled: list[tuple[int, list[State], int]] = []
        self._rows: list[dict[int, float]] = [{} for _ in self._entries]
        mean = list(_mean(self._entries).items())
        self._capacity: dict[int, float] = {}
        self._scarce: list[bool] = []
        for site in sites.sites:
            slots = 0
            for room in site.rooms:
                free = deal.free(room)
                self._capacity[id(room)] = min([free.get(name, 0) / value for name, value in mean], default=math.inf)
                slots = max(slots, room.slots)
            self._scarce.append(any(self._capacity[id(room)] < slots for room in site.rooms))
        for position in range(len(sites.sites)):
            self._add(position, deal)
        for entry, weights in zip(self._entries, self._rows, strict=True):
            self._relaxation.row(weights, upper=entry.pods)

    def bound(self) -> int:
        """More pods than this cannot be served, whatever their priorities."""
        if not self._placed:
            return 0
        most = self._relaxation.maximize(list(self._placed.values()))
        return math.floor(most + _NEARLY * max(1.0, most))

    def solve(self) -> dict[int, int]:
        """Find quotas, priorities first; by priority, more pods than this cannot be served of it.

        That holds where of each higher priority as many are served as it says. Priorities that the program does not
        tell apart are under the highest of them.
        """
        levels: defaultdict[int, list[int]] = defaultdict(list)
        for (entry, _), column in self._placed.items():
            levels[self._sites.priority(self._entries[entry].shape)].append(column)
        ranked = sorted(levels, reverse=True)
        found: dict[int, int] = {}
        for priority in ranked[:_MOST_LEVELS]:
            last = len(found) == _MOST_LEVELS - 1
            columns = [column for other in ranked if other <= priority for column in levels[other]]
            level = columns if last else levels[priority]
            most = self._relaxation.maximize(level)
            found[priority] = math.floor(most + _NEARLY * max(1.0, most))
            self._relaxation.hold(level, min(most, found[priority]))
        if self._relaxation.values:
            self._set_quotas()
        return found

    def limit(self) -> None:
        """Let whole GPUs of the solution give no more than it says; what is left over by rounding may give anything."""
        values = self._relaxation.values
        if not values:
            return
        piles: dict[int, _Pile] = {}
        made: dict[State, None] = {}
        for column, states, load in sorted(self._filled, key=lambda each: (-_instances(each[2]), each[0])):
            left = math.floor(values[column] + _NEARLY)
            if not left:
                continue
            if self._scarce[states[0].site]:
                if id(states) not in piles:
                    piles[id(states)] = _Pile(states, self._capacity)
                chosen = piles[id(states)].take(_instances(load) - _instances(states[0].load))
            else:
                chosen = self._gentlest(states, load)
            after: dict[State, State] = {}
            for card in islice(chosen, left):
                before = card.state
                if before not in after:
                    after[before] = self._stacks.state(before.site, before.table, before.free, load, before.load)
                self._stacks.push(card, after[before])
            made.update(dict.fromkeys(after.values()))
        for state in made:
            state.cards.reverse()

    def _gentlest(self, states: Sequence[State], load: int) -> Iterator[Card]:
        """GPUs for a filling, those first on which it disturbs least."""
        for state in sorted(states, key=lambda state: (self._cost(state, load), state.order)):
            while state.cards:
                card = state.cards.pop()
                if card.state is state:
                    yield card

    def _add(self, position: int, deal: Deal) -> None:
        """The columns and rows of one site."""
        site = self._sites.sites[position]
        columns: dict[int, int] = {}
        for number, entry in enumerate(self._entries):
            if entry.shape in site.shapes:
                columns[number] = self._relaxation.column(entry.pods)
                self._placed[number, position] = columns[number]
                self._rows[number][columns[number]] = 1.0
        supply: dict[str, dict[int, float]] = {name: {} for name in self._sites.units}
        groups: defaultdict[tuple[int, int], list[State]] = defaultdict(list)
        for state in self._stacks.by_site[position]:
            state.cards = [card for card in state.cards if card.state is state]
            if state.cards:
                groups[id(state.table), state.load].append(state)
        for states in groups.values():
            self._fill(states, supply)
        for name, given in supply.items():
            taken = {
                column: -float(count)
                for number, column in columns.items()
                if (count := self._sites.devices[self._entries[number].shape].get(name, 0))
            }
            if taken:
                self._relaxation.row({**given, **taken}, lower=0.0)
        asked: defaultdict[str, dict[int, float]] = defaultdict(dict)
        for number, column in columns.items():
            for name, value in self._entries[number].asks.items():
                asked[name][column] = value
        for name, weights in asked.items():
            unit = max(weights.values())
            there = sum(max(0, deal.free(room).get(name, 0)) for room in site.rooms)
            self._relaxation.row({column: value / unit for column, value in weights.items()}, upper=there / unit)

    def _fill(self, states: list[State], supply: Mapping[str, dict[int, float]]) -> None:
        """Columns that count the fillings of GPUs which the program does not tell apart."""
        count = sum(len(state.cards) for state in states)
        table, load = states[0].table, states[0].load
        used: dict[int, float] = {}
        for filling in table.maximal:
            if not self._stacks.part(load, filling) or filling == load:
                continue
            column = self._relaxation.column(count)
            used[column] = 1.0
            self._filled.append((column, states, filling))
            for position, weights in enumerate(supply.values()):
                more = (filling - load) >> LOAD_BITS * position & (1 << LOAD_BITS) - 1
                if more:
                    weights[column] = float(more)
        self._relaxation.row(used, upper=count)

    def _set_quotas(self) -> None:
        values = self._relaxation.values
        rest = list(self._left)
        for (number, site), column in self._placed.items():
            left = math.ceil(values[column] - _NEARLY)
            for kind in self._entries[number].kinds:
                part = min(left, rest[kind])
                if part:
                    self.quotas[kind, site] = part
                    rest[kind] -= part
                    left -= part

    def _cost(self, state: State, load: int) -> int:
        return self._stacks.cost(state.site, state.table, state.free, load)


class _Pile:
    """GPUs that the program does not tell apart where cpu or memory are scarce: from nodes that have most of it.

    What the nodes have left is common to all piles; it only ever gets less.
    """

    def __init__(self, states: Sequence[State], capacity: dict[int, float]) -> None:
        """Of states, and by node how many pods find cpu and memory there."""
        self._capacity = capacity
        self._cards: defaultdict[int, deque[tuple[int, Card]]] = defaultdict(deque)
        cards = [card for state in states for card in reversed(state.cards) if card.state is state]
        for turn, card in enumerate(cards):
            self._cards[id(card.room)].append((turn, card))

    def take(self, pods: int) -> Iterator[Card]:
        """One GPU after the other, each for so many pods."""
        queue = [(-self._capacity[room], cards[0][0], room) for room, cards in self._cards.items() if cards]
        heapq.heapify(queue)
        while queue:
            _, turn, room = queue[0]
            cards = self._cards[room]
            card = cards.popleft()[1]
            self._capacity[room] -= pods
            if cards:
                heapq.heapreplace(queue, (-self._capacity[room], turn, room))
            else:
                heapq.heappop(queue)
            yield card


def _entries(sites: Sites, deal: Deal) -> list[_Entry]:
    """The pods that are left, kind by kind; shape by shape where that would be too many columns."""
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for shape, kinds in enumerate(sites.shapes):
        for kind in kinds:
            if deal.left[kind]:
                asks = dict(sites.kinds[kind].asks)
                groups.setdefault((shape, tuple(asks.get(name, 0) for name in sites.scarce)), []).append(kind)
    if sum(len(sites.of_shape[shape]) for shape, _ in groups) > _MOST_COLUMNS:
        merged: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for (shape, _), group in groups.items():
            merged.setdefault((shape, ()), []).extend(group)
        groups = merged
    found = []
    for (shape, _), group in groups.items():
        asks = dict(Kind((), smallest([sites.kinds[kind] for kind in group])).asks)
        pods = sum(deal.left[kind] for kind in group)
        found.append(_Entry(shape, tuple(group), pods, {name: asks[name] for name in sites.scarce if asks.get(name)}))
    return found


def _mean(entries: list[_Entry]) -> dict[str, float]:
    """What a pod takes of each resource but MIG devices, on average."""
    pods = sum(entry.pods for entry in entries)
    taken: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        for name, value in entry.asks.items():
            taken[name] += entry.pods * value / pods
    return dict(taken)


def _instances(load: int) -> int:
    count = 0
    while load:
        count += load & (1 << LOAD_BITS) - 1
        load >>= LOAD_BITS
    return count
