"""Gives a large cluster's GPUs to its pods, kind by kind, each instance where it costs the least.

A deal can be thrown away: it works on copies, and nothing of a room changes before :meth:`Deal.settle`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from brain.decide import fit
from brain.decide.cards import Card, Stacks, State
from brain.decide.fillings import DESTROYED, MADE
from brain.decide.grid import Grid
from brain.decide.kinds import Kind
from brain.decide.rooms import Room, Step, single
from brain.model.mig import Placement
from brain.model.pod import Pod

_TRIES: Final = 64
"""Steps of the search for one pod's instances on one node."""
_FREED_AT_ONCE: Final = 1_000
"""Served pods that are forgotten without a break."""
ANYTHING: Final = 1 << 60
"""More than any instance costs."""
GENTLE: Final = (MADE, DESTROYED, ANYTHING)
"""What an instance of a pod with several may cost, sweep by sweep: nothing made; nothing destroyed; anything."""


_Made = tuple[tuple[int, Placement], ...]


class Given(NamedTuple):
    """What one pod gets: a node, and there some instances.

    Attributes:
        pod: the pod.
        room: the node.
        steps: the instances.
        made: those that must be made: GPU index and placement.
    """

    pod: Pod
    room: Room
    steps: tuple[Step, ...]
    made: _Made


class Deal:
    """Pods served so far.

    Attributes:
        left: how many pods of each kind, by position, are not served.
        served_at: the pods that are, each as its kind with its node.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        units: Mapping[str, int],
        stacks: Stacks,
        nodes: Sequence[Sequence[tuple[Room, list[Card]]]],
    ) -> None:
        """Of kinds of pods, the unit of load of each resource, and by site the nodes with their GPUs."""
        self.left = [len(kind.pods) for kind in kinds]
        self._kinds = kinds
        self._asks = [kind.asks for kind in kinds]
        self._units = units
        self._stacks = stacks
        self._nodes = nodes
        self._cards = {id(room): cards for site in nodes for room, cards in site}
        self._free = {id(room): dict(room.free) for site in nodes for room, _ in site}
        self._ports: defaultdict[int, list[Pod]] = defaultdict(list)
        self.served_at: list[tuple[int, Room]] = []

    @property
    def served(self) -> int:
        """How many pods are served."""
        return len(self.served_at)

    def by_priority(self) -> list[int]:
        """How many pods are served of each priority, the highest first."""
        found: defaultdict[int, int] = defaultdict(int)
        for kind, left in zip(self._kinds, self.left, strict=True):
            found[-kind.sample.priority] += len(kind.pods) - left
        return [count for _, count in sorted(found.items())]

    @property
    def makes(self) -> bool:
        """Whether it takes an instance that does not exist."""
        return any(state.table.best(state.free, state.load)[1] & ~state.free for state in self._states())

    def existing(self) -> Counter[str]:
        """How many free instances of each resource there are."""
        found: Counter[str] = Counter()
        for state, cards in self._states().items():
            for name in self._units:
                found[name] += cards * (state.free & state.table.grid.by_resource.get(name, 0)).bit_count()
        return found

    def free(self, room: Room) -> Mapping[str, int]:
        """What a node has left."""
        return self._free[id(room)]

    def serve(
        self,
        kinds: Sequence[int],
        sites: Sequence[int],
        quotas: dict[tuple[int, int], int] | None = None,
        sweeps: Sequence[int] = GENTLE,
    ) -> None:
        """Serve pods of kinds that ask for the same devices.

        Args:
            kinds: the kinds, in the order of their turns.
            sites: the nodes that they may run on.
            quotas: how many of a kind a site gets at most; None for as many as find room.
            sweeps: what each instance of a pod with several must cost less than, sweep by sweep over the nodes.
        """
        needs = self._needs(kinds[0], sites)
        if quotas is None:
            self._run({kind: self.left[kind] for kind in kinds}, needs, sites, sweeps)
            return
        for site in sites:
            most = {kind: min(self.left[kind], quotas.get((kind, site), 0)) for kind in kinds}
            if any(most.values()):
                before = [self.left[kind] for kind in kinds]
                self._run(most, needs, [site], sweeps)
                for kind, left in zip(kinds, before, strict=True):
                    if left > self.left[kind]:
                        quotas[kind, site] -= left - self.left[kind]

    def makeable(self, kind: int, site: int) -> list[Room]:
        """Nodes of a site whose GPUs could give a pod of a kind all that it asks for, whatever else they lack."""
        needs = self._needs(kind, [site])
        able = self._able(site, needs, ANYTHING)
        return [room for room, cards in self._nodes[site] if id(room) in able and self._find(cards, needs, ANYTHING)]

    def place(self, kind: int, site: int, room: Room) -> bool:
        """Serve one pod of a kind on a node of a site, if it has room."""
        cards = self._cards[id(room)]
        moves = self._find(cards, self._needs(kind, [site]), ANYTHING) if self._fits(kind, room) else None
        if moves is None:
            return False
        for card, state in moves:
            self._stacks.push(card, state)
        self._take(kind, room)
        return True

    def take_back(self, rooms: Sequence[Room]) -> None:
        """Serve nobody on some nodes; from then on pods can be placed one by one only."""
        gone = set(map(id, rooms))
        served, self.served_at = self.served_at, []
        for kind, room in served:
            if id(room) in gone:
                self.left[kind] += 1
            else:
                self.served_at.append((kind, room))
        for room in rooms:
            self._free[id(room)] = dict(room.free)
            self._ports.pop(id(room), None)
            for card in self._cards[id(room)]:
                state = card.state
                card.state = self._stacks.state(state.site, state.table, state.free, state.limit, 0)

    def exchange(self, first: int, second: int) -> bool:
        """Let two served pods, by number, change places, if both fit; they must ask for the same devices."""
        (kind, room), (other, there) = self.served_at[first], self.served_at[second]
        if self._kinds[kind].sample.host_ports:
            return False
        more = dict(self._asks[kind])
        for name, value in self._asks[other]:
            more[name] = more.get(name, 0) - value
        here, beyond = self._free[id(room)], self._free[id(there)]
        if any(beyond.get(name, 0) < value or here.get(name, 0) < -value for name, value in more.items() if value):
            return False
        for name, value in more.items():
            here[name] = here.get(name, 0) + value
            beyond[name] = beyond.get(name, 0) - value
        self.served_at[first], self.served_at[second] = (kind, there), (other, room)
        return True

    def settle(self) -> Iterator[Given]:
        """Fill the rooms' GPUs at the least cost; what each pod gets, by kind and rank."""
        pools: dict[int, _Pool] = {}
        parts: dict[tuple[int, int, int], _Part] = {}
        given = {id(room) for _, room in self.served_at}
        for site in self._nodes:
            for room, cards in site:
                if id(room) in given:
                    pools[id(room)] = _filled(room, cards, parts)
                    room.free = self._free[id(room)]
        turns = [iter(kind.pods) for kind in self._kinds]
        devices = [[name for name, n in kind.sample.mig_request.items() for _ in range(n)] for kind in self._kinds]
        for kind, room in self.served_at:
            pod = next(turns[kind])
            pool = pools[id(room)]
            first, *others = devices[kind]
            step, made = pool[first].pop()
            steps: tuple[Step, ...] = (step,)
            for name in others:
                step, more = pool[name].pop()
                steps, made = (*steps, step), (*made, *more)
            room.given.append(pod)
            yield Given(pod, room, steps, made)
        self.clear()

    def clear(self) -> None:
        """Throw the deal away, little by little: to free all at once holds up all other threads."""
        self._stacks.clear()
        for site in self._nodes:
            for _, cards in site:
                cards.clear()
        while self.served_at:
            del self.served_at[-_FREED_AT_ONCE:]

    def _states(self) -> Counter[State]:
        """How many GPUs are in each state."""
        return Counter(card.state for site in self._nodes for _, cards in site for card in cards)

    def _needs(self, kind: int, sites: Sequence[int]) -> list[int]:
        """The instances that a pod asks for, each as a unit of load, the largest first."""
        devices = self._kinds[kind].sample.mig_request
        sizes = next((room.sizes for site in sites for room, _ in self._nodes[site]), {})
        ranked = sorted(devices, key=lambda name: (-sizes.get(name, 0), name))
        return [self._units[name] for name in ranked for _ in range(devices[name])]

    def _run(self, most: dict[int, int], needs: Sequence[int], sites: Sequence[int], sweeps: Sequence[int]) -> None:
        if len(needs) == 1:
            self._singles(most, needs[0], sites)
        else:
            for limit in sweeps:
                self._several(most, needs, sites, limit)

    def _singles(self, most: dict[int, int], unit: int, sites: Sequence[int]) -> None:
        queue: list[tuple[int, int, State, State]] = []
        queued: set[int] = set()

        def enqueue(state: State) -> None:
            if state.order not in queued:
                queued.add(state.order)
                move = self._stacks.move(state, unit)
                if move is not None:
                    heapq.heappush(queue, (move[0], state.order, state, move[1]))

        for site in sites:
            for state in list(self._stacks.by_site[site]):
                if state.cards:
                    enqueue(state)
        for kind, wanted in most.items():
            left = wanted
            aside: list[Card] = []
            full: set[int] = set()
            while left and queue:
                _, order, state, after = queue[0]
                cards = state.cards
                while cards and cards[-1].state is not state:
                    cards.pop()
                if not cards:
                    heapq.heappop(queue)
                    queued.discard(order)
                    continue
                card = cards.pop()
                room = card.room
                if id(room) in full or not self._fits(kind, room):
                    full.add(id(room))
                    aside.append(card)
                    continue
                self._stacks.push(card, after)
                enqueue(after)
                self._take(kind, room)
                left -= 1
            for card in reversed(aside):
                card.state.cards.append(card)
                enqueue(card.state)

    def _several(self, most: dict[int, int], needs: Sequence[int], sites: Sequence[int], limit: int) -> None:
        for site in sites:
            if not any(most.values()):
                return
            able = self._able(site, needs, limit)
            for room, cards in self._nodes[site]:
                if id(room) not in able:
                    continue
                waiting = [kind for kind, wanted in most.items() if wanted]
                if not waiting:
                    return
                full = False  # then for all kinds: they ask for the same devices
                for kind in waiting:
                    while not full and most[kind] and self._fits(kind, room):
                        moves = self._find(cards, needs, limit)
                        if moves is None:
                            full = True
                            break
                        for card, state in moves:
                            self._stacks.push(card, state)
                        self._take(kind, room)
                        most[kind] -= 1

    def _able(self, site: int, needs: Sequence[int], limit: int) -> set[int]:
        """Nodes whose GPUs may have all that a pod needs: of each resource enough, taken by itself."""
        able: set[int] | None = None
        for unit, count in Counter(needs).items():
            found: defaultdict[int, int] = defaultdict(int)
            for state in list(self._stacks.by_site[site]):
                more = self._more(state, unit, count, limit) if state.cards else 0
                if more:
                    for card in state.cards:
                        if card.state is state:
                            found[id(card.room)] += more
            enough = {room for room, more in found.items() if more >= count}
            able = enough if able is None else able & enough
        return able or set()

    def _more(self, state: State, unit: int, count: int, limit: int) -> int:
        """How many more instances a GPU can give, up to a count, none of which costs as much as a limit."""
        for more in range(count):
            move = self._stacks.move(state, unit)
            if move is None or move[0] >= limit:
                return more
            state = move[1]
        return count

    def _find(self, cards: Sequence[Card], needs: Sequence[int], limit: int) -> list[tuple[Card, State]] | None:
        """Instances for one pod on one node, each where it costs the least; the GPUs with where they lead."""
        states = [card.state for card in cards]
        if not self._walk(states, needs, limit, iter(range(_TRIES))):
            return None
        return [(card, state) for card, state in zip(cards, states, strict=True) if state is not card.state]

    def _walk(self, states: list[State], needs: Sequence[int], limit: int, tries: Iterator[int]) -> bool:
        """Meet needs with GPUs in some states, and leave in ``states`` where that leads; whether it was possible."""
        if not needs:
            return True
        options: dict[int, tuple[int, int, State]] = {}
        for position, state in enumerate(states):
            if state.order not in options:
                move = self._stacks.move(state, needs[0])
                if move is not None and move[0] < limit:
                    options[state.order] = (move[0], position, move[1])
        for _, position, after in sorted(options.values(), key=lambda option: option[:2]):
            if next(tries, None) is None:
                return False
            before, states[position] = states[position], after
            if self._walk(states, needs[1:], limit, tries):
                return True
            states[position] = before
        return False

    def _fits(self, kind: int, room: Room) -> bool:
        free = self._free[id(room)]
        for name, value in self._asks[kind]:
            if free.get(name, 0) < value:
                return False
        sample = self._kinds[kind].sample
        return not sample.host_ports or not fit.ports_taken(sample, [*room.bound, *room.given, *self._ports[id(room)]])

    def _take(self, kind: int, room: Room) -> None:
        free = self._free[id(room)]
        for name, value in self._asks[kind]:
            free[name] -= value
        if self._kinds[kind].sample.host_ports:
            self._ports[id(room)].append(self._kinds[kind].sample)
        self.left[kind] -= 1
        self.served_at.append((kind, room))


_Pool = dict[str, list[tuple[Step, _Made]]]
"""By resource, the instances that a node gives, each with itself where it must be made."""


class _Part(NamedTuple):
    """What the load of a state consists of, on a GPU.

    Attributes:
        chosen: the set of instances.
        gone: free instances that go for it.
        instances: each with its resource; those to be made first.
    """

    chosen: int
    gone: int
    instances: tuple[tuple[str, tuple[Step, _Made]], ...]

    @staticmethod
    def of(state: State, grid: Grid, position: int, index: int) -> _Part:
        """The part of a state on the GPU of a model, position and index."""
        _, chosen = state.table.best(state.free, state.load)
        instances = [
            (
                grid.profiles[grid.places[one.bit_length() - 1].profile].resource,
                (Step(position, one, make=not one & state.free), grid.on_gpu(index, one)),
            )
            for one in single(chosen)
        ]
        instances.sort(key=lambda each: not each[1][0].make)
        return _Part(chosen, grid.gone(state.table.kept, state.free, chosen) | chosen, tuple(instances))


def _filled(room: Room, cards: Sequence[Card], parts: dict[tuple[int, int, int], _Part]) -> _Pool:
    """Put the loads of a node's GPUs into them; the instances by resource, those that exist last."""
    pool: _Pool = {}
    exist: list[tuple[str, tuple[Step, _Made]]] = []
    gpus = list(room.gpus)
    for card in cards:
        state, position = card.state, card.position
        if state.load:
            gpu = gpus[position]
            known = (state.order, position, gpu.gpu.index)
            part = parts.get(known)
            if part is None:
                part = parts[known] = _Part.of(state, gpu.grid, position, gpu.gpu.index)
            gpu.free &= ~part.gone
            gpu.kept |= part.chosen
            for resource, each in part.instances:
                step = each[0]
                given = (step, ()) if step.chosen & gpu.before else each
                if not step.make:
                    exist.append((resource, given))
                elif resource in pool:
                    pool[resource].append(given)
                else:
                    pool[resource] = [given]
    for resource, given in exist:
        pool.setdefault(resource, []).append(given)
    return pool
