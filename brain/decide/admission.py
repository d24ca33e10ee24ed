"""Who is let in, who is nominated, who is evicted: quotas and room together, in one plan.

Owners come first, then priority, then age. A pod is let in when its quota lets it pass and its room is there, is being
made, or will be once pods have gone; who cannot go does not stand in the way of those behind, but what an owner waits
for is kept from borrowers. Nothing is remembered: who was let in, and for what, is written on the pod.

Here is the order of one round. Each of its steps has a module: who waits (:mod:`~brain.decide.waiting`), whose quota
lets them pass (:mod:`~brain.decide.passing`), who of these has room (:mod:`~brain.decide.housing`), and who must leave
for the others (:mod:`~brain.decide.evicting`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from brain.decide import partition
from brain.decide.accounts import accounts
from brain.decide.borrowers import Borrowers
from brain.decide.decisions import Nominate, OpenGate
from brain.decide.entitlement import passes
from brain.decide.evicting import Evicting
from brain.decide.governed import SYSTEM_NAMESPACE, governance
from brain.decide.gpumemory import GpuMemory
from brain.decide.ground import Ground, Land
from brain.decide.groups import spares
from brain.decide.holds import Holds
from brain.decide.housing import Housing, expecting
from brain.decide.kept import Kept, Promise
from brain.decide.ledger import Books
from brain.decide.outcome import FREE, MADE, RECLAIMED, AdmissionDecision, Outcome, beneficiary, room_by
from brain.decide.partition import Plan
from brain.decide.passing import Passing
from brain.decide.reclaim import Victim
from brain.decide.waiting import BORROWER, RANK, Entry, Waiting, natural
from brain.decide.why import Reason
from brain.model.hold import Hold
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import names

BEHIND: Final = 1 << 32
"""What each tier's priority is lowered by in a plan: priorities have 32 bits, so all of earlier tiers come first."""
MOST_PLANS: Final = 4
"""Plans made in one round, each without those whose quota let them pass and who found no room in the one before."""
MOST_OF_FEW: Final = 400
"""Where few pods wait, so many plans times pods."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What follows for pods.

    Attributes:
        plan: of all pods that may be bound or let in.
        decisions: what to write.
        held: nodes whose order waits: a pod that room is made for there is not nominated yet.
        waits: why pods of quotas are not let in, or not bound, by key.
        about: the same without the figures that change with every pod, by key, where there are any.
        reclaiming: keys of pods that others are evicted for, or that wait for the room of pods on their way out.
        holds: by key, the room kept for pods as others leave it.
    """

    plan: Plan
    decisions: tuple[AdmissionDecision, ...] = ()
    held: frozenset[str] = frozenset()
    waits: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    reclaiming: frozenset[str] = frozenset()
    holds: Mapping[str, Hold] = field(default_factory=dict)


def admit(snapshot: Snapshot, gpu_memory_gb: int, release_namespace: str = "") -> Admission:
    """Who is let in, nominated and evicted, and the plan that gives them their room.

    Args:
        snapshot: the cluster.
        gpu_memory_gb: GB that one whole GPU counts for whose product is not known.
        release_namespace: where Nebulnetes itself runs; nobody is evicted there, nor in kube-system.
    """
    governed = governance(snapshot.quotas)
    memory = GpuMemory.of(gpu_memory_gb, snapshot.nodes)
    opened = [
        OpenGate(pod.namespace, pod.name, pod.uid)
        for pod in snapshot.unbound()
        if names.QUOTA_GATE in pod.gates and not pod.terminating and pod.namespace not in governed.of
    ]
    if not governed.counting:
        plan = partition.plan(snapshot)
        return Admission(plan, (*opened, *_nominations(snapshot, plan, ())))
    return Round(snapshot, memory, {SYSTEM_NAMESPACE, release_namespace}).run(opened)


def _going(snapshot: Snapshot) -> Iterator[Pod]:
    """Pods on their way out, those that have ended and whose MIG devices are not free yet among them."""
    lingering = snapshot.lingering()
    for pod in snapshot.pods:
        if pod.node and (pod.key in lingering.get(pod.node, ()) if pod.ended else pod.terminating):
            yield pod


def _nominations(snapshot: Snapshot, plan: Plan, gated: Iterable[str]) -> Iterator[Nominate]:
    """Pods that room is made for and that the scheduler has refused, where it does not keep that room for them yet."""
    if not plan.made:
        return
    for pod in snapshot.unbound():
        made = plan.made.get(pod.key)
        node = plan.assigned.get(pod.key, "")
        if made and pod.key not in gated and pod.unschedulable and pod.nominated != node:
            yield Nominate(pod.namespace, pod.name, pod.uid, node)


class Round:
    """One round over a snapshot with quotas that count.

    Attributes:
        waiting: those that wait.
        land: the nodes.
    """

    def __init__(self, snapshot: Snapshot, memory: GpuMemory, spared: Set[str]) -> None:
        """``spared``: namespaces in which nobody is evicted."""
        self._snapshot = snapshot
        self._memory = memory
        self._spared = spared
        governed = governance(snapshot.quotas)
        self._governed = governed.of
        self._accounts = accounts(snapshot, memory)
        self._books = Books(governed.counting)
        self._going = list(_going(snapshot))
        self._holds = Holds(snapshot, self._going)
        self.waiting = Waiting(snapshot, governed.of, memory, self._holds)
        self._due = self._yet_to_go()
        self.land = Land(snapshot, {victim.pod.key for victim in self._due})
        self._as_it_is = Ground(self.land, now=True)
        self._leaving = frozenset(pod.node for pod in self._going).union(self.land.lingering)
        self._outcome = Outcome(snapshot, memory, self.waiting.others)
        for known in self._accounts.values():
            self._books.now.charge(known.quota, known.now)
            self._books.later.charge(known.quota, known.later)
        for entry in self.waiting.inside:
            self._books.charge(entry.quota, entry.request, summed=entry.summed)
        self._expects = self._expecting()
        self._kept = Kept((), self._as_it_is, self._as_it_is, self._as_it_is)

    def run(self, opened: Sequence[OpenGate]) -> Admission:
        """What follows; ``opened`` are written besides."""
        passing = Passing(self._books, self.waiting, self._expects)
        housing = Housing(self._snapshot, self.land, self.waiting, self._expects, self._leaving)
        accepted, plan = self._settled(passing, housing)
        places = housing.places(plan)
        if promises := list(self._promises(places)):
            keys = {promise.entry.key for promise in promises}
            self._kept = Kept(promises, self._as_it_is, housing.in_the_end(plan, keys), housing.in_the_end(plan))
        held = self._let_in(accepted, plan, places)
        self._reclaim({entry.key for entry in accepted}, passing.kept, housing, plan)
        self._tell_whom(passing.unlent)
        outcome = self._outcome
        outcome.decisions += _nominations(self._snapshot, plan, {entry.key for entry in self.waiting.gated})
        decisions = (*opened, *outcome.decisions)
        holds = self._holds.standing({entry.key for entry in (*self.waiting.gated, *self.waiting.inside)})
        reclaiming = frozenset(entry.key for entry, _ in outcome.reclaims)
        return Admission(plan, decisions, held, outcome.waits, outcome.about, reclaiming, holds)

    def _yet_to_go(self) -> Sequence[Victim]:
        """Those that are yet to follow others that have gone for a pod, as where their eviction was refused."""
        held = [entry.pod for entry in (*self.waiting.gated, *self.waiting.inside) if entry.held]
        uids = self._holds.evicting(held)
        return [v for known in self._accounts.values() for v in known.standing if v.pod.uid in uids] if uids else ()

    def _expecting(self) -> Mapping[str, str]:
        """Who gets the room of those on their way out, and of those that are yet to go, by key with the node."""
        nodes = self._leaving.union(victim.pod.node for victim in self._due)
        if not nodes:
            return {}
        borrowed = [(victim.quota, victim.request) for victim in self._due if victim.quota is not None]
        for quota, request in borrowed:
            self._books.later.discharge(quota, request)
        found = expecting(self.land, self.waiting, self._books, nodes, self._holds)
        for quota, request in borrowed:
            self._books.later.charge(quota, request)
        return found

    def _promises(self, places: Mapping[str, str]) -> Iterator[Promise]:
        """What is kept for those that others went for."""
        for entry in (*self.waiting.inside, *self.waiting.gated):
            if entry.held:
                node = places.get(entry.key, entry.pod.nominated)
                if node in self.land.nodes:
                    yield Promise(entry, node, self._holds.robbed(entry.pod))

    def _settled(self, passing: Passing, housing: Housing) -> tuple[list[Entry], Plan]:
        """Those that pass and have room, and the plan that gives it to them: made again without those without."""
        without: set[str] = set()
        why: dict[str, Reason] = {}
        most = max(MOST_PLANS, MOST_OF_FEW // max(1, len(self.waiting.gated)))
        for last in (*[False] * (most - 1), True):
            accepted = passing.accepted(without)
            plan = self._planned(accepted, passing)
            why |= plan.why
            homeless = housing.homeless(accepted, plan)
            for entry in homeless:
                if entry.key in self._expects:
                    passing.kept.add(entry.key)
                else:
                    self._books.discharge(entry.quota, entry.request)
            without |= {entry.key for entry in homeless}
            without |= self._alike(homeless, {entry.key for entry in accepted}, why)
            planned = any(entry.key in plan.assigned for entry in homeless)
            accepted = [entry for entry in accepted if entry.key not in without]
            if last or not homeless:
                break
            others = planned or passing.others(accepted, without)
            for entry in accepted:
                self._books.discharge(entry.quota, entry.request)
            if not (others or passing.earlier(accepted, without)):
                for entry in accepted:
                    self._books.charge(entry.quota, entry.request)
                break
        return accepted, replace(plan, why={key: why_ for key, why_ in why.items() if key not in plan.assigned})

    def _alike(self, homeless: Sequence[Entry], accepted: Set[str], why: dict[str, Reason]) -> Set[str]:
        """Of those that were not accepted, who passes now, and finds no room as one before it, alike, found none.

        Asked one after the other, they would take up all plans of the round, and those behind them would have none.
        """
        first: dict[object, Entry] = {}
        for entry in homeless:
            if entry.pod.group not in self.waiting.needs and entry.key not in self._expects:
                first.setdefault(self.land.shape(entry.pod), entry)
        first.pop(None, None)
        found = set()
        for entry in self.waiting.gated if first else ():
            like = first.get(self.land.shape(entry.pod))
            apart = entry.key in accepted or entry.key in self._expects or entry.pod.group in self.waiting.needs
            if like is None or apart or not passes(self._books.now, entry.quota, entry.pod, entry.request):
                continue
            entry.tier = natural(entry, self._books.now)
            if entry.turn < like.turn:
                continue
            entry.wait = entry.about = ""
            if like.key in why:
                why.setdefault(entry.key, why[like.key])
            found.add(entry.key)
        return found

    def _planned(self, accepted: Sequence[Entry], passing: Passing) -> Plan:
        """A plan in which nobody else takes the room that pods were evicted for.

        Who comes back may have its turn before the one that it left. And to a plan those of one priority are alike: it
        would rather use what one of them left than make what another asks for. That would be evicted for again.
        """
        plan = partition.plan(self._virtual(accepted, passing))
        robbed = [
            entry
            for entry in (*self.waiting.inside, *accepted)
            if entry.key not in plan.assigned and entry.key not in self._expects and self._made_room(entry)
        ]
        if not robbed:
            return plan
        promised = (entry for entry in self.waiting.inside if room_by(entry.pod) in {MADE, RECLAIMED})
        behind = {entry.key for entry in (*self.waiting.inside, *accepted)}.difference(
            entry.key for entry in (*robbed, *promised)
        )
        if behind.isdisjoint(plan.assigned):
            return plan
        other = partition.plan(self._virtual(accepted, passing, behind))
        return other if any(entry.key in other.assigned for entry in robbed) else plan

    def _made_room(self, entry: Entry) -> bool:
        """Whether pods were evicted for one, and have gone, as far as that can be seen."""
        pod = entry.pod
        if pod.gated:
            return entry.held
        kept = room_by(pod) == RECLAIMED and pod.unschedulable and pod.nominated in self.land.nodes
        return kept and self._as_it_is.fits(pod, pod.nominated)

    def _virtual(self, accepted: Iterable[Entry], passing: Passing, behind: Iterable[str] = ()) -> Snapshot:
        """The snapshot as if the accepted had been let in, and refused by the scheduler; some ``behind`` the others."""
        shift = dict.fromkeys(behind, BORROWER + 1)
        seen = [(entry.pod, (entry.tier + shift.get(entry.key, 0), True)) for entry in accepted]
        for entry in self.waiting.inside:
            promised = room_by(entry.pod) in {MADE, RECLAIMED}
            tier = passing.tier(entry) + shift.get(entry.key, 0)
            if promised or tier:
                seen.append((entry.pod, (tier, entry.pod.unschedulable or promised)))
        copies = {pod.key: (pod, how, _copy(pod, tier=how[0], refused=how[1])) for pod, how in seen}
        _Last.copies = copies
        return self._snapshot.instead({key: copy for key, (_, _, copy) in copies.items()})

    def _let_in(self, accepted: Sequence[Entry], plan: Plan, places: Mapping[str, str]) -> frozenset[str]:
        """Let those in that have their room, or will; the nodes whose order waits for that."""
        held: set[str] = set()
        tempting: dict[str, Promise] = {}
        for entry in accepted:
            given = "" if plan.made.get(entry.key) else places.get(entry.key, "")
            if promise := self._kept.tempting(entry, given):
                tempting[self._unit(entry)] = promise
        for entry in accepted:
            node, made = plan.assigned.get(entry.key, ""), plan.made.get(entry.key)
            # One that fits there already would take what is to go for another.
            if made and (self._outcome.hot(entry.pod) or self._as_it_is.fits(entry.pod, node, change=False)):
                self._outcome.waits[entry.key] = f"waits: room is made on {node}"
                self._holds.goes_on(entry.pod)
                continue
            if promise := tempting.get(self._unit(entry)):
                self._outcome.waits[entry.key] = promise.told
                continue
            if made:
                held.add(node)
            self._outcome.open(entry, MADE if made else FREE, node)
        for entry in self.waiting.inside:
            if plan.made.get(entry.key):
                self._holds.goes_on(entry.pod)
                if not entry.pod.unschedulable:
                    held.add(plan.assigned[entry.key])
        return frozenset(held)

    def _unit(self, entry: Entry) -> str:
        """What goes in together with a pod: its group, where that has a minimum, or it alone."""
        return entry.pod.group if entry.pod.group in self.waiting.needs else entry.key

    def _reclaim(self, accepted: Set[str], kept: Set[str], housing: Housing, plan: Plan) -> None:
        """Look for room that others must leave, for those who are still without, owners first."""
        gated = [entry for entry in self.waiting.gated if entry.key not in accepted]
        for entry in gated:
            if entry.key in kept:
                self._books.discharge(entry.quota, entry.request)
        for entry in gated:
            entry.owner = self._books.later.owns(entry.quota, entry.request)
        there = {pod.key for pod, _ in housing.placed}.union(plan.assigned)
        inside = [entry for entry in self.waiting.inside if entry.pod.unschedulable and entry.key not in there]
        entries = sorted([*inside, *gated], key=RANK)
        evicting = self.evicting(lambda: housing.after(plan))
        evicting.run(self.waiting.together(entries), plan.why)

    def _tell_whom(self, unlent: Set[str]) -> None:
        """Tell those that cannot borrow, and whose quota's pods must leave, whom these leave for; by rank the first."""
        told: dict[str, str] = {}
        for entry, found in self._outcome.reclaims:
            leave = Counter(victim.quota.key for victim in found.victims if victim.quota is not None)
            quotas = (self._governed.get(pod.namespace) for pod in self._going if pod.node == found.node)
            leave.update(quota.key for quota in quotas if quota is not None)
            for key, count in leave.items():
                if key != entry.quota.key:
                    told.setdefault(key, beneficiary(entry, count))
        if told:
            for entry in self.waiting.gated:
                if entry.key in unlent and entry.key in self._outcome.waits and entry.quota.key in told:
                    self._outcome.waits[entry.key] += told[entry.quota.key]

    def evicting(self, ground: Callable[[], Ground]) -> Evicting:
        """Reclaims by what is known; ``ground`` makes the nodes as they are without them."""
        return Evicting(
            self._books,
            self.waiting,
            self._outcome,
            self._borrowers,
            ground,
            as_it_is=self._as_it_is,
            kept=self._kept,
            holds=self._holds,
            leaving=bool(self._leaving),
        )

    def _borrowers(self) -> Borrowers:
        able = [known for known in self._accounts.values() if self._spared.isdisjoint(known.quota.namespaces)]
        together = spares(self._snapshot.grouped(), self._snapshot.jobs)
        return Borrowers(able, self._snapshot.budgets, together, self._memory)


class _Last:
    """By key, a pod, how it was seen, and its copy for the plan, of the last round: equal objects, equal copies."""

    copies: Mapping[str, tuple[Pod, tuple[int, bool], Pod]] = {}


def _copy(pod: Pod, *, tier: int, refused: bool) -> Pod:
    """A pod as the planner should see it: let in, and behind all of earlier tiers."""
    known = _Last.copies.get(pod.key)
    if known is not None and known[0] is pod and known[1] == (tier, refused):
        return known[2]
    return replace(pod, gates=(), priority=pod.priority - tier * BEHIND, unschedulable=refused)
