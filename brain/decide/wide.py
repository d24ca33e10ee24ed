"""Plans for large clusters: pods are dealt to nodes kind by kind, where it is crowded by a linear program's quotas.

Where there is room for all, pods are dealt at once, each where it disturbs least. Where there is not, the program,
which knows no single nodes, says how many pods of each kind can be served, priorities first, and which fillings that
takes. Pods with several instances are dealt first, then the program is asked again for the rest, and once more after a
priority of which fewer were served than it said: those then take whatever is there before the next has its turn. What
the nodes refuse is dealt to whatever is left. So a plan is close to the program's bound, not always at it.

A deal that makes something is given up for one that makes nothing and serves as many, where one is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, overload

from brain.decide.anew import serve_left
from brain.decide.deal import ANYTHING, GENTLE, Deal, Given
from brain.decide.fillings import MADE
from brain.decide.kinds import Kind, asked_of
from brain.decide.mixture import Mixture
from brain.decide.near import Part, parts, standing
from brain.decide.rooms import Room
from brain.decide.sites import FINENESS, Sites
from brain.decide.swaps import Swaps

_SPARSE: Final = 0.6
"""Share of the free slots up to which pods are dealt without a program first: then there mostly is room for all."""
_MOST_TRIED: Final = 2_400
"""GPUs, times finenesses of sites tried for them."""
FEW: Final = 4
"""So many nodes a pod make pods few: then only some of the nodes are looked at."""
_MOST_EXCHANGES: Final = 5_000
"""Nodes on which room is sought by exchanging pods, in one plan."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan for a large cluster gives.

    Attributes:
        given: the pods that are served; to be gone through once and to the end, for that fills the rooms' GPUs.
        bound: more pods than this cannot be served without fewer of a higher priority.
    """

    given: Iterator[Given]
    bound: int


@overload
def spread(rooms: Sequence[Room], kinds: Sequence[Kind]) -> Outcome: ...
@overload
def spread(rooms: Sequence[Room], kinds: Sequence[Kind], *, least: float) -> Outcome | None: ...
def spread(rooms: Sequence[Room], kinds: Sequence[Kind], *, least: float = 0.0) -> Outcome | None:
    """Serve pods of some kinds; what they need is put into the rooms' GPUs as the outcome is gone through.

    None, and nothing is changed, where that is less than a share of its bound.
    """
    bare: list[Room] = []
    ours: list[Room] = []
    for room in rooms:
        (ours if room.gpus else bare).append(room)
    beside: list[Given] = []
    left = []
    for kind in kinds:
        given = list(_as_it_is(kind, bare)) if bare else []
        beside += given
        if len(given) < len(kind.pods):
            left.append(Kind(kind.pods[len(given) :], kind.sample))
    few = parts(ours, left) if sum(len(kind.pods) for kind in left) * FEW <= len(ours) else None
    if few is None:
        matching = _matching(ours, left)
        deal, bound = _best(*matching)
        deal = _gentler(*matching, deal)
        if deal.served < least * bound:
            for one in beside:
                one.room.give_back(one.pod, ())
            deal.clear()
            return None
        return Outcome(chain(beside, deal.settle()), len(beside) + bound)
    sure, scarce = few
    served = _everybody(sure)
    deal, bound = _best(scarce.rooms, scarce.kinds)
    if served.makes or deal.makes:
        kinds = [*sure.kinds, *_served_of(scarce.kinds, deal)]
        gentle = _unchanged(standing(ours, kinds), kinds)
        if gentle is not None:
            return Outcome(chain(beside, gentle.settle()), len(beside) + served.served + bound)
    return Outcome(chain(beside, served.settle(), deal.settle()), len(beside) + served.served + bound)


def _everybody(part: Part) -> Deal:
    """Serve pods that all find room."""
    return _at_once(Sites(part.rooms, part.kinds, FINENESS[0])) or _best(part.rooms, part.kinds)[0]


def bound_of(rooms: Sequence[Room], kinds: Sequence[Kind]) -> int:
    """More pods of some kinds than this cannot be served, whatever their priorities; nothing is changed."""
    bare = [room for room in rooms if not room.gpus]
    as_it_is: list[Kind] = []
    made: list[Kind] = []
    for kind in kinds:
        (as_it_is if any(room.knows(kind.sample) for room in bare) else made).append(kind)
    sites = Sites(*_matching([room for room in rooms if room.gpus], made), FINENESS[0])
    deal, stacks = sites.deal()
    most = Mixture(sites, stacks, deal).bound()
    deal.clear()
    return sum(len(kind.pods) for kind in as_it_is) + most


def _matching(rooms: Sequence[Room], kinds: Sequence[Kind]) -> tuple[list[Room], list[Kind]]:
    """The nodes whose GPUs can give what some pod asks for, and the kinds of pods that ask for what some node gives."""
    gives = [room.gives for room in rooms]
    wanted = [frozenset(kind.sample.mig_request) for kind in kinds]
    helps = {each: {asked for asked in set(wanted) if asked <= each} for each in set(gives)}
    served = set[frozenset[str]]().union(*helps.values())
    return (
        [room for room, each in zip(rooms, gives, strict=True) if helps[each]],
        [kind for kind, asked in zip(kinds, wanted, strict=True) if asked in served],
    )


def _gentler(rooms: Sequence[Room], kinds: Sequence[Kind], deal: Deal) -> Deal:
    """A deal that makes nothing, where one is found that serves everybody or as many of each kind; else the same."""
    everybody = not any(deal.left)
    if everybody and not deal.makes:
        return deal
    there = deal.existing()
    for target in [kinds] if everybody else [kinds, _served_of(kinds, deal)]:
        found = _unchanged(rooms, target) if asked_of(target) <= there else None
        if found is not None:
            deal.clear()
            return found
    return deal


def _served_of(kinds: Sequence[Kind], deal: Deal) -> list[Kind]:
    """The pods of some kinds that a deal serves."""
    served = [kind.pods[: len(kind.pods) - left] for kind, left in zip(kinds, deal.left, strict=True)]
    return [Kind(pods, kind.sample) for pods, kind in zip(served, kinds, strict=True) if pods]


def _unchanged(rooms: Sequence[Room], kinds: Sequence[Kind]) -> Deal | None:
    """A deal that serves everybody and makes nothing; None where none is found."""
    sites = Sites(rooms, kinds, FINENESS[0], change=False)
    deal, _ = sites.deal()
    for shape in _ranked(sites, by_priority=False):
        _serve(sites, deal, shape, sweeps=(ANYTHING,))
    if any(deal.left):
        serve_left(sites, deal)
    if not any(deal.left):
        return deal
    deal.clear()
    return None


def _as_it_is(kind: Kind, rooms: Sequence[Room]) -> Iterator[Given]:
    """Serve pods on nodes whose GPUs are not ours: devices are all that is known of them."""
    pods = iter(kind.pods)
    pod = next(pods, None)
    for room in rooms:
        while pod is not None and room.suits(pod) and room.option(pod, change=False):
            room.take(pod, ())
            yield Given(pod, room, (), ())
            pod = next(pods, None)


def _best(rooms: Sequence[Room], kinds: Sequence[Kind]) -> tuple[Deal, int]:
    """The best deal that some finenesses of sites lead to, and a bound that none exceeds.

    How well whole pods fit the program's fractions is luck; in small clusters another try costs little.
    """
    tries = max(1, _MOST_TRIED // max(1, sum(len(room.gpus) for room in rooms)))
    best, bound = _dealt(Sites(rooms, kinds, FINENESS[0]))
    for fineness in FINENESS[1:tries]:
        if best.served >= bound:
            break
        deal, most = _dealt(Sites(rooms, kinds, fineness))
        bound = min(bound, most)
        best = max(best, deal, key=Deal.by_priority)
    return best, max(best.served, bound)


def _dealt(sites: Sites) -> tuple[Deal, int]:
    """A deal, and a bound that none exceeds."""
    everybody = sum(len(kind.pods) for kind in sites.kinds)
    deal = _at_once(sites) if sites.demand <= _SPARSE * sites.slots else None
    return _planned(sites, everybody) if deal is None else (deal, everybody)


def _at_once(sites: Sites) -> Deal | None:
    """A deal without a program, in which everybody finds room; None where not."""
    deal, _ = sites.deal()
    for shape in _ranked(sites, by_priority=False):
        _serve(sites, deal, shape)
    if not any(deal.left):
        return deal
    deal.clear()
    return None


def _planned(sites: Sites, everybody: int) -> tuple[Deal, int]:
    """As many of each kind as the program says, by priority."""
    deal, stacks = sites.deal()
    program = Mixture(sites, stacks, deal)
    everything = program.bound()
    most = program.solve()
    ranked = _ranked(sites, by_priority=True)
    several = [shape for shape in ranked if sites.several(shape)]
    if several:
        program.limit()
        for shape in several:
            _serve(sites, deal, shape, program.quotas, (MADE, ANYTHING))
        stacks.lift_limits()
        for shape in several:
            _serve(sites, deal, shape, program.quotas, (MADE, ANYTHING))
        program = Mixture(sites, stacks, deal)
        program.solve()
    program.limit()
    lowest = min(most, default=0)
    for priority in most:
        level = [shape for shape in ranked if sites.priority(shape) == priority]
        for shape in level:
            if not sites.several(shape):
                _serve(sites, deal, shape, program.quotas)
        if priority != lowest and _served(sites, deal, level) < most[priority]:
            # Before pods of a lower priority take it: whatever is there.
            lifted = stacks.lift_limits()
            _serve_leftover(sites, deal, level)
            stacks.limit_again(lifted)
    for shape in ranked:
        if sites.priority(shape) not in most and not sites.several(shape):
            _serve(sites, deal, shape, program.quotas)
    stacks.lift_limits()
    _serve_leftover(sites, deal, ranked)
    # The program's answer by priority bounds the sum only if it was reached for all but the lowest.
    reached = all(
        _served(sites, deal, [shape for shape in ranked if sites.priority(shape) == priority]) == count
        for priority, count in most.items()
        if priority != lowest
    )
    bound = min(everything, sum(most.values())) if reached else everything
    return deal, max(deal.served, min(bound, everybody))


def _served(sites: Sites, deal: Deal, shapes: Sequence[int]) -> int:
    """How many pods of some shapes are served."""
    return sum(len(sites.kinds[kind].pods) - deal.left[kind] for shape in shapes for kind in sites.shapes[shape])


def _serve_leftover(sites: Sites, deal: Deal, shapes: Sequence[int]) -> None:
    """Serve pods with whatever is left: by priority the small ones first, then by exchanges."""
    ranked = sorted(shapes, key=lambda shape: (-sites.priority(shape), sites.size(shape), shape))
    for shape in ranked:
        _serve(sites, deal, shape, sweeps=(ANYTHING,))
    _exchange(sites, deal, ranked)


def _exchange(sites: Sites, deal: Deal, shapes: Sequence[int]) -> None:
    """Serve pods that lack only cpu or memory on nodes with GPUs for them, by exchanging others."""
    swaps = Swaps(deal, [dict(kind.asks) for kind in sites.kinds], sites.shapes)
    left = _MOST_EXCHANGES
    for shape in shapes:
        kinds = [kind for kind in sites.shapes[shape] if deal.left[kind]]
        kinds.sort(key=lambda kind: ([(value, name) for name, value in sites.kinds[kind].asks], kind))
        for site in sites.of_shape[shape] if kinds else ():
            for room in deal.makeable(kinds[0], site):
                kind = next((kind for kind in kinds if deal.left[kind]), None)
                if kind is None or not left:
                    break
                left -= 1
                if swaps.make_room(kind, room):
                    deal.place(kind, site, room)


def _ranked(sites: Sites, *, by_priority: bool) -> list[int]:
    """Shapes of pods: those with several instances first, then the larger ones."""
    return sorted(
        range(len(sites.shapes)),
        key=lambda shape: (
            -sites.priority(shape) if by_priority else 0,
            -sum(sites.devices[shape].values()),
            -sites.size(shape),
            shape,
        ),
    )


def _serve(
    sites: Sites,
    deal: Deal,
    shape: int,
    quotas: dict[tuple[int, int], int] | None = None,
    sweeps: Sequence[int] = GENTLE,
) -> None:
    """Serve pods of a shape, those that ask for most first."""
    kinds = [kind for kind in sites.shapes[shape] if deal.left[kind]]
    if kinds and sites.of_shape[shape]:
        kinds.sort(key=lambda kind: ([(-value, name) for name, value in sites.kinds[kind].asks], kind))
        deal.serve(kinds, sites.of_shape[shape], quotas, sweeps)
