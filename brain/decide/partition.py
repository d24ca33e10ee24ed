"""The planner: which MIG instances each GPU should have so that the waiting pods find room.

Pods are served by priority, then age. Each first gets instances that are free as things are; only where no node
has them is a geometry changed, on the node where that destroys the fewest free instances, leaves the most room
for large profiles, and touches the fewest GPUs. Instances that are used, unknown, promised to bound pods or given
to a pod served before stay where they are. The result depends on the snapshot's content alone.

It serves one pod after the other and does not move what it gave to an earlier one: correct, not optimal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from brain.decide import fit
from brain.model.mig import Geometry, Gpu, InstanceState, Placement, Profile, exclusive
from brain.model.node import Agent, Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import names

BUSY: Final = "is being repartitioned"
_SEARCH_STEPS: Final = 2_000
"""Steps of the search for one pod on one node; enough for eight instances over eight GPUs in every case seen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner wants.

    Attributes:
        geometries: by node and GPU index, all instances that each GPU to be changed should hold.
        assigned: by pod key, the node where the pod's instances are or will be.
        made: by pod key, what is made for it: ``(GPU index, placement)``; pods served as things are have none.
        unplaced: by pod key, why there is no room for it.
        deferred: those of ``unplaced`` that a node could still serve once it is done with the change under way.
    """

    geometries: Mapping[str, Mapping[int, Geometry]] = field(default_factory=dict)
    assigned: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, tuple[tuple[int, Placement], ...]] = field(default_factory=dict)
    unplaced: Mapping[str, str] = field(default_factory=dict)
    deferred: frozenset[str] = frozenset()


def plan(snapshot: Snapshot) -> Plan:
    """The geometries that give the most urgent waiting pods room; see the module's text for what it weighs.

    Only pods that the scheduler found unschedulable have anything made for them; others that it may bind at any
    moment keep the free instances they would take.
    """
    bound = snapshot.bound()
    rooms = [_Room.of(node, bound.get(node.name, ())) for node in sorted(snapshot.nodes, key=lambda node: node.name)]
    waiting = sorted(
        (pod for pod in snapshot.pods if pod.waiting and pod.mig_request),
        key=lambda pod: (-pod.priority, pod.created, pod.key),
    )
    for room in rooms:
        room.keep_for_holders(waiting)
    assigned: dict[str, str] = {}
    made: dict[str, tuple[tuple[int, Placement], ...]] = {}
    unplaced: dict[str, str] = {}
    deferred: set[str] = set()
    for pod in waiting:
        refusals = {room.node.name: room.refusal(pod) for room in rooms}
        candidates = [room for room in rooms if not refusals[room.node.name]]
        for room in rooms:
            room.lend(pod)
        choice = _cheapest(pod, candidates, change=False)
        if choice is None and pod.unschedulable:
            choice = _cheapest(pod, candidates, change=True)
        if choice is None:
            for room in rooms:
                room.hold(pod)
            if pod.unschedulable:
                unplaced[pod.key] = _why(pod, rooms, refusals)
                if any(room.busy and all(map(room.profile_known, pod.mig_request)) for room in candidates):
                    deferred.add(pod.key)
            continue
        room, option = choice
        new = room.take(pod, option)
        for other in rooms:
            if other is not room:
                other.hold(pod)
        assigned[pod.key] = room.node.name
        if new:
            made[pod.key] = new
    geometries = {room.node.name: changed for room in rooms if (changed := room.changed())}
    return Plan(geometries, assigned, made, unplaced, frozenset(deferred))


def changeable(node: Node) -> str:
    """Why a node's GPUs cannot be changed now; "" when they can."""
    if not node.enabled:
        return f"is not labelled {names.AUTO_MIG_LABEL}=true"
    if managed_elsewhere(node):
        return "is driven by NVIDIA's mig-manager"
    if node.agent is None:
        return "has no agent yet"
    if not node.agent.connected:
        return "has a silent agent"
    if node.agent.problem:
        return f"has an agent with a problem: {node.agent.problem}"
    if node.agent.ordered is not None:
        return BUSY
    if node.agent.failure is not None and node.agent.failure.retry_seconds > 0:
        return "could not be repartitioned a moment ago"
    if node.repartitioning and node.agent.applied_seconds < node.tainted_seconds:
        return BUSY
    return ""


def managed_elsewhere(node: Node) -> bool:
    """Whether NVIDIA's mig-manager drives the node (its label, other than the value that disables it)."""
    return node.labels.get(names.MIG_CONFIG_LABEL, "all-disabled") != "all-disabled"


def geometry_of(agent: Agent) -> dict[int, Geometry]:
    """What each GPU holds, or will hold once the order under way is applied, by index."""
    return {gpu.index: gpu.geometry for gpu in agent.gpus} | dict(agent.ordered or {})


@dataclass(slots=True)
class _GpuRoom:
    """One GPU while planning: what stays (``kept``) and what may be used or destroyed (``free``)."""

    gpu: Gpu
    profiles: Mapping[str, Profile]
    before: Geometry
    kept: set[Placement] = field(default_factory=set)
    free: set[Placement] = field(default_factory=set)

    @staticmethod
    def of(gpu: Gpu, ordered: Geometry | None) -> _GpuRoom:
        fixed = {instance.placement for instance in gpu.instances if instance.fixed}
        free = {instance.placement for instance in gpu.instances if instance.state is InstanceState.FREE}
        if ordered is not None:
            free = set(ordered) - fixed
        return _GpuRoom(gpu, {profile.name: profile for profile in gpu.profiles}, gpu.geometry, fixed, free)

    def mask(self, placement: Placement) -> int:
        """The slots of a placement as bits."""
        size = self.profiles[placement.profile].size if placement.profile in self.profiles else 0
        return ((1 << size) - 1) << placement.start

    def kept_mask(self) -> int:
        return sum(self.mask(placement) for placement in self.kept)

    def worth(self) -> int:
        """What the slots outside ``kept`` could still become: larger profiles weigh more."""
        grid = tuple(sorted({(profile.size, profile.starts) for profile in self.profiles.values()}))
        return _worth(grid, self.kept_mask())

    def makeable(self, profile: str) -> Iterator[Placement]:
        """Placements of a profile that could be made by destroying free instances only.

        None where a free one of the profile already takes the last of its count: that one serves as well.
        """
        wanted = self.profiles.get(profile)
        if wanted is None or self.gpu.problem:
            return
        count = sum(placement.profile == profile for placement in self.kept | self.free)
        if count >= wanted.max_count or any(exclusive([other.profile, profile]) for other in self.kept):
            return
        taken = self.kept_mask()
        for start in wanted.starts:
            placement = Placement(start, profile)
            if placement not in self.free and not self.mask(placement) & taken:
                yield placement

    def in_the_way(self, placement: Placement) -> set[Placement]:
        """Free instances that must go for a placement: those it overlaps and those it excludes."""
        slots = self.mask(placement)
        return {
            other for other in self.free if self.mask(other) & slots or exclusive([other.profile, placement.profile])
        }

    def state(self) -> tuple[object, ...]:
        """What decides what can be done with it; GPUs of equal state are interchangeable."""
        return self.gpu.problem, self.gpu.profiles, frozenset(self.kept), frozenset(self.free)

    @property
    def after(self) -> Geometry:
        return tuple(sorted(self.kept | self.free))


@lru_cache(maxsize=100_000)
def _worth(grid: tuple[tuple[int, tuple[int, ...]], ...], taken: int) -> int:
    return sum(
        size * size * sum(1 for start in starts if not (((1 << size) - 1) << start) & taken) for size, starts in grid
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """One instance given to a pod: an existing free one, or one to be made."""

    gpu: int
    placement: Placement
    make: bool


@dataclass(frozen=True, slots=True, order=True)
class _Cost:
    """What an option costs, most important first."""

    destroyed: int
    worth_lost: int
    touched: int


@dataclass(slots=True)
class _Room:
    """One node while planning."""

    node: Node
    bound: tuple[Pod, ...]
    free: dict[str, int]
    gpus: list[_GpuRoom]
    fixed_reason: str
    unmanaged: Counter[str]
    given: list[Pod] = field(default_factory=list)
    holds: dict[str, list[_Step]] = field(default_factory=dict)

    @staticmethod
    def of(node: Node, bound: tuple[Pod, ...]) -> _Room:
        agent = node.agent
        free = fit.free_resources(node, bound)
        if agent is None or not node.enabled:
            left = Counter({name: n for name, n in node.allocatable.items() if name.startswith(names.MIG_PREFIX)})
            for pod in bound:
                left.subtract(pod.mig_request)
            return _Room(node, bound, free, [], changeable(node), left)
        ordered = agent.ordered or {}
        gpus = [_GpuRoom.of(gpu, ordered.get(gpu.index)) for gpu in agent.gpus]
        room = _Room(node, bound, free, gpus, changeable(node), Counter())
        shown = agent.held
        for pod in bound:
            promised = Counter(pod.mig_request) - Counter(shown.get(pod.key, {}))
            for resource, count in sorted(promised.items()):
                room.keep(resource, count)
        return room

    @property
    def busy(self) -> bool:
        """Whether only a change under way keeps this node from being changed."""
        return self.fixed_reason == BUSY

    def keep(self, resource: str, count: int) -> list[_Step]:
        """Let free instances of a resource stay, those first whose place costs the least; which these are."""
        kept: list[_Step] = []
        while len(kept) < count and (options := list(self.existing(resource))):
            kept.append(min(options, key=lambda step: (self.worth_lost(step), step.gpu, step.placement)))
            self.apply(kept[-1])
        return kept

    def keep_for_holders(self, waiting: Sequence[Pod]) -> None:
        """On a node under the taint: keep what pods might be bound to that the scheduler may have taken here already.

        Those are the ungated pods that it has not refused, that are nominated here, or that tolerate the taint.
        """
        if not self.node.repartitioning:
            return
        for pod in waiting:
            untried = not pod.unschedulable or pod.nominated == self.node.name or fit.tolerates_repartitioning(pod)
            if untried and not fit.unsuitable(pod, self.node):
                wanted = sorted(pod.mig_request.items())
                self.holds[pod.key] = [step for resource, count in wanted for step in self.keep(resource, count)]

    def lend(self, pod: Pod) -> None:
        """Let a pod's own turn use what is kept for it in case it is bound here."""
        for step in self.holds.get(pod.key, ()):
            self.undo(step, {step.placement})

    def hold(self, pod: Pod) -> None:
        """Keep again what was lent: the pod did not take it in its turn, and may still be bound here."""
        for step in self.holds.get(pod.key, ()):
            self.apply(step)

    def refusal(self, pod: Pod) -> str:
        """Why this node takes the pod under no geometry; "" when one might."""
        return (
            fit.unsuitable(pod, self.node)
            or fit.too_small(pod, self.free)
            or fit.ports_taken(pod, [*self.bound, *self.given])
        )

    def option(self, pod: Pod, *, change: bool) -> tuple[_Cost, tuple[_Step, ...]] | None:
        """The cheapest way to give a pod all its instances here; None when there is none."""
        if self.unmanaged or not self.gpus:
            if all(self.unmanaged[name] >= count for name, count in pod.mig_request.items()):
                return _Cost(0, 0, 0), ()
            return None
        if change and self.fixed_reason:
            return None
        needs = [resource for resource, count in pod.mig_request.items() for _ in range(count)]
        needs.sort(key=lambda resource: (-self._size(resource), resource))
        return _Search(self, needs, change=change).run()

    def take(self, pod: Pod, steps: tuple[_Step, ...]) -> tuple[tuple[int, Placement], ...]:
        """Give the pod what an option says; what has to be made for it."""
        fit.take(self.free, pod)
        self.given.append(pod)
        self.unmanaged.subtract(pod.mig_request if not self.gpus else {})
        for step in steps:
            self.apply(step)
        return tuple((self.gpus[step.gpu].gpu.index, step.placement) for step in steps if step.make)

    def changed(self) -> dict[int, Geometry]:
        """The GPUs whose geometry should be another than it is; a GPU instance without compute instance goes too."""
        if self.fixed_reason:
            return {}
        return {room.gpu.index: room.after for room in self.gpus if room.after != room.before}

    def profile_known(self, resource: str) -> bool:
        """Whether a GPU of this node can hold instances of a resource."""
        return self._size(resource) > 0 or self.unmanaged[resource] > 0

    def _size(self, resource: str) -> int:
        sizes = [p.size for room in self.gpus for p in room.profiles.values() if p.resource == resource]
        return max(sizes, default=0)

    def existing(self, resource: str) -> Iterator[_Step]:
        for position, room in enumerate(self.gpus):
            for placement in sorted(room.free):
                if names.mig_resource(placement.profile) == resource:
                    yield _Step(position, placement, make=False)

    def makeable(self, resource: str) -> Iterator[_Step]:
        for position, room in enumerate(self.gpus):
            for profile in room.profiles.values():
                if profile.resource == resource:
                    for placement in room.makeable(profile.name):
                        yield _Step(position, placement, make=True)

    def apply(self, step: _Step) -> set[Placement]:
        """Give away one instance; the free instances that go for it."""
        room = self.gpus[step.gpu]
        gone = room.in_the_way(step.placement) if step.make else {step.placement}
        room.free -= gone
        room.kept.add(step.placement)
        return gone

    def undo(self, step: _Step, gone: set[Placement]) -> None:
        room = self.gpus[step.gpu]
        room.kept.discard(step.placement)
        room.free |= gone

    def worth_lost(self, step: _Step) -> int:
        """How much the leftovers of a GPU would lose by a step."""
        room = self.gpus[step.gpu]
        before = room.worth()
        gone = self.apply(step)
        lost = before - room.worth()
        self.undo(step, gone)
        return lost


class _Search:
    """The cheapest way to give a pod several instances on one node, by depth-first search with a bound on steps."""

    def __init__(self, room: _Room, needs: Sequence[str], *, change: bool) -> None:
        self._room = room
        self._needs = needs
        self._change = change
        self._left = _SEARCH_STEPS
        self._worth = sum(gpu.worth() for gpu in room.gpus)
        self._best: tuple[_Cost, tuple[_Step, ...]] | None = None

    def run(self) -> tuple[_Cost, tuple[_Step, ...]] | None:
        self._walk([], 0)
        return self._best

    def _walk(self, steps: list[_Step], destroyed: int) -> None:
        if self._best is not None and destroyed > self._best[0].destroyed:
            return
        if len(steps) == len(self._needs):
            lost = self._worth - sum(gpu.worth() for gpu in self._room.gpus)
            cost = _Cost(destroyed, lost, len({step.gpu for step in steps if step.make}))
            if self._best is None or cost < self._best[0]:
                self._best = cost, tuple(steps)
            return
        for step in self._options(steps):
            if self._left <= 0:
                return
            self._left -= 1
            gone = self._room.apply(step)
            self._walk([*steps, step], destroyed + (len(gone) if step.make else 0))
            self._room.undo(step, gone)

    def _options(self, steps: Sequence[_Step]) -> list[_Step]:
        """Ways to meet the next need, the cheapest first; of interchangeable ones only the first."""
        room, resource = self._room, self._needs[len(steps)]
        options = list(room.existing(resource))
        if self._change:
            options += room.makeable(resource)
        touched = {step.gpu for step in steps}
        ranked = []
        seen = set()
        for step in options:
            gpu = room.gpus[step.gpu]
            alike = (gpu.state(), step.gpu in touched, step.placement, step.make)
            if alike not in seen:
                seen.add(alike)
                gone = len(gpu.in_the_way(step.placement)) if step.make else 0
                ranked.append((gone, room.worth_lost(step), step.gpu not in touched, step.gpu, step.placement, step))
        return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]


def _cheapest(pod: Pod, rooms: Iterable[_Room], *, change: bool) -> tuple[_Room, tuple[_Step, ...]] | None:
    """The node that gives a pod its instances at the least cost, the first by name among equals."""
    best: tuple[_Cost, _Room, tuple[_Step, ...]] | None = None
    for room in rooms:
        option = room.option(pod, change=change)
        if option is not None and (best is None or option[0] < best[0]):
            best = option[0], room, option[1]
    return best and best[1:]


def _why(pod: Pod, rooms: Sequence[_Room], refusals: Mapping[str, str]) -> str:
    """Why no node has room for a pod, alike nodes together."""
    wanted = ", ".join(f"{count} {resource}" for resource, count in sorted(pod.mig_request.items()))
    nodes: defaultdict[str, list[str]] = defaultdict(list)
    for room in rooms:
        unknown = [resource for resource in sorted(pod.mig_request) if not room.profile_known(resource)]
        reason = refusals[room.node.name]
        if not reason and unknown and room.gpus:
            reason = f"has no GPU that can hold {unknown[0]}"
        if not reason:
            reason = room.fixed_reason or "has no free slots for it around what is in use or promised"
        nodes[reason].append(room.node.name)
    listed = "; ".join(f"{reason} ({_listing(members)})" for reason, members in sorted(nodes.items()))
    return f"no node has room for {wanted}: {listed or 'the cluster has no nodes'}"


def _listing(members: Sequence[str]) -> str:
    shown = ", ".join(members[:3])
    return shown if len(members) <= 3 else f"{shown} and {len(members) - 3} more"
