"""The ways to fill one GPU around what must stay: for each useful multiset of instances, the cheapest arrangement.

A few hundred sets of instances exist on a GPU (297 of the base profiles on an empty A100, 2318 of all): all are tried.
GPUs with equal contents have equal fillings, and there are few kinds of contents in a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from brain.decide.rooms import GpuRoom
from brain.model.mig import Placement, Profile, exclusive, invalid

_DESTROYED: Final = 20_000
_MADE: Final = 400
_WORTH: Final = 2
_TOUCHED: Final = 1
"""Weights of a filling's cost, each larger than all that the next can add up to on one GPU: free instances destroyed,
then instances made, then the worth of what is left, then whether the GPU is touched at all."""


@dataclass(frozen=True, slots=True)
class Filling:
    """One way to fill a GPU.

    Attributes:
        provides: instances for waiting pods, by the needed resources in their order.
        placements: those instances, free ones that exist among them.
        cost: what it disturbs, see the weights; 0 for leaving the GPU to itself.
    """

    provides: tuple[int, ...]
    placements: frozenset[Placement]
    cost: int


def fillings(room: GpuRoom, needed: tuple[str, ...], *, change: bool) -> tuple[Filling, ...]:
    """The useful fillings of a GPU, the empty one left out; none is at least as good as another in every way.

    Args:
        room: the GPU.
        needed: the resources that waiting pods ask for.
        change: whether instances may be made and destroyed; else only free ones that exist are given.
    """
    if not any(profile.resource in needed for profile in room.gpu.profiles):
        return ()
    free = frozenset(room.free)
    contents = _Contents(room.gpu.profiles, frozenset(room.kept), free, change and not room.gpu.problem)
    return _fillings(contents, needed)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What decides how a GPU may be filled."""

    profiles: tuple[Profile, ...]
    kept: frozenset[Placement]
    free: frozenset[Placement]
    change: bool


@lru_cache(maxsize=20_000)
def _fillings(contents: _Contents, needed: tuple[str, ...]) -> tuple[Filling, ...]:
    known, kept, free = contents.profiles, contents.kept, contents.free
    by_name = {profile.name: profile for profile in known}
    grid = GpuRoom.grid(known)
    before = GpuRoom.worth_of(grid, _mask(by_name, kept))
    best: dict[tuple[int, ...], Filling] = {}
    for chosen in _sets(contents, by_name, needed):
        if not chosen:
            continue
        gone = _in_the_way(by_name, chosen, free)
        if invalid(by_name, kept | chosen | (free - gone)):
            continue
        made = len(chosen - free)
        lost = before - GpuRoom.worth_of(grid, _mask(by_name, kept | chosen))
        cost = _DESTROYED * len(gone) + _MADE * made + _WORTH * lost + _TOUCHED * bool(made)
        counts = [by_name[placement.profile].resource for placement in chosen]
        provides = tuple(counts.count(resource) for resource in needed)
        rival = best.get(provides)
        if rival is None or (cost, sorted(chosen)) < (rival.cost, sorted(rival.placements)):
            best[provides] = Filling(provides, chosen, cost)
    ranked = sorted(best.values(), key=lambda filling: (filling.cost, [-count for count in filling.provides]))
    useful: list[Filling] = []
    for filling in ranked:
        if not any(all(map(int.__ge__, other.provides, filling.provides)) for other in useful):
            useful.append(filling)
    return tuple(useful)


def _sets(contents: _Contents, by_name: dict[str, Profile], needed: tuple[str, ...]) -> Iterator[frozenset[Placement]]:
    """All sets of needed instances that the hardware allows beside what stays."""
    kept = contents.kept
    taken = _mask(by_name, kept)
    wanted = [profile for profile in contents.profiles if profile.resource in needed]
    every = sorted(Placement(start, profile.name) for profile in wanted for start in profile.starts)
    if not contents.change:
        every = [placement for placement in every if placement in contents.free]
    masks = {placement: _mask(by_name, (placement,)) for placement in every}
    stack: list[tuple[int, int, tuple[Placement, ...]]] = [(0, taken, ())]
    while stack:
        first, used, chosen = stack.pop()
        yield frozenset(chosen)
        for index in range(first, len(every)):
            placement = every[index]
            if masks[placement] & used:
                continue
            names = [other.profile for other in (*kept, *chosen)]
            limit = by_name[placement.profile].max_count
            if names.count(placement.profile) < limit and not exclusive([*names, placement.profile]):
                stack.append((index + 1, used | masks[placement], (*chosen, placement)))


def _in_the_way(
    by_name: dict[str, Profile], chosen: frozenset[Placement], free: frozenset[Placement]
) -> frozenset[Placement]:
    slots = _mask(by_name, chosen)
    return frozenset(
        other
        for other in free - chosen
        if _mask(by_name, (other,)) & slots or any(exclusive([other.profile, new.profile]) for new in chosen)
    )


def _mask(by_name: dict[str, Profile], placements: frozenset[Placement] | tuple[Placement, ...]) -> int:
    mask = 0
    for placement in placements:
        if placement.profile in by_name:
            mask |= ((1 << by_name[placement.profile].size) - 1) << placement.start
    return mask
