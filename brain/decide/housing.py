"""Who has room of those whose quota lets them pass: the planner's word for MIG devices, the nodes' for the rest.

What the scheduler may bind at any moment, or keeps room for, has its room before them; what somebody gets once pods
have gone is not theirs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from itertools import islice
from typing import Final

from brain.decide.entitlement import passes
from brain.decide.ground import Ground, Land
from brain.decide.holds import Holds
from brain.decide.ledger import Books
from brain.decide.partition import Plan
from brain.decide.waiting import OWNER, RANK, Entry, Waiting, natural
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot

MOST_EXPECTING: Final = 16
"""Pods and groups that are looked at for the room of those on their way out."""


def expecting(land: Land, waiting: Waiting, books: Books, leaving: Set[str], holds: Holds) -> dict[str, str]:
    """Who gets the room of those on their way out, first come first, by key with the node: until then it is kept.

    Of one that passes only once those have gone, and of a group that lacks some of its room until then, all room is
    kept, wherever it is: others would take it meanwhile, and be evicted for it.

    Args:
        land: the nodes.
        waiting: those that wait.
        books: what is used; changed meanwhile, and left as it was.
        leaving: nodes that have pods on their way out, or that are yet to go.
        holds: for whom room may be kept.
    """
    gated: list[Entry] = []
    ahead = waiting.ahead.copy()
    owners = 0
    for entry in waiting.gated:
        if holds.rests(entry.pod):
            continue
        own = natural(entry, books.later)
        entry.owner = own == OWNER
        entry.tier = ahead.tier(entry, own)
        if passes(books.later, entry.quota, entry.pod, entry.request):
            ahead.note(entry, own)
        gated.append(entry)
        owners += entry.tier == OWNER
        if owners == MOST_EXPECTING and not waiting.needs:
            break  # those that follow come after these
    inside = [entry for entry in waiting.inside if entry.pod.unschedulable and not holds.rests(entry.pod)]
    found: dict[str, str] = {}
    later = _Later(land, books, leaving)
    turns = waiting.together(sorted([*inside, *gated], key=RANK))
    for entry, members in islice(turns, MOST_EXPECTING):
        found |= later.given(members or (entry,), waiting.needs[entry.pod.group] if members else 1)
    later.discharge()
    return found


class _Later:
    """Room given to one after the other, as it will be once pods on their way out have gone."""

    def __init__(self, land: Land, books: Books, leaving: Set[str]) -> None:
        self._land = land
        self._books = books
        self._leaving = leaving
        self._ground = Ground(land, due=True)
        self._full: set[object] = set()
        self._given: list[tuple[Entry, str]] = []

    def given(self, entries: Sequence[Entry], need: int) -> dict[str, str]:
        """Give room to some, or to nobody where it is too little; by key with the node, where they must wait for it."""
        start, waits = len(self._given), False
        for entry in entries:
            may = not entry.pod.gated or passes(self._books.now, entry.quota, entry.pod, entry.request)
            node = None
            if may or passes(self._books.later, entry.quota, entry.pod, entry.request):
                node = self._node(entry.pod, soon=may)
            if node is not None:
                self._ground.take(entry.pod, node)
                if entry.pod.gated:
                    self._books.charge(entry.quota, entry.request)
                self._given.append((entry, node))
                waits = waits or not may or node in self._leaving
        got = self._given[start:]
        if got and len(got) < need:
            self._take_back(start)
        return {entry.key: node for entry, node in got} if waits and len(got) >= need else {}

    def discharge(self, start: int = 0) -> None:
        """Leave the books as they were before those were given room that came after so many."""
        for entry, _ in self._given[start:]:
            if entry.pod.gated:
                self._books.discharge(entry.quota, entry.request)

    def _take_back(self, start: int) -> None:
        """Take back what was given last, down to so many."""
        self.discharge(start)
        del self._given[start:]
        self._ground = Ground(self._land, due=True)
        self._full.clear()
        for entry, node in self._given:
            self._ground.take(entry.pod, node)

    def _node(self, pod: Pod, *, soon: bool) -> str | None:
        """Where a pod fits: where the scheduler keeps room for it, else where it need not wait, if it may come soon."""
        kind = self._ground.shape(pod)
        if kind in self._full:
            return None
        suiting = sorted(
            self._ground.suiting(pod), key=lambda name: (name != pod.nominated, (name in self._leaving) == soon)
        )
        node = next((name for name in suiting if self._ground.fits(pod, name)), None)
        if node is None and kind is not None:
            self._full.add(kind)
        return node


class Housing:
    """Who has room in one round.

    Attributes:
        placed: pods without MIG devices that have room now, with their nodes.
    """

    def __init__(
        self, snapshot: Snapshot, land: Land, waiting: Waiting, expects: Mapping[str, str], leaving: Set[str]
    ) -> None:
        """``expects``: see :func:`expecting`; ``leaving``: nodes that have pods on their way out."""
        self._snapshot = snapshot
        self._land = land
        self._needs = waiting.needs
        self._held = {entry.key for entry in waiting.inside if entry.held}
        self._expects = expects
        self._contested = {*leaving, *expects.values()}
        self._own = set[tuple[str, str]]()
        self._untried: dict[object, tuple[list[str], Set[str]]] = {}
        self.placed: list[tuple[Pod, str]] = []

    def after(self, plan: Plan) -> Ground:
        """The nodes once pods on their way out have gone, and all have their room that got some in this round."""
        ground = self._ground(plan)
        for pod, node in self.placed:
            ground.take(pod, node)
        return ground

    def places(self, plan: Plan) -> Mapping[str, str]:
        """By key, where pods get room, now or once others have gone."""
        return {**self._expects, **{pod.key: node for pod, node in self.placed}, **plan.assigned}

    def in_the_end(self, plan: Plan, without: Set[str] = frozenset()) -> Ground:
        """The nodes once all have gone that will, and all have their room that get some, but some."""
        pods = {pod.key: pod for pod in self._snapshot.unbound() if pod.key not in without}
        assigned = [(pods[key], node) for key, node in plan.assigned.items() if key in pods]
        ground = Ground(self._land, assigned, plan.geometries, due=True)
        for key, node in self.places(plan).items():
            if key in pods and key not in plan.assigned and ground.fits(pods[key], node):
                ground.take(pods[key], node)
        return ground

    def homeless(self, accepted: Sequence[Entry], plan: Plan) -> list[Entry]:
        """Those that pass and have no room; what asks for no MIG device gets its room here."""
        now, kept = self._ground(plan, now=True), self._kept_room()
        self.placed = []
        self._untried.clear()
        plain = [pod for pod in self._snapshot.unbound() if pod.waiting and not pod.mig_request]
        due = [pod for pod in plain if pod.nominated or not pod.unschedulable or pod.key in self._held]
        for pod in sorted(due, key=lambda pod: not pod.nominated):
            node = self._first_fit(pod, now)
            if node is not None:
                now.take(pod, node)
                self.placed.append((pod, node))
        found = []
        short: defaultdict[str, int] = defaultdict(int)
        displaced: dict[str, list[Entry]] = {}
        before = len(self.placed)
        members = Counter(entry.pod.group for entry in accepted)
        spare = Counter({group: members[group] - need for group, need in self._needs.items()})
        for entry in accepted:
            pod, node = entry.pod, plan.assigned.get(entry.key)
            if not pod.mig_request:
                beyond = pod.group in self._needs and short[pod.group] > spare[pod.group]
                node = None if beyond else self._first_fit(pod, now, kept)
                if node is None and not beyond:
                    node, others = self._in_place_of_later(entry, accepted, plan)
                    if node is not None:
                        displaced[entry.key] = others
                        continue
                if node is not None:
                    now.take(pod, node)
                    self.placed.append((pod, node))
            elif node is not None and self._others_expect(pod, node) and not kept.fits(pod, node):
                node = None
            if node is None:
                found.append(entry)
                short[pod.group] += 1
                if pod.group in self._needs and short[pod.group] == spare[pod.group] + 1:
                    self._give_back(pod.group, before, now, kept)
            elif self._others_expect(pod, node):
                kept.take(pod, node)
        known = {entry.key for entry in found}
        for others in displaced.values():
            found += [entry for entry in others if entry.key not in known]
            known |= {entry.key for entry in others}
        gone = {entry.key for entry in found}
        for group, need in self._needs.items():
            if short[group] and members[group] - short[group] < need:
                found += [entry for entry in accepted if entry.pod.group == group and entry.key not in gone]
        gone = {entry.key for entry in found}
        self.placed = [(pod, node) for pod, node in self.placed if pod.key not in gone]
        return found

    def _give_back(self, group: str, start: int, now: Ground, kept: Ground) -> None:
        """Take back what those of a group were given since, of which too few find room: others may have it."""
        since = self.placed[start:]
        self.placed[start:] = [(pod, node) for pod, node in since if pod.group != group]
        for pod, node in since:
            if pod.group != group:
                continue
            now.give_back(pod, node)
            if self._others_expect(pod, node):
                kept.give_back(pod, node)
            for nodes, suiting in self._untried.values():
                if node in suiting:
                    nodes.append(node)

    def _ground(self, plan: Plan, *, now: bool = False) -> Ground:
        pods = {pod.key: pod for pod in self._snapshot.unbound()}
        assigned = [(pods[key], node) for key, node in plan.assigned.items()]
        return Ground(self._land, assigned, plan.geometries, now=now)

    def _in_place_of_later(self, entry: Entry, accepted: Sequence[Entry], plan: Plan) -> tuple[str | None, list[Entry]]:
        """Where a pod without MIG devices fits if those of later turns wait that the plan put there, not knowing it."""
        later = [e for e in accepted if e.key in plan.assigned and e.turn > entry.turn]
        if not later:
            return None, []
        gone = {each.key for each in later}
        others = replace(plan, assigned={key: node for key, node in plan.assigned.items() if key not in gone})
        ground = self._ground(others, now=True)
        for pod, taken in self.placed:
            ground.take(pod, taken)
        node = self._first_fit(entry.pod, ground)
        return node, [each for each in later if plan.assigned[each.key] == node]

    def _kept_room(self) -> Ground:
        """The nodes once pods have gone that are on their way out, and those are there that get their room."""
        ground = Ground(self._land, due=True)
        pods = {pod.key: pod for pod in self._snapshot.unbound()} if self._expects else {}
        for key, node in self._expects.items():
            ground.take(pods[key], node)
            self._own.add((pods[key].group or key, node))
        for pod in self._snapshot.unbound():
            # The plan knows of those that are nominated only if they ask for MIG devices.
            apart = not pod.mig_request and pod.key not in self._expects
            if pod.waiting and apart and pod.nominated in self._land.nodes and ground.fits(pod, pod.nominated):
                ground.take(pod, pod.nominated)
                self._contested.add(pod.nominated)
        return ground

    def _others_expect(self, pod: Pod, node: str) -> bool:
        """Whether room on a node is kept for others than the pod and its group."""
        return node in self._contested and (pod.group or pod.key, node) not in self._own

    def _first_fit(self, pod: Pod, ground: Ground, kept: Ground | None = None) -> str | None:
        """Where a pod fits now, first where the scheduler keeps room for it; not in room that is kept for others.

        Where one pod did not fit, the next that is alike is not tried, until room there is given back.
        """

        def free(node: str) -> bool:
            if not ground.fits(pod, node):
                return False
            return kept is None or not self._others_expect(pod, node) or kept.fits(pod, node)

        kind = ground.shape(pod)
        if kept is None or kind is None or pod.nominated or pod.key in self._expects:
            suiting = sorted(ground.suiting(pod), key=lambda node: node != pod.nominated)
            return next((node for node in suiting if free(node)), None)
        if kind not in self._untried:
            names = ground.suiting(pod)
            self._untried[kind] = list(reversed(names)), frozenset(names)
        nodes, _ = self._untried[kind]
        while nodes and not free(nodes[-1]):
            nodes.pop()
        return nodes[-1] if nodes else None
