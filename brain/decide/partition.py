"""The planner: which MIG instances each GPU should have so that the waiting pods find room.

Pods of a higher priority come first; of equal priority, as many as possible are served, of those that are alike the
older ones. Where pods fit without a change, nothing changes; among plans that serve as many, the one counts that
destroys the fewest free instances, makes the fewest, leaves the most room for large profiles, touches the fewest GPUs.
Instances that are used, unknown or promised to bound pods stay where they are. The result depends on the
snapshot's content alone.

The batch is one integer program over nodes, GPUs of equal contents and pods that are alike. Where that would be too
large, see :mod:`brain.decide.wide`. Pods that (anti-)affinity or topology spread is about come one by one. What a group
has that falls short of its least number goes to others.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from brain.decide import batch, fit, near, why, wide
from brain.decide.groups import Groups
from brain.decide.kinds import alike, kinds_of
from brain.decide.neighbours import Neighbours
from brain.decide.overdue import Overdue, overdue, told
from brain.decide.rooms import Cost, Room, Step, forget_changed, rooms_of
from brain.decide.why import Reason
from brain.model.mig import Geometry, Placement
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot

_MOST_TRIED: Final = 5_000
"""Waiting pods times nodes up to which several orders are tried for pods about whom other pods matter."""
_ENOUGH: Final = 0.99
"""Share of the bound that a deal must reach where the integer program is not too large to do better."""
_MOST_COMPARED: Final = 8
"""Nodes that are compared for one pod about whom other pods matter."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner wants.

    Attributes:
        geometries: by node and GPU index, all instances that each GPU to be changed should hold.
        assigned: by pod key, the node where the pod's instances are or will be.
        made: by pod key, what is made for it: ``(GPU index, placement)``; pods served as things are have none.
        why: by pod key, why there is no room for it.
        overdue: those of ``why`` that fit as things are, and that the scheduler does not bind for another reason, with
            the node that they fit on.
        tried: keys of all pods that fit where the scheduler does not bind them, also those that get room elsewhere.
        bound: more pods than this cannot be served without fewer of a higher priority, as far as is known.
    """

    geometries: Mapping[str, Mapping[int, Geometry]] = field(default_factory=dict)
    assigned: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, tuple[tuple[int, Placement], ...]] = field(default_factory=dict)
    why: Mapping[str, Reason] = field(default_factory=dict)
    overdue: Mapping[str, str] = field(default_factory=dict)
    tried: frozenset[str] = frozenset()
    bound: int = 0

    @property
    def deferred(self) -> frozenset[str]:
        """Keys of those of ``why`` that a node could still serve once it is done with the change under way."""
        return frozenset(key for key, reason in self.why.items() if reason.later)

    @property
    def gap(self) -> int:
        """Pods that a better plan might serve besides, at most."""
        return self.bound - len(self.assigned)

    @property
    def unplaced(self) -> dict[str, str]:
        """By pod key, why there is no room for it, in words; made anew at each call."""
        return {key: reason.text for key, reason in self.why.items()}


def plan(snapshot: Snapshot) -> Plan:
    """The geometries that give the most urgent waiting pods room; see the module's text for what it weighs.

    Only pods that the scheduler found unschedulable have anything made for them; others that it may bind at any
    moment keep the free instances they would take.
    """
    with _uncollected():
        try:
            return _plan(snapshot)
        finally:
            forget_changed()


def _plan(snapshot: Snapshot) -> Plan:
    bound = snapshot.bound()
    nodes = sorted(snapshot.nodes, key=lambda node: node.name)
    world = _World(nodes, bound, Neighbours(snapshot), Groups(snapshot.grouped(), snapshot.jobs), {})
    waiting = world.groups.ranked(pod for pod in snapshot.unbound() if pod.waiting and pod.mig_request)
    late: dict[str, Overdue] = {}
    if snapshot.fitting:
        late = overdue(world.rooms(), world.neighbours, waiting, snapshot.fitting)
        world = replace(world, avoided={key: set(each.nodes) for key, each in late.items()})
        waiting = [pod for pod in waiting if pod.key not in late or late[pod.key].elsewhere]
    result = _planned(world, waiting, _ORDERS[0])
    special = not world.neighbours.strangers and any(not world.neighbours.bystander(pod) for pod in waiting)
    if special and result.why and len(waiting) * len(nodes) <= _MOST_TRIED:
        others = (_planned(world, waiting, order) for order in _ORDERS[1:])
        result = max((result, *others), key=lambda each: _served(waiting, each))  # the first of equals
    if not late:
        return result
    pods = [pod for pod in snapshot.unbound() if pod.key in late]
    reasons = {pod.key: Reason(told(pod, late[pod.key].nodes[0])) for pod in pods if pod.key not in result.assigned}
    return replace(
        result,
        why={**result.why, **reasons},
        overdue={key: late[key].nodes[0] for key in sorted(reasons)},
        tried=frozenset(late),
    )


def _served(waiting: Sequence[Pod], result: Plan) -> list[int]:
    """Pods served by priority, the highest first."""
    levels = itertools.groupby(waiting, key=lambda pod: pod.priority)
    return [sum(pod.key in result.assigned for pod in level) for _, level in levels]


def _planned(world: _World, waiting: Sequence[Pod], order: _Order) -> Plan:
    """A plan in one order."""
    rooms = world.rooms()
    _keep_for_holders(rooms, waiting)
    planning = _Planning(rooms, world, order)
    result = planning.run(waiting)
    planning.withdraw()
    return result


@dataclass(frozen=True, slots=True)
class _Order:
    """Who comes first of those of one priority about whom other pods matter.

    Attributes:
        last: whether they come after the others of their priority, instead of before.
        size: what a device weighs in their rank, before age: -1 for those with most first, 1 for those with fewest.
        picky: whether those that want no neighbours come after those that mind none.
    """

    last: bool = False
    size: int = 0
    picky: bool = False


_ORDERS: Final = (_Order(), _Order(last=True), _Order(size=-1), _Order(size=1), _Order(picky=True))


@dataclass(frozen=True, slots=True)
class _World:
    """What all attempts at a plan start from.

    Attributes:
        nodes: by name.
        bound: pods by node.
        neighbours: what other pods mean for a pod.
        groups: pods that are of use only together.
        avoided: by pod key, nodes to which the scheduler does not bind it.
    """

    nodes: Sequence[Node]
    bound: Mapping[str, tuple[Pod, ...]]
    neighbours: Neighbours
    groups: Groups
    avoided: Mapping[str, Set[str]]

    def rooms(self) -> list[Room]:
        """The nodes as they are."""
        return rooms_of(self.nodes, self.bound)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for reference cycles: that costs a third of a large plan's time, and holds up all threads."""
    pausing = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if pausing:
            gc.enable()


class _Planning:
    """One run of the planner over its rooms."""

    def __init__(self, rooms: Sequence[Room], world: _World, order: _Order) -> None:
        self._rooms = self._tried = rooms
        self._neighbours = world.neighbours
        self._groups = world.groups
        self._avoided = world.avoided
        self._order = order
        self._assigned: dict[str, str] = {}
        self._made: dict[str, tuple[tuple[int, Placement], ...]] = {}
        self._why: dict[str, Reason] = {}
        self._placed: dict[str, Pod] = {}
        self._taken: dict[str, tuple[Room, tuple[Step, ...]]] = {}
        self._freed: dict[int, Room] = {}
        self._open: dict[tuple[object, ...], list[Room]] = {}

    def run(self, waiting: Sequence[Pod]) -> Plan:
        """Serve pods, sorted by rank."""
        held = {key for room in self._rooms for key in room.holds}
        imminent = [pod for pod in waiting if not pod.unschedulable or (held and pod.key in held)]
        self._serve_imminent(imminent, held)
        if not waiting:
            near.prepare(self._rooms)
        open_ = [pod for pod in waiting if pod.unschedulable and not (imminent and pod.key in self._assigned)]
        beside = len(self._assigned)
        bound = beside + self._share(open_)
        self._mend(open_)
        self._explain([pod for pod in open_ if pod.key not in self._assigned])
        geometries = {}
        for room in self._rooms:
            if not room.settled:
                room.discard_unused()
                if changed := room.changed():
                    geometries[room.node.name] = changed
        return Plan(
            geometries,
            self._assigned,
            self._made,
            self._why,
            bound=max(bound, len(self._assigned)),
        )

    def withdraw(self) -> None:
        """Let the neighbours be as they were before the run."""
        for key, pod in self._placed.items():
            self._neighbours.remove(pod, self._assigned[key])

    def _share(self, pods: Sequence[Pod]) -> int:
        """Serve pods that the scheduler has refused; more than the answer cannot be served.

        Those about whom other pods matter come one by one, before or after the others of their priority.
        """
        apart = self._apart(pods)
        if not apart:
            return self._batch(pods)
        most = wide.bound_of(self._rooms, kinds_of(pods))
        plain: list[Pod] = []
        left: list[Pod] = []
        for _, level in itertools.groupby(pods, key=lambda pod: pod.priority):
            members = list(level)
            special = [pod for pod in members if pod.key in apart]
            others = [pod for pod in members if pod.key not in apart]
            if special:
                self._batch([*plain, *others] if self._order.last else plain)
                plain = []
                left = self._one_by_one([*left, *sorted(special, key=self._turn)])
            if not (special and self._order.last):
                plain += others
        self._batch(plain)
        self._one_by_one(left)
        return most

    def _turn(self, pod: Pod) -> tuple[bool, int]:
        """Sorts pods of one priority about whom other pods matter; equals keep their rank."""
        return self._order.picky and bool(pod.anti_affinity), self._order.size * sum(pod.mig_request.values())

    def _apart(self, pods: Sequence[Pod]) -> Set[str]:
        """Keys of pods about whom other pods matter, and of those that the scheduler does not bind everywhere."""
        if self._neighbours.strangers and not self._avoided:
            return set()
        return {pod.key for pod in pods if not self._neighbours.bystander(pod) or pod.key in self._avoided}

    def _batch(self, pods: Sequence[Pod]) -> int:
        """Serve pods all together; more than the answer cannot be served."""
        if not pods:
            return 0
        tags = {pod.key: pod.group for pod in pods if self._groups.binds(pod)} if self._groups.needs else {}
        needs: dict[Hashable, int] = {group: self._lacking(group) for group in set(tags.values())}
        kinds = kinds_of(pods, tags)
        share = batch.share(self._rooms, kinds, needs)
        outcome = None
        if share is None:
            plain = kinds_of(pods) if tags else kinds
            least = _ENOUGH if len(kinds) * len(self._rooms) <= batch.PATIENCE * batch.EXACT_COLUMNS else 0.0
            outcome = wide.spread(self._rooms, plain, least=least)
            if outcome is None:
                share = batch.share(self._rooms, kinds, needs, patience=batch.PATIENCE)
        if share is not None:
            for pod, room in share.assigned:
                self._take(pod, room, room.option(pod, change=False))
            for room in self._rooms:
                room.discard_unused()
            if len(share.assigned) == share.bound:
                return share.bound
            pods = [pod for pod in pods if pod.key not in self._assigned and pod.key not in tags]
        if outcome is None:
            outcome = wide.spread(self._rooms, kinds_of(pods))
        for pod, room, steps, made in outcome.given:
            key = pod.key
            self._assigned[key] = room.node.name
            if made:
                self._made[key] = made
            if tags and key in tags:
                self._taken[key] = room, steps
        return outcome.bound if share is None else share.bound

    def _mend(self, pods: Sequence[Pod]) -> None:
        """Make halved groups whole, or give what they have to others: where some are served, but not enough.

        Pods that may be bound at any moment keep what they have.
        """
        members: dict[str, list[Pod]] = {}
        for pod in pods:
            if self._groups.binds(pod):
                members.setdefault(pod.group, []).append(pod)
        completed: set[str] = set()
        dropped: set[str] = set()
        while halved := [group for group in self._halved(members) if group not in dropped]:
            for group in halved:
                # Once each: what completes one may halve another, and that the first again, for ever.
                if group not in completed and self._complete(members[group]):
                    completed.add(group)
                else:
                    self._drop(members[group])
                    dropped.add(group)
            self._support()
        if not self._freed:
            return
        self._tried, self._open = list(self._freed.values()), {}
        others = [pod for pod in pods if pod.key not in self._assigned and pod.group not in dropped]
        for _, each in itertools.groupby(others, key=lambda pod: pod.group if self._groups.binds(pod) else pod.key):
            self._complete(list(each))
        for room in self._freed.values():
            room.restore()

    def _halved(self, groups: Iterable[str]) -> list[str]:
        """Groups of which some pods are served, but not enough."""
        return [group for group in groups if 0 < self._lacking(group) < self._groups.needs[group]]

    def _lacking(self, group: str) -> int:
        """How many more pods of a group must be served."""
        return max(0, self._groups.needs[group] - self._groups.served(group, self._assigned))

    def _complete(self, pods: Sequence[Pod]) -> bool:
        """Serve a pod, or of a group all that it needs; else nothing, and what it had is free. Whether it is served."""
        if not self._groups.binds(pods[0]):
            return self._serve(pods[0])
        lacking = self._lacking(pods[0].group)
        for pod in pods:
            if lacking > 0 and pod.key not in self._assigned:
                lacking -= self._serve(pod)
        if lacking > 0:
            self._drop(pods)
        return lacking <= 0

    def _drop(self, pods: Iterable[Pod]) -> None:
        """Take back what pods were given."""
        for pod in pods:
            self._release(pod)

    def _release(self, pod: Pod) -> None:
        """Take back what a pod was given, if it was."""
        if pod.key in self._taken:
            room, steps = self._taken.pop(pod.key)
            room.give_back(pod, steps)
            self._freed[id(room)] = room
            if self._placed.pop(pod.key, None) is not None:
                self._neighbours.remove(pod, room.node.name)
            del self._assigned[pod.key]
            self._made.pop(pod.key, None)

    def _support(self) -> None:
        """Take back what pods were given that the scheduler would refuse now that others are not there."""
        standing = dict(self._placed)
        for key, pod in standing.items():
            self._neighbours.remove(pod, self._assigned[key])
        before = -1
        while before != len(standing):
            before = len(standing)
            for key, pod in list(standing.items()):
                if not self._neighbours.refusal(pod, self._assigned[key]):
                    self._neighbours.place(pod, self._assigned[key])
                    del standing[key]
        for key, pod in standing.items():
            self._neighbours.place(pod, self._assigned[key])
            self._release(pod)

    def _one_by_one(self, pods: Sequence[Pod]) -> list[Pod]:
        """Serve pods in turn, and those refused again once others stand; who is left."""
        left = list(pods)
        while True:
            before = len(left)
            left = [pod for pod in left if not self._serve(pod)]
            if len(left) in {0, before}:
                return left

    def _serve(self, pod: Pod) -> bool:
        """Give a pod room by itself, as things are if that can be."""
        return self._settle(pod, change=False) or self._settle(pod, change=True)

    def _settle(self, pod: Pod, *, change: bool) -> bool:
        """Give a pod room where its neighbours allow it, of the first few such nodes where that costs the least."""
        key = (*alike(pod), change)
        rooms = self._open.get(key)
        if rooms is None:
            rooms = self._open[key] = [room for room in self._tried if room.knows(pod)]
        avoided = self._avoided.get(pod.key, ())
        options: list[tuple[Cost, int, Room, tuple[Step, ...]]] = []
        full = []
        for position, room in enumerate(rooms):
            if room.node.name in avoided or self._neighbours.refusal(pod, room.node.name):
                continue
            option = None if room.refusal(pod) else room.option(pod, change=change)
            if option is None:
                full.append(position)  # rooms only fill up
                continue
            options.append((option[0], position, room, option[1]))
            if len(options) == _MOST_COMPARED:
                break
        if options:
            cost, _, room, steps = min(options, key=lambda each: each[:2])
            self._take(pod, room, (cost, steps))
        for position in reversed(full):
            del rooms[position]
        return bool(options)

    def _serve_imminent(self, pods: Sequence[Pod], held: Set[str]) -> None:
        """Give pods, that may be bound at any moment, free instances as things are."""
        plain = [pod for pod in pods if pod.key not in held and self._neighbours.bystander(pod)]
        turns = {pod.key: position for position, kind in enumerate(kinds_of(plain)) for pod in kind.pods}
        # A node that has no room for a pod has none for those like it that follow, so each node is asked once a kind.
        asked = {position: iter(self._rooms) for position in turns.values()}
        last: dict[int, Room | None] = {position: next(rooms, None) for position, rooms in asked.items()}
        for pod in pods:
            if pod.key in held:
                self._serve_holder(pod)
                continue
            if pod.key not in turns:
                self._settle(pod, change=False)
                continue
            turn = turns[pod.key]
            room = last[turn]
            while room is not None and not self._fits(pod, room):
                room = last[turn] = next(asked[turn], None)

    def _fits(self, pod: Pod, room: Room) -> bool:
        """Give a pod free instances of one node, if it has them."""
        option = room.option(pod, change=False) if room.suits(pod) else None
        self._take(pod, room, option)
        return option is not None

    def _serve_holder(self, pod: Pod) -> None:
        """Give a pod, for which instances are kept, those or other free ones, where that costs the least."""
        for room in self._rooms:
            room.lend(pod)
        choice = _cheapest(
            pod,
            [
                room
                for room in self._rooms
                if not room.refusal(pod) and not self._neighbours.refusal(pod, room.node.name)
            ],
        )
        if choice is not None:
            self._take(pod, choice[0], choice[1])
        for room in self._rooms:
            if choice is None or room is not choice[0]:
                room.hold(pod)

    def _take(self, pod: Pod, room: Room, option: tuple[Cost, tuple[Step, ...]] | None) -> None:
        if option is None:
            return
        made = room.take(pod, option[1])
        self._assigned[pod.key] = room.node.name
        if not self._neighbours.bystander(pod):
            self._neighbours.place(pod, room.node.name)
            self._placed[pod.key] = pod
        if self._groups.binds(pod) or pod.key in self._placed:
            self._taken[pod.key] = room, option[1]
        if made:
            self._made[pod.key] = made

    def _explain(self, pods: Sequence[Pod]) -> None:
        for pod, reason in why.reasons(self._rooms, self._neighbours, self._groups, pods):
            self._why[pod.key] = reason


def _keep_for_holders(rooms: Sequence[Room], waiting: Sequence[Pod]) -> None:
    """On nodes under the taint: keep what pods might be bound to that the scheduler may have taken there already.

    Those are the ungated pods that it has not refused, that are nominated there, or that tolerate the taint.
    """
    tolerant = {pod.key for pod in waiting if pod.tolerations and fit.tolerates_repartitioning(pod)}
    holders = [pod for pod in waiting if not pod.unschedulable or pod.nominated or pod.key in tolerant]
    tainted = [room for room in rooms if room.node.repartitioning] if holders else []
    for room in tainted:
        for pod in holders:
            if not any(gpu.free for gpu in room.gpus):
                break
            if not pod.unschedulable or pod.nominated == room.node.name or pod.key in tolerant:
                room.keep_for_holder(pod)


def _cheapest(pod: Pod, rooms: Iterable[Room]) -> tuple[Room, tuple[Cost, tuple[Step, ...]]] | None:
    """The node that gives a pod its instances at the least cost, as things are; the first by name among equals."""
    best: tuple[Room, tuple[Cost, tuple[Step, ...]]] | None = None
    for room in rooms:
        option = room.option(pod, change=False)
        if option is not None and (best is None or option[0] < best[1][0]):
            best = room, option
    return best
