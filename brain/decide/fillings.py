"""The ways to fill one GPU around what must stay: for each useful multiset of instances, the cheapest arrangement.

A few hundred sets of instances exist on a GPU (297 of the base profiles on an empty A100, 2318 of all): all are tried.
GPUs with equal contents have equal fillings, and there are few kinds of contents in a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from brain.decide import rooms
from brain.decide.rooms import GpuRoom
from brain.model.mig import Placement, Profile, exclusive

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
        changes: whether an instance must be made.
    """

    provides: tuple[int, ...]
    placements: frozenset[Placement]
    cost: int
    changes: bool


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
    by_name = {profile.name: profile for profile in contents.profiles}
    grid = rooms.grid(contents.profiles)
    taken = sum(_mask(by_name, placement) for placement in contents.kept)
    before = rooms.worth(grid, taken)
    free = {placement: _mask(by_name, placement) for placement in contents.free}
    places = {name: position for position, name in enumerate(needed)}
    best: dict[tuple[int, ...], Filling] = {}
    for chosen, used in _sets(contents, by_name, needed, taken):
        made = sum(placement not in free for placement in chosen)
        destroyed = sum(
            bool(mask & used) or any(exclusive([other.profile, new.profile]) for new in chosen)
            for other, mask in free.items()
            if other not in chosen
        )
        lost = before - rooms.worth(grid, used)
        cost = _DESTROYED * destroyed + _MADE * made + _WORTH * lost + _TOUCHED * bool(made)
        provides = [0] * len(needed)
        for placement in chosen:
            provides[places[by_name[placement.profile].resource]] += 1
        key = tuple(provides)
        rival = best.get(key)
        if rival is None or cost < rival.cost:
            best[key] = Filling(key, frozenset(chosen), cost, made > 0)
    useful: list[Filling] = []
    for filling in sorted(best.values(), key=lambda filling: (filling.cost, [-count for count in filling.provides])):
        if not any(all(map(int.__ge__, other.provides, filling.provides)) for other in useful):
            useful.append(filling)
    return tuple(useful)


def _sets(
    contents: _Contents, by_name: dict[str, Profile], needed: tuple[str, ...], taken: int
) -> Iterator[tuple[tuple[Placement, ...], int]]:
    """All sets of needed instances that the hardware allows beside what stays, with the slots taken then."""
    wanted = [profile for profile in contents.profiles if profile.resource in needed]
    every = sorted(Placement(start, profile.name) for profile in wanted for start in profile.starts)
    if not contents.change:
        every = [placement for placement in every if placement in contents.free]
    masks = [_mask(by_name, placement) for placement in every]
    kept = [placement.profile for placement in contents.kept]
    # Slots alone keep plain profiles within their count; media extensions have rules of their own.
    ruled = any(not _plain(name) for name in [*kept, *(profile.name for profile in wanted)])
    stack: list[tuple[int, int, tuple[Placement, ...]]] = [(0, taken, ())]
    while stack:
        first, used, chosen = stack.pop()
        if chosen:
            yield chosen, used
        for index in range(first, len(every)):
            if masks[index] & used:
                continue
            placement = every[index]
            if ruled and not _allowed(by_name[placement.profile], [*kept, *(other.profile for other in chosen)]):
                continue
            stack.append((index + 1, used | masks[index], (*chosen, placement)))


def _plain(name: str) -> bool:
    return "+" not in name and "-" not in name


def _allowed(profile: Profile, beside: list[str]) -> bool:
    return beside.count(profile.name) < profile.max_count and not exclusive([*beside, profile.name])


def _mask(by_name: dict[str, Profile], placement: Placement) -> int:
    profile = by_name.get(placement.profile)
    return 0 if profile is None else ((1 << profile.size) - 1) << placement.start
