"""The ways to fill one GPU around what must stay: for each multiset of instances, the cheapest arrangement.

A few hundred sets of instances exist on a GPU (297 of the base profiles on an empty A100, 2318 of all): all are tried,
once for all GPUs with the same things to stay. A multiset is one number, its load: each resource has some bits of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from brain.decide.grid import Grid

LOAD_BITS: Final = 8
"""Bits of a load for each resource: a GPU never holds 128 instances, and the highest bit is left for comparing."""
DESTROYED: Final = 20_000
"""Weights of a filling's cost, each larger than all that the next can add up to on one GPU: free instances destroyed,
then instances made, then the worth of what is left, then whether the GPU is touched at all."""
MADE: Final = 600
_WORTH: Final = 2
_TOUCHED: Final = 1
_MOST_SETS: Final = 50_000
"""Sets tried for one GPU. No known model comes near; on one that an agent alone describes, what is left out is small
instances beside many other small ones."""


@dataclass(frozen=True, slots=True)
class Filling:
    """One way to fill a GPU.

    Attributes:
        provides: instances for waiting pods, by the needed resources in their order.
        chosen: those instances, free ones that exist among them.
        cost: what it disturbs, see the weights; 0 for leaving the GPU to itself.
        changes: whether an instance must be made.
    """

    provides: tuple[int, ...]
    chosen: int
    cost: int
    changes: bool


class Table:
    """All fillings of GPUs of one model that have the same things to stay.

    Attributes:
        grid: their model.
        kept: what stays.
        maximal: the loads that are no part of another.
    """

    def __init__(self, grid: Grid, needed: Sequence[str], kept: int, allowed: int) -> None:
        self.grid = grid
        self.kept = kept
        self._sets = _sets(grid, needed, kept, allowed)
        self._costs: dict[tuple[int, int], tuple[int, int]] = {}
        self._lost: dict[int, int] = {}
        self._worth = grid.worth(kept)
        units = [1 << LOAD_BITS * position for position in range(len(needed))]
        self.maximal = tuple(
            load for load in sorted(self._sets) if not any(load + unit in self._sets for unit in units)
        )

    def __contains__(self, load: int) -> bool:
        """Whether a GPU can hold a load."""
        return load in self._sets

    def best(self, free: int, load: int) -> tuple[int, int]:
        """What a load costs at least where some instances are free, and the set to choose for it.

        Raises:
            KeyError: the GPU cannot hold the load.
        """
        found = self._costs.get((free, load))
        if found is None:
            found = min((self._cost(free, chosen), chosen) for chosen in self._sets[load])
            self._costs[free, load] = found
        return found

    def useful(self, free: int, needed: int) -> tuple[Filling, ...]:
        """The fillings, the empty one left out; none is at least as good as another in every way."""
        found = [(*self.best(free, load), counts_of(load, needed)) for load in self._sets if load]
        useful: list[Filling] = []
        for cost, chosen, counts in sorted(found, key=lambda each: (each[0], [-count for count in each[2]])):
            if not any(all(map(int.__ge__, other.provides, counts)) for other in useful):
                useful.append(Filling(counts, chosen, cost, bool(chosen & ~free)))
        return tuple(useful)

    def _cost(self, free: int, chosen: int) -> int:
        lost = self._lost.get(chosen)
        if lost is None:
            lost = self._lost[chosen] = self._worth - self.grid.worth(self.kept | chosen)
        return cost_of(self.grid, self.kept, free, chosen, lost)


def cost_of(grid: Grid, kept: int, free: int, chosen: int, lost: int) -> int:
    """What a chosen set disturbs on a GPU where some instances stay and some are free; ``lost`` of its worth goes."""
    made = (chosen & ~free).bit_count()
    cost = _WORTH * lost
    if made:
        gone = grid.gone(kept, free, chosen)
        cost += DESTROYED * gone.bit_count() + MADE * made + _TOUCHED
    return cost


def counts_of(load: int, needed: int) -> tuple[int, ...]:
    """By position, how many instances of each of so many resources a load has."""
    mask = (1 << LOAD_BITS) - 1
    return tuple(load >> LOAD_BITS * position & mask for position in range(needed))


def table(grid: Grid, needed: tuple[str, ...], kept: int, free: int, *, change: bool) -> Table:
    """The fillings of a GPU.

    Args:
        grid: its model.
        needed: the resources that waiting pods ask for; what the model does not have counts for nothing.
        kept: what stays.
        free: instances that exist and may be given or destroyed.
        change: whether instances may be made and destroyed; else only free ones that exist are given.
    """
    allowed = 0
    for resource in needed:
        allowed |= grid.by_resource.get(resource, 0)
    allowed &= ~grid.blocked(kept) & ~kept if change else free & ~kept
    return _table(grid, needed, kept, allowed)


@lru_cache(maxsize=5_000)
def _table(grid: Grid, needed: tuple[str, ...], kept: int, allowed: int) -> Table:
    return Table(grid, needed, kept, allowed)


def _sets(grid: Grid, needed: Sequence[str], kept: int, allowed: int) -> dict[int, list[int]]:
    """By load, all sets of allowed placements that the hardware takes beside what stays."""
    units: list[tuple[int, int, int]] = []
    for bit in range(len(grid.places)):
        if allowed >> bit & 1:
            resource = grid.profiles[grid.places[bit].profile].resource
            units.append((1 << bit, 1 << LOAD_BITS * needed.index(resource), grid.conflicts[bit]))
    units.reverse()  # the last are tried first, so that large instances, which start early, are not left out
    found: dict[int, list[int]] = {0: [0]}
    left = _MOST_SETS
    stack = [(0, 0, 0, 0)]
    while stack and left > 0:
        first, chosen, load, blocked = stack.pop()
        full = grid.full(kept | chosen)
        for index in range(first, len(units)):
            bit, unit, against = units[index]
            if not bit & (blocked | full):
                left -= 1
                found.setdefault(load + unit, []).append(chosen | bit)
                stack.append((index + 1, chosen | bit, load + unit, blocked | against))
    return found
