"""Nodes and GPUs while planning: what must stay, what may be used or destroyed, and the cheapest way to serve one pod.

A room is the only mutable thing of the planner: made from the snapshot, thrown away after the plan that has changed it.
It knows nothing of other rooms and decides nothing about who comes first. What follows from a node and its bound pods
alone is found once for all plans in a row that see the same objects; a room copies its GPUs when it is first asked for
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple, overload

from brain.decide import eligibility, fit
from brain.decide.grid import Grid, grid
from brain.model.mig import Geometry, Gpu, InstanceState, Placement, Profile
from brain.model.node import Node, Taint
from brain.model.pod import Pod
from n8s import names

SEARCH_STEPS: Final = 2_000
"""Steps of the search for one pod on one node; enough for eight instances over eight GPUs in every case seen."""


@dataclass(slots=True)
class GpuRoom:
    """One GPU while planning.

    Attributes:
        gpu: the GPU.
        grid: what its model can hold; ``before``, ``kept`` and ``free`` are sets of its placements.
        before: what is there, or will be once the order under way is applied.
        kept: what stays.
        free: what may be used or destroyed.
        broken: whether it holds an instance that nobody can use.
    """

    gpu: Gpu
    grid: Grid
    before: int
    kept: int
    free: int
    broken: bool

    @staticmethod
    def of(gpu: Gpu, grid: Grid, ordered: Geometry | None) -> GpuRoom:
        """The GPU as it is, or as it will be once the order under way is applied."""
        before = kept = 0
        broken = False
        for instance in gpu.instances:
            state = instance.state
            if state is InstanceState.BROKEN:
                broken = True
                continue
            bit = grid.bit(instance)
            before |= bit
            if state is not InstanceState.FREE:
                kept |= bit
        if ordered is not None:
            before = sum(grid.bit_of(placement) for placement in ordered)
        return GpuRoom(gpu, grid, before, kept, before & ~kept, broken)

    @property
    def worth(self) -> int:
        """What the slots outside ``kept`` could still become: larger profiles weigh more."""
        return self.grid.worth(self.kept)

    def existing(self, resource: str) -> int:
        """Free instances of a resource."""
        return self.free & self.grid.by_resource.get(resource, 0)

    def makeable(self, resource: str) -> int:
        """Placements of a resource that could be made by destroying free instances only.

        None where a free one of the profile already takes the last of its count: that one serves as well.
        """
        if self.gpu.problem:
            return 0
        stays = self.grid.blocked(self.kept) | self.grid.full(self.kept | self.free) | self.kept | self.free
        return self.grid.by_resource.get(resource, 0) & ~stays

    def in_the_way(self, chosen: int) -> int:
        """Free instances that must go for chosen placements: those they overlap and those they exclude."""
        return self.grid.gone(self.kept, self.free, chosen)

    @property
    def state(self) -> tuple[object, ...]:
        """What decides what can be done with it; GPUs of equal state are interchangeable."""
        return self.grid, self.gpu.problem, self.kept, self.free

    @property
    def after(self) -> Geometry:
        """What the GPU holds in the plan."""
        return self.grid.geometry(self.kept | self.free)


class Step(NamedTuple):
    """One instance given to a pod: an existing free one, or one to be made.

    Attributes:
        gpu: the GPU, by position.
        chosen: the placement, as a set of its grid.
        make: whether it has to be made.
    """

    gpu: int
    chosen: int
    make: bool


class Content(NamedTuple):
    """What GPUs can give; those of equal contents on nodes that are alike are interchangeable.

    Attributes:
        grid: their model.
        problem: what keeps them from being changed.
        kept: what stays.
        free: free instances.
    """

    grid: Grid
    problem: str
    kept: int
    free: int


class _Known(NamedTuple):
    """What follows from the contents of a GPU; the same object for most GPUs of equal contents.

    Attributes:
        content: its contents.
        gives: the resources of which it can give an instance.
        slots: the slots that nothing has which must stay; 0 where it cannot be changed.
        piece: how many of these lie in one piece, at most.
    """

    content: Content
    gives: frozenset[str]
    slots: int
    piece: int


class Look(NamedTuple):
    """What a node is told apart by when a pod has no room there; its labels aside.

    Attributes:
        free: what it has left, MIG devices aside.
        slots: see :attr:`Room.open_slots`; None where nothing is known of its GPUs.
        piece: how many of these lie in one piece, at most.
        sizes: the slots of what its GPUs can hold, by resource.
        fixed_reason: why its GPUs cannot be changed now.
        problem: what is wrong with its GPUs where none can be partitioned.
        ready: see :class:`~brain.model.node.Node`, as the next two.
        unschedulable: whether it is cordoned.
        taints: its taints.
    """

    free: tuple[tuple[str, int], ...]
    slots: int | None
    piece: int
    sizes: tuple[tuple[str, int], ...]
    fixed_reason: str
    problem: str
    ready: bool
    unschedulable: bool
    taints: tuple[Taint, ...]


class Gpus(Sequence[GpuRoom]):
    """The GPUs of a node as the snapshot shows them, copied for a plan when it first asks for one.

    Attributes:
        shown: what is known of the node until then; None afterwards, when they may have changed.
    """

    __slots__ = ("_gpus", "shown")

    def __init__(self, shown: Shown) -> None:
        self.shown: Shown | None = shown
        self._gpus = shown.room.gpus

    def __len__(self) -> int:
        return len(self._gpus)

    def __iter__(self) -> Iterator[GpuRoom]:
        return iter(self._own())

    @overload
    def __getitem__(self, index: int) -> GpuRoom: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[GpuRoom]: ...
    def __getitem__(self, index: int | slice) -> GpuRoom | Sequence[GpuRoom]:
        return self._own()[index]

    def _own(self) -> Sequence[GpuRoom]:
        if self.shown is not None:
            self.shown = None
            self._gpus = [GpuRoom(g.gpu, g.grid, g.before, g.kept, g.free, g.broken) for g in self._gpus]
        return self._gpus


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """What an option costs, most important first."""

    destroyed: int
    worth_lost: int
    touched: int


@dataclass(slots=True)
class Room:
    """One node while planning."""

    node: Node
    bound: tuple[Pod, ...]
    free: dict[str, int]
    gpus: Sequence[GpuRoom]
    fixed_reason: str
    unmanaged: Counter[str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    given: list[Pod] = field(default_factory=list)
    holds: dict[str, list[Step]] = field(default_factory=dict)

    @staticmethod
    def of(node: Node, bound: tuple[Pod, ...], grids: Grids) -> Room:
        """The node as it is; free instances that its bound pods were promised stay."""
        agent = node.agent
        free = fit.free_resources(node, bound)
        unshown = eligibility.unshown(node)
        if agent is None or not node.enabled or unshown:
            devices = {} if unshown == eligibility.SHOWS_GONE else node.allocatable
            left = Counter({name: n for name, n in devices.items() if name.startswith(names.MIG_PREFIX)})
            for pod in bound:
                left.subtract(pod.mig_request)
            return Room(node, bound, free, [], unshown or eligibility.fixed(node), left)
        ordered = agent.ordered or {}
        gpus = [GpuRoom.of(gpu, grids.of(gpu.profiles), ordered.get(gpu.index)) for gpu in agent.gpus]
        room = Room(node, bound, free, gpus, eligibility.fixed(node), Counter(), _sizes(gpus))
        promised = [pod for pod in bound if pod.mig_request]
        shown = agent.held_in_reach if promised else {}
        for pod in promised:
            missing = Counter(pod.mig_request) - Counter(shown.get(pod.key, {}))
            for resource, count in sorted(missing.items()):
                room.keep(resource, count)
        return room

    @property
    def untouched(self) -> Shown | None:
        """What is known of the node while this plan has not asked for its GPUs; None once it has."""
        return getattr(self.gpus, "shown", None)

    @property
    def pristine(self) -> bool:
        """Whether no plan has done anything with it."""
        return not self.given and not self.holds and self.untouched is not None

    @property
    def settled(self) -> bool:
        """Whether this plan has not asked for its GPUs, and would not change them."""
        untouched = self.untouched
        return untouched is not None and not untouched.broken

    @property
    def known(self) -> list[_Known]:
        """What follows from the contents of each of its GPUs."""
        change = not self.fixed_reason
        return [
            _known(gpu.grid, gpu.gpu.problem, gpu.kept, gpu.free, gpu.gpu.slots, change=change) for gpu in self.gpus
        ]

    @property
    def contents(self) -> Mapping[int, Content]:
        """Its GPUs that can give something, by position."""
        untouched = self.untouched
        return _contents(self.known) if untouched is None else untouched.contents

    @property
    def standing(self) -> Counter[str]:
        """How many free instances of each resource its GPUs have."""
        found: Counter[str] = Counter()
        for content in self.contents.values():
            for resource, count in _standing(content.grid, content.free):
                found[resource] += count
        return found

    @property
    def open_slots(self) -> int:
        """The slots, of its GPUs that can be changed, that nothing has which must stay."""
        untouched = self.untouched
        return _open_slots(self.known) if untouched is None else untouched.open_slots

    @property
    def look(self) -> Look:
        """What tells it apart from other nodes where a pod has no room; mostly the same object for equal ones."""
        untouched = self.untouched
        return _look(self, self.known) if untouched is None or not untouched.room.gpus else untouched.look

    @property
    def gives(self) -> frozenset[str]:
        """The resources of which its GPUs can give an instance, if nothing else is asked of them."""
        untouched = self.untouched
        return _gives(self.known) if untouched is None else untouched.gives

    @property
    def slots(self) -> int:
        """The slots of its GPUs."""
        untouched = self.untouched
        return _slots(self.gpus) if untouched is None else untouched.slots

    @property
    def busy(self) -> bool:
        """Whether only a change under way keeps this node from being changed."""
        return self.fixed_reason == eligibility.BUSY

    def keep(self, resource: str, count: int) -> list[Step]:
        """Let free instances of a resource stay, those first whose place costs the least; which these are."""
        kept: list[Step] = []
        while len(kept) < count and (options := list(self.existing(resource))):
            # First what nobody could change anyway.
            kept.append(
                min(
                    options,
                    key=lambda step: (
                        not self.gpus[step.gpu].gpu.problem,
                        self.worth_lost(step),
                        step.gpu,
                        step.chosen,
                    ),
                )
            )
            self.apply(kept[-1])
        return kept

    def keep_for_holder(self, pod: Pod) -> None:
        """Keep what a pod takes if it is bound here."""
        if not fit.unsuitable(pod, self.node):
            wanted = sorted(pod.mig_request.items())
            steps = [step for resource, count in wanted for step in self.keep(resource, count)]
            if steps:
                self.holds[pod.key] = steps

    def lend(self, pod: Pod) -> None:
        """Let a pod's own turn use what is kept for it in case it is bound here."""
        for step in self.holds.get(pod.key, ()):
            self.undo(step, step.chosen)

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

    def suits(self, pod: Pod) -> bool:
        """Whether the pod may come here once its instances are there, and they can be."""
        return self.knows(pod) and not self.refusal(pod)

    def option(self, pod: Pod, *, change: bool) -> tuple[Cost, tuple[Step, ...]] | None:
        """The cheapest way to give a pod all its instances here; None when there is none."""
        if self.unmanaged or not self.gpus:
            if all(self.unmanaged[name] >= count for name, count in pod.mig_request.items()):
                return Cost(0, 0, 0), ()
            return None
        if change and self.fixed_reason:
            return None
        needs = [resource for resource, count in pod.mig_request.items() for _ in range(count)]
        needs.sort(key=lambda resource: (-self.sizes.get(resource, 0), resource))
        return _Search(self, needs, change=change).run()

    def take(self, pod: Pod, steps: tuple[Step, ...]) -> tuple[tuple[int, Placement], ...]:
        """Give the pod what an option says; what has to be made for it."""
        fit.take(self.free, pod)
        self.given.append(pod)
        self.unmanaged.subtract(pod.mig_request if not self.gpus else {})
        for step in steps:
            self.apply(step)
        return self.made(steps)

    def give_back(self, pod: Pod, steps: Sequence[Step]) -> None:
        """Undo :meth:`take`; what was to go for the pod stays lost until :meth:`restore`."""
        fit.give_back(self.free, pod)
        self.given.remove(pod)
        if not self.gpus:
            self.unmanaged.update(pod.mig_request)
        for step in steps:
            room = self.gpus[step.gpu]
            room.kept &= ~step.chosen
            room.free |= step.chosen & room.before

    def restore(self) -> None:
        """Let free instances stay that were to go for somebody who has gone elsewhere."""
        for room in self.gpus:
            for one in single(room.before & ~(room.kept | room.free)):
                if not one & (room.grid.blocked(room.kept | room.free) | room.grid.full(room.kept | room.free)):
                    room.free |= one

    def made(self, steps: Sequence[Step]) -> tuple[tuple[int, Placement], ...]:
        """What of some steps does not exist yet: GPU index and placement."""
        gpus = self.gpus
        if len(steps) == 1:
            index, chosen, _ = steps[0]
            room = gpus[index]
            return () if chosen & room.before else room.grid.on_gpu(room.gpu.index, chosen)
        found: list[tuple[int, Placement]] = []
        for step in steps:
            found += self.made((step,))
        return tuple(found)

    def discard_unused(self) -> None:
        """Plan no instance that nobody gets: of what is free in the plan, only what exists stays."""
        if self.untouched is None:
            for room in self.gpus:
                room.free &= room.before

    def changed(self) -> dict[int, Geometry]:
        """The GPUs whose geometry should be another than it is; a GPU instance without compute instance goes too."""
        if self.fixed_reason or self.settled:
            return {}
        return {
            gpu.gpu.index: gpu.after
            for gpu in self.gpus
            if not gpu.gpu.problem and (gpu.broken or gpu.kept | gpu.free != gpu.before)
        }

    def knows(self, pod: Pod) -> bool:
        """Whether this node has, or can have, devices of each resource that the pod asks for."""
        return not self.unknown(pod)

    def unknown(self, pod: Pod) -> list[str]:
        """The devices that the pod asks for and that no GPU of this node can hold."""
        return [name for name in sorted(pod.mig_request) if name not in self.sizes and self.unmanaged[name] <= 0]

    def existing(self, resource: str) -> Iterator[Step]:
        """Free instances of a resource."""
        for position, room in enumerate(self.gpus):
            for chosen in single(room.existing(resource)):
                yield Step(position, chosen, make=False)

    def makeable(self, resource: str) -> Iterator[Step]:
        """Instances of a resource that could be made."""
        for position, room in enumerate(self.gpus):
            for chosen in single(room.makeable(resource)):
                yield Step(position, chosen, make=True)

    def apply(self, step: Step) -> int:
        """Give away one instance; the free instances that go for it."""
        room = self.gpus[step.gpu]
        gone = room.in_the_way(step.chosen) if step.make else step.chosen
        room.free &= ~gone
        room.kept |= step.chosen
        return gone

    def undo(self, step: Step, gone: int) -> None:
        """Take a step back; ``gone`` is what it returned."""
        room = self.gpus[step.gpu]
        room.kept &= ~step.chosen
        room.free |= gone

    def worth_lost(self, step: Step) -> int:
        """How much the leftovers of a GPU would lose by a step."""
        room = self.gpus[step.gpu]
        before = room.worth
        gone = self.apply(step)
        lost = before - room.worth
        self.undo(step, gone)
        return lost


def single(chosen: int) -> Iterator[int]:
    """The members of a set, each as a set of its own."""
    while chosen:
        low = chosen & -chosen
        yield low
        chosen ^= low


class Grids:
    """The grids of one plan: GPUs of a model mostly share their profiles, and comparing those takes long."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[Profile, ...], Grid]] = {}

    def of(self, profiles: tuple[Profile, ...]) -> Grid:
        """The grid of the model that has these profiles."""
        known = self._known.get(id(profiles))
        if known is None:
            known = self._known[id(profiles)] = profiles, grid(profiles)
        return known[1]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A node as a snapshot shows it; nothing here changes.

    Attributes:
        room: the node while planning, before any plan.
        contents: see :attr:`Room.contents`.
        open_slots: see :attr:`Room.open_slots`.
        slots: the slots of its GPUs.
        gives: see :attr:`Room.gives`.
        look: see :attr:`Room.look`.
        broken: whether a GPU holds an instance that nobody can use.
    """

    room: Room
    contents: Mapping[int, Content]
    open_slots: int
    slots: int
    gives: frozenset[str]
    look: Look
    broken: bool

    @staticmethod
    def of(node: Node, bound: tuple[Pod, ...], grids: Grids) -> Shown:
        """Of a node and its bound pods."""
        room = Room.of(node, bound, grids)
        gpus, known = room.gpus, room.known
        broken = any(gpu.broken for gpu in gpus)
        look = _look(room, known)
        return Shown(room, _contents(known), look.slots or 0, _slots(gpus), _gives(known), look, broken)

    def copy(self) -> Room:
        """The node for one plan."""
        room = self.room
        free, gpus = dict(room.free), Gpus(self)
        unmanaged = room.unmanaged if room.gpus else room.unmanaged.copy()
        return Room(room.node, room.bound, free, gpus, room.fixed_reason, unmanaged, room.sizes)


class _Last:
    """The nodes of the last plan, by name, with the rooms that can be lent again.

    No more is kept than one snapshot shows.
    """

    lent: ClassVar[dict[str, tuple[Shown, Room | None]]] = {}


def rooms_of(nodes: Iterable[Node], bound: Mapping[str, tuple[Pod, ...]]) -> list[Room]:
    """The rooms of nodes with their bound pods, until this is called again: what is as it was then is lent again."""
    grids = Grids()
    last = _Last.lent
    found: dict[str, tuple[Shown, Room | None]] = {}
    rooms = []
    for node in nodes:
        name = node.name
        pods = bound.get(name, ())
        shown, room = last.get(name, (None, None))
        if shown is None or shown.room.node is not node or shown.room.bound is not pods:
            shown, room = Shown.of(node, pods, grids), None
        if room is None or not room.pristine:
            room = shown.copy()
        found[name] = shown, room
        rooms.append(room)
    _Last.lent = found
    return rooms


def forget_changed() -> None:
    """Let go of the rooms that a plan has changed: nobody asks for them again, and the collector need not see them."""
    for name, (shown, room) in _Last.lent.items():
        if room is not None and not room.pristine:
            _Last.lent[name] = shown, None  # one by one: to free all at once holds up all other threads


@lru_cache(maxsize=50_000)
def _known(grid: Grid, problem: str, kept: int, free: int, slots: int, *, change: bool) -> _Known:
    taken = grid.slots(kept)
    left, piece = (0, 0) if problem else (slots - taken.bit_count(), _piece(slots, taken))
    return _Known(
        Content(grid, problem, kept, free), grid.gives(kept, free, change=change and not problem), left, piece
    )


@lru_cache(maxsize=50_000)
def _standing(grid: Grid, free: int) -> tuple[tuple[str, int], ...]:
    """By resource that has any, how many of some placements are of it."""
    return tuple((name, (own & free).bit_count()) for name, own in grid.by_resource.items() if own & free)


def _contents(known: Iterable[_Known]) -> Mapping[int, Content]:
    return {position: each.content for position, each in enumerate(known) if each.gives}


def _look(room: Room, known: Sequence[_Known]) -> Look:
    node, agent, slots = room.node, room.node.agent, _open_slots(known) if known else None
    problems = [gpu.problem for gpu in agent.gpus] if agent is not None and not slots else []
    problem = problems[0] if problems and all(problems) else ""
    free, sizes = tuple(sorted(room.free.items())), _same_sizes(tuple(room.sizes.items()))
    piece = max([each.piece for each in known], default=0)
    return _same(
        Look(free, slots, piece, sizes, room.fixed_reason, problem, node.ready, node.unschedulable, node.taints)
    )


@lru_cache(maxsize=50_000)
def _same(look: Look) -> Look:
    """The same object for equal ones, as long as it is remembered: no result depends on that."""
    return look


@lru_cache(maxsize=1_000)
def _same_sizes(sizes: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """As :func:`_same`, of sizes by resource: those of a model are few."""
    return sizes


def _piece(slots: int, taken: int) -> int:
    """The longest run of slots, of so many, that are not taken."""
    free = "".join("01"[not taken >> slot & 1] for slot in range(slots))
    return max(map(len, free.split("0")))


def _open_slots(known: Iterable[_Known]) -> int:
    return sum([each.slots for each in known])


def _gives(known: Iterable[_Known]) -> frozenset[str]:
    return frozenset[str]().union(*[each.gives for each in known])


def _slots(gpus: Iterable[GpuRoom]) -> int:
    return sum(gpu.gpu.slots for gpu in gpus)


def _sizes(gpus: Sequence[GpuRoom]) -> Mapping[str, int]:
    """Slots by resource, over the models of a node's GPUs."""
    models = list(dict.fromkeys(room.grid for room in gpus))
    if len(models) == 1:
        return models[0].sizes
    return {resource: size for model in models for resource, size in model.sizes.items()}


class _Search:
    """The cheapest way to give a pod several instances on one node, by depth-first search with a bound on steps."""

    def __init__(self, room: Room, needs: Sequence[str], *, change: bool) -> None:
        self._room = room
        self._needs = needs
        self._change = change
        self._left = SEARCH_STEPS
        self._worth = sum(gpu.worth for gpu in room.gpus)
        self._best: tuple[Cost, tuple[Step, ...]] | None = None

    def run(self) -> tuple[Cost, tuple[Step, ...]] | None:
        self._walk([], 0)
        return self._best

    def _walk(self, steps: list[Step], destroyed: int) -> None:
        if self._best is not None and destroyed > self._best[0].destroyed:
            return
        if len(steps) == len(self._needs):
            lost = self._worth - sum(gpu.worth for gpu in self._room.gpus)
            cost = Cost(destroyed, lost, len({step.gpu for step in steps if step.make}))
            if self._best is None or cost < self._best[0]:
                self._best = cost, tuple(steps)
            return
        for step in self._options(steps):
            if self._left <= 0:
                return
            self._left -= 1
            gone = self._room.apply(step)
            self._walk([*steps, step], destroyed + (gone.bit_count() if step.make else 0))
            self._room.undo(step, gone)

    def _options(self, steps: Sequence[Step]) -> list[Step]:
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
            alike = (gpu.state, step.gpu in touched, step.chosen, step.make)
            if alike not in seen:
                seen.add(alike)
                gone = gpu.in_the_way(step.chosen).bit_count() if step.make else 0
                ranked.append((gone, room.worth_lost(step), step.gpu not in touched, step.gpu, step.chosen, step))
        return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]
