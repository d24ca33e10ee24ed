"""Room that others must leave, for those who are still without: one after the other, owners first.

Whom a pod may evict is not decided here, nor which set of those is the cheapest.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from brain.decide.borrowers import Borrowers
from brain.decide.combine import Steps
from brain.decide.entitlement import passes, victims_for
from brain.decide.ground import Ground, PodSites
from brain.decide.holds import RESTING, Holds
from brain.decide.kept import Kept
from brain.decide.ledger import Books
from brain.decide.outcome import NONE, Outcome
from brain.decide.reclaim import MOST_STEPS, Case, Reclaim, Victim, cheapest
from brain.decide.waiting import OWNER, Entry, Waiting
from brain.decide.why import Reason

MOST_RECLAIMS: Final = 16
"""Pods that a round evicts others for; the next round goes on."""
MOST_LOOKS: Final = 300_000
"""Pods and nodes that a round looks at for reclaims, about: a few tens of searches on a large cluster."""
MOST_HELD: Final = 20_000
"""Pods that it looks at to find out which disruption budgets hold them: enough for all that wait, on most clusters."""
SHARE_OF_HELD: Final = 20
"""What part of the steps of its searches a round takes for that, besides: a twentieth."""
MOST_NAMED: Final = 3
"""Pods that are named which a disruption budget holds."""


class Evicting:
    """The reclaims of one round."""

    def __init__(
        self,
        books: Books,
        waiting: Waiting,
        outcome: Outcome,
        borrowers: Callable[[], Borrowers],
        ground: Callable[[], Ground],
        *,
        as_it_is: Ground,
        kept: Kept,
        holds: Holds,
        leaving: bool,
    ) -> None:
        """What a round knows.

        Args:
            books: what is used.
            waiting: those that wait.
            outcome: where to write what comes of it.
            borrowers: makes those that may have to go, without those that this round evicts.
            ground: makes the nodes as they are once all have their room that got some.
            as_it_is: the nodes as they are now.
            kept: what is kept for those that others have gone for.
            holds: for whom room may be kept as others leave it.
            leaving: whether pods are on their way out.
        """
        self._books = books
        self._needs = waiting.needs
        self._outcome = outcome
        self._make_borrowers = borrowers
        self._make_ground = ground
        self._as_it_is = as_it_is
        self._kept = kept
        self._holds = holds
        self._borrowers: Borrowers | None = None
        self._ground = ground()
        self._leaving = leaving
        self._carried: list[tuple[Entry, Reclaim]] = []
        self._looks = 0
        self._steps = Steps(MOST_STEPS)
        self._steps_of_held = Steps(MOST_STEPS // SHARE_OF_HELD)
        self._reclaims = 0
        self._held_looks = 0
        self._full: set[object] = set()
        self._freed: set[str] = set()
        self._going = {key: used - books.later.used[key] for key, used in books.now.used.items()}

    def run(self, together: Iterable[tuple[Entry, Sequence[Entry]]], why: Mapping[str, Reason]) -> None:
        """Look for room for some, by rank: for each alone, or for as many of its group as are of use.

        ``why``: what the planner says of those for whom it has no room.
        """
        vain: dict[object, _Held] = {}
        turns = list(together)
        # Room that is only kept for some does not count until their turn: whoever comes before them would do without,
        # and they without it, so that it would be given back, and kept again in the next round.
        for entry, _ in turns:
            if not entry.pod.gated:
                self._books.discharge(entry.quota, entry.request, summed=entry.summed)
                self._books.charge(entry.quota, entry.request, summed=entry.firm)
        for entry, members in turns:
            if members:
                self._group(members, self._needs[entry.pod.group], why)
                continue
            reason = why.get(entry.key)
            if not entry.pod.gated:
                self._books.discharge(entry.quota, entry.request, summed=entry.firm)
            if self._done() or (reason is not None and reason.later):
                self._outcome.refuse(entry, reason)
                if not entry.pod.gated:
                    self._books.charge(entry.quota, entry.request, summed=entry.summed)
                continue
            shape = self._ground.shape(entry.pod)
            kind = (entry.quota.key, entry.pod.priority, entry.pod.protected, shape) if shape is not None else entry.key
            resting = self._holds.rests(entry.pod, ever=False)
            found = None if kind in vain or resting else self._timely(entry)
            if found is None and not resting:
                if kind not in vain:
                    vain[kind] = self._held(entry)
                vain[kind].tell(entry)
            if resting or (found is not None and not self._holds.keeps(entry.pod, found)):
                found, entry.wait, entry.about = None, RESTING, ""
            if found is None:
                self._outcome.refuse(entry, reason)
                self._without(entry)
            else:
                self._outcome.reclaim(entry, found, shut=entry.pod.gated and self._shut(entry))
                self._count(entry, found)

    def found(self, entry: Entry, *, idle: bool = False) -> Reclaim | None:
        """Where a pod fits once those have gone that are on their way, or whom to evict for it.

        ``idle``: it may be that nobody has to go.
        """
        sites = PodSites(self._ground, entry.pod)
        if (self._leaving or idle) and passes(self._books.later, entry.quota, entry.pod, entry.request):
            node = next((node for node in sites.nodes() if sites.fits(node, ())), None)
            if node is not None:
                return Reclaim(node, ())
        case = self._case(entry, sites)
        found = cheapest(case, self._steps) if case is not None else None
        return found if found is not None and found.victims else None

    def _timely(self, entry: Entry, *, idle: bool = False) -> Reclaim | None:
        """See :meth:`found`; nobody has to go where pods of its quota that go already keep it out for longer.

        As that may take long, or for ever, others would have the room again before it. But those that others have gone
        for go on: what these left is kept.
        """
        pod, quota = entry.pod, entry.quota
        found, going = self.found(entry, idle=idle), self._going[quota.key]
        if found is None or entry.held or not (found.victims and pod.gated and going):
            return found
        used = self._books.later.used[quota.key] + going
        for victim in found.victims:
            if victim.quota is quota:
                used.subtract(victim.request)
        limits = [quota.max, quota.min] if pod.protected else [quota.max]
        asked = [(name, value) for name, value in entry.request.items() if value > 0]
        late = any(name in limit and used[name] + value > limit[name] for limit in limits for name, value in asked)
        return None if late else found

    def _case(self, entry: Entry, sites: PodSites) -> Case | None:
        """Who may have to go for a pod, and where it may go then; None where that is nobody."""
        pod, quota, request = entry.pod, entry.quota, entry.request
        later = self._books.later
        if pod.protected and not later.owns(quota, request):
            return None
        able = self._able()
        victims = victims_for(later, quota, pod, request, own=able.of(quota), borrowers=able.over)
        if not victims:
            return None
        units = able.units(victims, pod)
        self._looks += len(victims)
        if not self._has_room(sites):
            nodes = {victim.pod.node for victim in victims}
            nodes.update(victim.pod.node for unit in units.values() for victim in unit.victims)
            sites = replace(sites, only=nodes)
        return Case(quota, later.refusals(quota, request), victims, sites, able.allowed, units)

    def _held(self, entry: Entry) -> _Held:
        """Which disruption budgets keep others from leaving for a pod for whom nobody was found."""
        if self._held_looks >= MOST_HELD or not self._able().allowed:
            return _Held()
        case = self._case(entry, PodSites(self._ground, entry.pod))
        if case is None:
            return _Held()
        members = (unit.victims for unit in case.units.values())
        if not any(v.budgets for v in itertools.chain(case.victims, *members)):
            return _Held()
        self._held_looks += len(case.victims)
        found = cheapest(case, self._steps_of_held, guarded=False)
        return _Held.by([v for v in found.victims if v.budgets], case.allowed) if found is not None else _Held()

    def _done(self) -> bool:
        """Whether the rest is for the next round."""
        return self._reclaims >= MOST_RECLAIMS or self._looks >= MOST_LOOKS or self._steps.left <= 0

    def _has_room(self, sites: PodSites) -> bool:
        """Whether a pod fits on some node though nobody goes: where one did not, the next that is alike hardly will."""
        shape = self._ground.shape(sites.pod)
        nodes = sites.nodes()
        if shape in self._full:
            nodes = [node for node in nodes if node in self._freed]
        self._looks += len(nodes)
        found = any(sites.fits(node, ()) for node in nodes)
        if shape is not None and not found:
            self._full.add(shape)
        return found

    def _able(self) -> Borrowers:
        """Who may have to go: found when first asked for."""
        if self._borrowers is None:
            self._borrowers = self._make_borrowers()
        return self._borrowers

    def _group(self, members: Sequence[Entry], need: int, why: Mapping[str, Reason]) -> None:
        """Look for room for as many of a group as are of use together; where there is not enough, for nobody.

        Where one keeps its gate until others have gone, all do.
        """
        before = list(self._carried)
        got: list[tuple[Entry, Reclaim]] = []
        held, shut = _Held(), False
        for entry in members:
            able = not self._done() and not self._holds.rests(entry.pod)
            found = self._timely(entry, idle=True) if able else None
            if found is None and able and not held.text:
                held = self._held(entry)
            if found is not None:
                shut = shut or not found.victims or self._shut(entry)
                self._count(entry, found)
                got.append((entry, found))
        served = {entry.key for entry, _ in got} if len(got) >= need else set[str]()
        if served:
            for entry, found in got:
                self._holds.keeps(entry.pod, found)
                self._outcome.reclaim(entry, found, shut=shut)
        else:
            for entry, found in reversed(got):
                for victim in found.victims:
                    if victim.quota is not None:
                        self._books.later.charge(victim.quota, victim.request)
                self._books.discharge(entry.quota, entry.request)
            self._borrowers, self._carried, self._ground = None, [], self._make_ground()
            self._reclaims = 0
            self._full.clear()
            for entry, found in before:
                self._count(entry, found, charge=False)
        for entry in members:
            if entry.key not in served:
                held.tell(entry)
                self._outcome.refuse(entry, why.get(entry.key))

    def _shut(self, entry: Entry) -> bool:
        """Whether a gated pod keeps its gate until those have gone that must leave for it.

        Without it, kube-scheduler might preempt for the pod, its quota would be beyond its ``max``, a protected one
        would borrow, or it might be bound to room that is kept for another, at once or when that comes free.
        """
        pod = entry.pod
        if self._outcome.hot(pod) or (pod.protected and not self._books.now.owns(entry.quota, entry.request)):
            return True
        refusals = self._books.now.refusals(entry.quota, entry.request)
        if any(refusal.rule == "max" for refusal in refusals):
            return True
        return self._as_it_is.has_room(pod) or self._kept.tempting(entry) is not None

    def _count(self, entry: Entry, found: Reclaim, *, charge: bool = True) -> None:
        """From here on in this round the victims are gone, and the pod is there."""
        self._carried.append((entry, found))
        if found.victims:
            self._reclaims += 1
            self._able().gone(found.victims)
            self._leaving = True
        self._ground.release(victim.pod for victim in found.victims)
        self._freed.update(victim.pod.node for victim in found.victims)
        self._ground.take(entry.pod, found.node)
        if charge:
            for victim in found.victims:
                if victim.quota is not None:
                    self._books.later.discharge(victim.quota, victim.request)
            self._books.charge(entry.quota, entry.request)

    def _without(self, entry: Entry) -> None:
        """A pod that nobody can make room for now."""
        pod, now = entry.pod, self._books.now
        if not pod.gated:
            self._books.charge(entry.quota, entry.request, summed=entry.summed)
            if pod.nominated and pod.reservation:
                self._outcome.nominate(pod, "")
        elif (
            entry.tier == OWNER
            and passes(now, entry.quota, pod, entry.request)
            and now.owns(entry.quota, entry.request)
            and not self._outcome.hot(pod)
        ):
            if promise := self._kept.tempting(entry):
                self._outcome.waits[entry.key] = promise.told
                self._books.charge(entry.quota, entry.request, summed=False)
                return
            # So that an autoscaler sees it and may add nodes.
            entry.owner = True
            self._outcome.open(entry, NONE, "")
            # Unless there is room, which only what is kept for one whose turn is later kept it from.
            self._books.charge(entry.quota, entry.request, summed=self._has_room(PodSites(self._ground, pod)))


@dataclass(frozen=True, slots=True)
class _Held:
    """Why nobody leaves for a pod, where disruption budgets are why: in words, and without pods; else empty."""

    text: str = ""
    about: str = ""

    @staticmethod
    def by(victims: Sequence[Victim], allowed: Mapping[str, int]) -> _Held:
        """What holds some that would leave, of whom each is covered by some budget."""
        of: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for victim in victims:
            of[victim.budgets].append(victim.pod.key)
        said: dict[str, str] = {}
        for budgets, pods in sorted(of.items()):
            named = " and ".join(budgets)
            left = allowed.get(budgets[0], len(pods))
            goes = ", ".join(sorted(pods)[:MOST_NAMED]) + (", …" if len(pods) > MOST_NAMED else "")
            if len(budgets) > 1:
                said[named] = f"PodDisruptionBudgets {named} cover {goes}, and what several cover is never evicted"
            elif left < len(pods):
                most = "no eviction" if not left else "only 1 eviction" if left == 1 else f"only {left} evictions"
                said[named] = f"PodDisruptionBudget {named} allows {most} of {goes}"
        return _Held(f"waits: {'; '.join(said.values())}", f"budgets {', '.join(said)}") if said else _Held()

    def tell(self, entry: Entry) -> None:
        if self.text:
            entry.wait, entry.about = self.text, self.about
