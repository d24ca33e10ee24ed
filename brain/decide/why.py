"""Why pods have no room: what each node lacks, and which pod's end would help.

What is said holds after the plan: what the plan gives to others is taken.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from brain.decide import fit
from brain.decide.groups import Groups
from brain.decide.kinds import Kind, Suits, kinds_of, shapes_of, smallest
from brain.decide.neighbours import Neighbours
from brain.decide.rooms import GpuRoom, Look, Room
from brain.model.pod import Pod

IN_PIECES: Final = "has enough free slots but not in one piece"
NO_PLACE: Final = "has enough free slots, but no placement for it beside what is in use or promised"
TOO_FEW: Final = "has too few free slots beside what is in use or promised"
NOT_ENOUGH: Final = "has room, but not for enough of the group"
_NEAREST: Final = frozenset({IN_PIECES, NO_PLACE, TOO_FEW, NOT_ENOUGH})
"""What is lacked where nothing but the end of other pods is needed."""
_NO_DEVICES: Final = "has too few free devices"
_MOST_CHECKS: Final = 200_000
"""Pairs of nodes and kinds of pods up to which each kind gets words of its own; above, kinds that ask for the same
devices are told what holds for the least demanding of them."""
_MOST_TRIES: Final = 12
"""Bound pods tried for one kind of waiting pods, in search of one whose end would help."""
_MOST_HINTS: Final = 50
"""Kinds of pods for which that is tried."""


_MOST_NAMES: Final = 3
"""Nodes named for one thing that nodes lack."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What some nodes lack for a pod.

    Attributes:
        text: what it is.
        nodes: how many nodes lack it.
        names: the first few of them.
    """

    text: str
    nodes: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = self.nodes - len(self.names)
        return f"{self.text} ({', '.join(self.names)}{f' and {more} more' if more else ''})"


@dataclass(frozen=True, slots=True)
class Help:
    """A bound pod, by key, whose end would give another pod room on its node."""

    node: str
    pod: str

    def __str__(self) -> str:
        return f"node {self.node} would have room if {self.pod} ended"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a pod is not served.

    Attributes:
        text: for people; says all that the parts do.
        later: whether a node could still serve it once it is done with the change under way.
        lacks: what the nodes lack, the nearest to having room first; each node is counted once.
        helps: whose end would help; None where that is not known.
    """

    text: str
    later: bool = False
    lacks: tuple[Lack, ...] = ()
    helps: Help | None = None


def reasons(
    rooms: Sequence[Room], neighbours: Neighbours, groups: Groups, pods: Sequence[Pod]
) -> Iterator[tuple[Pod, Reason]]:
    """For each pod, why no node has room for it; the pods by rank."""
    for pod in pods:
        if pod.group in groups.missing:
            yield pod, Reason(_incomplete(groups.needs[pod.group], groups.missing[pod.group]))
    pods = [pod for pod in pods if pod.group not in groups.missing] if groups.missing else pods
    special = [pod for pod in pods if groups.binds(pod) or not neighbours.bystander(pod)]
    kinds = kinds_of(pods, {pod.key: (neighbours.kind(pod), groups.needs.get(pod.group, 0)) for pod in special})
    if len(kinds) * len(rooms) > _MOST_CHECKS:
        kinds = [_together([kinds[position] for position in shape]) for shape in shapes_of(kinds)]
    nodes = _alike(rooms, kinds)
    apart = _one_by_one(nodes, rooms) if special or any(kind.sample.host_ports for kind in kinds) else []
    for position, kind in enumerate(kinds):
        sample, together = kind.sample, groups.needs.get(kind.sample.group, 0)
        asked = []
        for each in nodes if kind.tag is None and not sample.host_ports else apart:
            refusal = each.refusals[position]
            if not refusal and kind.tag is not None:
                refusal = neighbours.refusal(sample, each.room.node.name)
            asked.append((each, refusal))
        reason = _reason(sample, rooms, asked, together=together, hint=position < _MOST_HINTS)
        for pod in kind.pods:
            yield pod, reason


def _incomplete(needed: int, missing: int) -> str:
    there = f"waits for {missing} more pod{'s' if missing > 1 else ''} of its group"
    return f"{there}: {needed} are of use only together"


class _Alike(NamedTuple):
    """Nodes that lack the same for each kind of pods; host ports aside.

    Attributes:
        room: one of them.
        members: all, by position.
        refusals: for each kind, why they do not suit its pods, however empty; "" where they do.
        slots: slots that nothing has which must stay; None where nothing is known of the GPUs.
        piece: how many of these lie in one piece, at most.
        problem: what is wrong with their GPUs where none can be partitioned; "" where one can.
    """

    room: Room
    members: list[int]
    refusals: tuple[str, ...]
    slots: int | None
    piece: int
    problem: str


def _alike(rooms: Sequence[Room], kinds: Sequence[Kind]) -> list[_Alike]:
    """All nodes, those together of which each lacks for each kind what the others lack."""
    suits = Suits([kind.sample for kind in kinds])
    looks: dict[Hashable, tuple[Look, list[int]]] = {}
    for position, room in enumerate(rooms):
        look = room.look
        seen = (id(look), *suits.labels(room.node)) if suits.telling else id(look)
        if (known := looks.get(seen)) is None:
            known = looks[seen] = look, []
        known[1].append(position)
    amounts: defaultdict[str, set[int]] = defaultdict(set)
    for kind in kinds:
        for name, value in kind.asks:
            amounts[name].add(value)
    levels = [(name, sorted(values)) for name, values in sorted(amounts.items())]
    found: dict[tuple[object, ...], _Alike] = {}
    for look, members in looks.values():
        room = rooms[members[0]]
        enough = [bisect_right(values, room.free.get(name, 0)) for name, values in levels]
        refusals = suits.refusals(room.node)
        key = (id(refusals), look.sizes, look.fixed_reason, look.slots, look.piece, look.problem, *enough)
        alike = found.setdefault(key, _Alike(room, members, refusals, look.slots, look.piece, look.problem))
        if alike.members is not members:
            alike.members.extend(members)
    for alike in found.values():
        alike.members.sort()
    return list(found.values())


def _one_by_one(nodes: Iterable[_Alike], rooms: Sequence[Room]) -> list[_Alike]:
    """Each node by itself."""
    single = (each._replace(room=rooms[at], members=[at]) for each in nodes for at in each.members)
    return sorted(single, key=lambda each: each.members)


def _together(kinds: Sequence[Kind]) -> Kind:
    return Kind(tuple(pod for kind in kinds for pod in kind.pods), smallest(kinds), kinds[0].tag)


def _reason(
    pod: Pod, rooms: Sequence[Room], nodes: Iterable[tuple[_Alike, str]], *, together: int, hint: bool
) -> Reason:
    wanted = ", ".join(f"{count} {resource}" for resource, count in sorted(pod.mig_request.items()))
    if together:
        wanted = f"{together} pods of its group together, this one with {wanted}"
    asks = dict(Kind((), pod).asks)
    found: defaultdict[str, list[Sequence[int]]] = defaultdict(list)
    near: list[Sequence[int]] = []
    later = False
    needed: dict[int, tuple[int, str]] = {}
    for (room, members, _, slots, piece, problem), refusal in nodes:
        reason = refusal or _lacking(pod, asks, room)
        if slots is not None and not reason:
            # By far the most nodes of a crowded cluster come here; those of a model are told apart by little.
            if (known := needed.get(id(room.sizes))) is None:
                unknown = room.unknown(pod)
                lack = f"has no GPU that can hold {unknown[0]}" if unknown else ""
                known = needed[id(room.sizes)] = 0 if lack else _size(pod, room), lack
            size, lack = known
            if lack:
                found[lack].append(members)
                continue
            if not room.fixed_reason:
                if slots < size:
                    reason = f"has no GPU that can be partitioned: {problem}" if problem else TOO_FEW
                elif together and room.option(pod, change=True):
                    reason = NOT_ENOUGH
                else:
                    largest = max(room.sizes[name] for name in pod.mig_request)
                    reason = IN_PIECES if piece < largest else NO_PLACE
                found[reason].append(members)
                near.append(members)
                continue
        later = later or (not reason and room.busy and not room.unknown(pod))
        found[reason or room.fixed_reason or _NO_DEVICES].append(members)
    lacks = tuple(
        Lack(text, sum(map(len, found[text])), _first(rooms, found[text]))
        for text in sorted(found, key=lambda text: (text not in _NEAREST, text))
    )
    helps = _helping(pod, asks, (rooms[position] for position in heapq.merge(*near))) if hint and not together else None
    parts = [*map(str, lacks or ["the cluster has no nodes"]), *([str(helps)] if helps else [])]
    subject = "no room" if together else "no node has room"
    return Reason(f"{subject} for {wanted}: {'; '.join(parts)}", later, lacks, helps)


def _lacking(pod: Pod, asks: Mapping[str, int], room: Room) -> str:
    """What else than devices a node lacks for a pod."""
    free = room.free
    for name, value in asks.items():
        if free.get(name, 0) < value:
            return fit.too_small(pod, free)
    return fit.ports_taken(pod, [*room.bound, *room.given]) if pod.host_ports else ""


def _size(pod: Pod, room: Room) -> int:
    """Slots that a pod takes on a node whose GPUs can hold it."""
    return sum(count * room.sizes[name] for name, count in pod.mig_request.items())


def _helping(pod: Pod, asks: Mapping[str, int], rooms: Iterable[Room]) -> Help | None:
    """A bound pod whose end would give a pod room; None where none of those tried would."""
    tries = _MOST_TRIES
    for room in rooms:
        for holder in room.bound:
            if not holder.mig_request:
                continue
            if not tries:
                return None
            tries -= 1
            if _would_fit(pod, asks, room, holder):
                return Help(room.node.name, holder.key)
    return None


def _would_fit(pod: Pod, asks: Mapping[str, int], room: Room, holder: Pod) -> bool:
    """Whether a node would have room for a pod without one of its bound pods."""
    free = {name: value + holder.request.get(name, 0) for name, value in room.free.items()}
    if any(free.get(name, 0) < value for name, value in asks.items()):
        return False
    gpus = [replace(gpu, kept=gpu.kept & ~held) if (held := _held(gpu, holder)) else gpu for gpu in room.gpus]
    (resource, count), *more = pod.mig_request.items()
    if count == 1 and not more:
        return any(gpu.existing(resource) | gpu.makeable(resource) for gpu in gpus)
    return replace(room, gpus=gpus, free=free).option(pod, change=True) is not None


def _held(gpu: GpuRoom, holder: Pod) -> int:
    """What a pod has of a GPU."""
    held = 0
    for instance in gpu.gpu.instances:
        user = instance.holder
        if user is not None and user.pod == holder.name and user.namespace == holder.namespace:
            held |= gpu.grid.bit(instance)
    return held


def _first(rooms: Sequence[Room], groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """The first few of some nodes, given in groups by position."""
    first = sorted(position for members in groups for position in members[:_MOST_NAMES])[:_MOST_NAMES]
    return tuple(rooms[position].node.name for position in first)
