"""The planner: which MIG instances each GPU should have so that the waiting pods find room.

Pods of a higher priority come first; of equal priority, as many as possible are served, of those that are alike the
older ones. Where pods fit without a change, nothing changes; among plans that serve as many, the one counts that
destroys the fewest free instances, makes the fewest, leaves the most room for large profiles, touches the fewest GPUs.
Instances that are used, unknown or promised to bound pods stay where they are. The result depends on the
snapshot's content alone.

The batch is one integer program over nodes, GPUs of equal contents and pods that are alike. Where that would be too
large, see :mod:`brain.decide.wide`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from brain.decide import batch, fit, why, wide
from brain.decide.kinds import kinds_of
from brain.decide.overdue import overdue
from brain.decide.rooms import Cost, Room, Step, rooms_of
from brain.model.mig import Geometry, Placement
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner wants.

    Attributes:
        geometries: by node and GPU index, all instances that each GPU to be changed should hold.
        assigned: by pod key, the node where the pod's instances are or will be.
        made: by pod key, what is made for it: ``(GPU index, placement)``; pods served as things are have none.
        unplaced: by pod key, why there is no room for it.
        deferred: those of ``unplaced`` that a node could still serve once it is done with the change under way.
        overdue: those of ``unplaced`` that fit as things are, and that the scheduler does not bind for another reason.
        bound: more pods than this cannot be served without fewer of a higher priority, as far as is known.
    """

    geometries: Mapping[str, Mapping[int, Geometry]] = field(default_factory=dict)
    assigned: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, tuple[tuple[int, Placement], ...]] = field(default_factory=dict)
    unplaced: Mapping[str, str] = field(default_factory=dict)
    deferred: frozenset[str] = frozenset()
    overdue: frozenset[str] = frozenset()
    bound: int = 0


def plan(snapshot: Snapshot) -> Plan:
    """The geometries that give the most urgent waiting pods room; see the module's text for what it weighs.

    Only pods that the scheduler found unschedulable have anything made for them; others that it may bind at any
    moment keep the free instances they would take.
    """
    with _uncollected():
        return _plan(snapshot)


def _plan(snapshot: Snapshot) -> Plan:
    rooms = rooms_of(snapshot.nodes, snapshot.bound())
    waiting = sorted(
        (pod for pod in snapshot.unbound() if pod.waiting and pod.mig_request),
        key=lambda pod: (-pod.priority, pod.created, pod.key),
    )
    late = overdue(rooms, waiting, snapshot.fitting) if snapshot.fitting else {}
    waiting = [pod for pod in waiting if pod.key not in late]
    _keep_for_holders(rooms, waiting)
    result = _Planning(rooms).run(waiting)
    return replace(result, unplaced={**result.unplaced, **late}, overdue=frozenset(late)) if late else result


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for reference cycles: looking costs a third of a large plan's time."""
    pausing = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if pausing:
            gc.enable()


class _Planning:
    """One run of the planner over its rooms."""

    def __init__(self, rooms: Sequence[Room]) -> None:
        self._rooms = rooms
        self._assigned: dict[str, str] = {}
        self._made: dict[str, tuple[tuple[int, Placement], ...]] = {}
        self._unplaced: dict[str, str] = {}
        self._deferred: set[str] = set()

    def run(self, waiting: Sequence[Pod]) -> Plan:
        """Serve pods, sorted by rank."""
        held = {key for room in self._rooms for key in room.holds}
        imminent = [pod for pod in waiting if not pod.unschedulable or (held and pod.key in held)]
        self._serve_imminent(imminent, held)
        open_ = [pod for pod in waiting if pod.unschedulable and not (imminent and pod.key in self._assigned)]
        beside = len(self._assigned)
        bound = beside + self._share(open_)
        self._explain([pod for pod in open_ if pod.key not in self._assigned])
        for room in self._rooms:
            room.discard_unused()
        geometries = {room.node.name: changed for room in self._rooms if (changed := room.changed())}
        return Plan(
            geometries,
            self._assigned,
            self._made,
            self._unplaced,
            frozenset(self._deferred),
            bound=max(bound, len(self._assigned)),
        )

    def _share(self, pods: Sequence[Pod]) -> int:
        """Serve pods that the scheduler has refused; more than the answer cannot be served."""
        kinds = kinds_of(pods)
        share = batch.share(self._rooms, kinds)
        if share is not None:
            for pod, room in share.assigned:
                self._take(pod, room, room.option(pod, change=False))
            if len(share.assigned) == share.bound:
                return share.bound
            for room in self._rooms:
                room.discard_unused()
            kinds = kinds_of([pod for pod in pods if pod.key not in self._assigned])
        outcome = wide.spread(self._rooms, kinds)
        for given in outcome.given:
            self._assigned[given.pod.key] = given.room.node.name
            made = given.room.made(given.steps)
            if made:
                self._made[given.pod.key] = made
        return outcome.bound if share is None else share.bound

    def _serve_imminent(self, pods: Sequence[Pod], held: Set[str]) -> None:
        """Give pods, that may be bound at any moment, free instances as things are."""
        plain = [pod for pod in pods if pod.key not in held]
        turns = {pod.key: position for position, kind in enumerate(kinds_of(plain)) for pod in kind.pods}
        # A node that has no room for a pod has none for those like it that follow, so each node is asked once a kind.
        asked = {position: iter(self._rooms) for position in turns.values()}
        last: dict[int, Room | None] = {position: next(rooms, None) for position, rooms in asked.items()}
        for pod in pods:
            if pod.key in held:
                self._serve_holder(pod)
                continue
            turn = turns[pod.key]
            room = last[turn]
            while room is not None and not self._fits(pod, room):
                room = last[turn] = next(asked[turn], None)

    def _fits(self, pod: Pod, room: Room) -> bool:
        """Give a pod free instances of one node, if it has them."""
        option = None if room.refusal(pod) or not room.knows(pod) else room.option(pod, change=False)
        self._take(pod, room, option)
        return option is not None

    def _serve_holder(self, pod: Pod) -> None:
        """Give a pod, for which instances are kept, those or other free ones, where that costs the least."""
        for room in self._rooms:
            room.lend(pod)
        choice = _cheapest(pod, [room for room in self._rooms if not room.refusal(pod)])
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
        if made:
            self._made[pod.key] = made

    def _explain(self, pods: Sequence[Pod]) -> None:
        for pod, reason in why.reasons(self._rooms, pods):
            self._unplaced[pod.key] = reason.text
            if reason.later:
                self._deferred.add(pod.key)


def _keep_for_holders(rooms: Sequence[Room], waiting: Sequence[Pod]) -> None:
    """On nodes under the taint: keep what pods might be bound to that the scheduler may have taken there already.

    Those are the ungated pods that it has not refused, that are nominated there, or that tolerate the taint.
    """
    tainted = [room for room in rooms if room.node.repartitioning]
    if not tainted:
        return
    tolerant = {pod.key for pod in waiting if pod.tolerations and fit.tolerates_repartitioning(pod)}
    holders = [pod for pod in waiting if not pod.unschedulable or pod.nominated or pod.key in tolerant]
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
