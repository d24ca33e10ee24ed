"""Who is let in, who is nominated, who is evicted: quotas and room together, in one plan.

Owners come first, then priority, then age. A pod is let in when its quota lets it pass and its room is there, is being
made, or will be once pods have gone; who cannot go does not stand in the way of those behind, but what an owner waits
for is kept from borrowers. Nothing is remembered: who was let in, and for what, is written on the pod.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from brain.decide import partition
from brain.decide.decisions import Evict, LetIn, Nominate, OpenGate
from brain.decide.entitlement import passes, victims_for
from brain.decide.governed import SYSTEM_NAMESPACE
from brain.decide.gpumemory import GpuMemory
from brain.decide.ground import Ground, PodSites
from brain.decide.ledger import Ledger, by_namespace
from brain.decide.neighbours import Neighbours
from brain.decide.partition import Plan
from brain.decide.quotas import capacity_labels
from brain.decide.reclaim import Case, Reclaim, Victim, cheapest
from brain.decide.why import Reason
from brain.model import resources
from brain.model.budget import Budget
from brain.model.pod import Pod
from brain.model.quota import Quota, active
from brain.model.resources import Resources
from brain.model.snapshot import Snapshot
from n8s import names

OWNER: Final = 0
"""First of all: who stays within ``min``, and pods outside quotas."""
SHARER: Final = 1
"""Then those within their guaranteed share: they may evict those beyond it, who therefore must not come before them."""
BORROWER: Final = 2
"""Last: who borrows more."""
BEHIND: Final = 1 << 32
"""What each tier's priority is lowered by in a plan: priorities have 32 bits, so all of earlier tiers come first."""
MOST_PLANS: Final = 4
"""Plans made in one round, each without those whose quota let them pass and who found no room in the one before."""
MOST_RECLAIMS: Final = 16
"""Pods for which a round searches among those that may be evicted for them; the next round goes on."""

FREE: Final = "free"
MADE: Final = "repartition"
RECLAIMED: Final = "reclaim"
NONE: Final = "none"

AdmissionDecision = LetIn | OpenGate | Nominate | Evict


@dataclass(frozen=True, slots=True)
class Admission:
    """What follows for pods.

    Attributes:
        plan: of all pods that may be bound or let in.
        decisions: what to write.
        held: nodes whose order waits: a pod that room is made for there is not nominated yet.
        waits: why pods of quotas are not let in, or not bound, by key.
        reclaiming: keys of pods that others are evicted for, or that wait for the room of pods on their way out.
    """

    plan: Plan
    decisions: tuple[AdmissionDecision, ...] = ()
    held: frozenset[str] = frozenset()
    waits: Mapping[str, str] = field(default_factory=dict)
    reclaiming: frozenset[str] = frozenset()


def admit(snapshot: Snapshot, gpu_memory_gb: int, release_namespace: str = "") -> Admission:
    """Who is let in, nominated and evicted, and the plan that gives them their room.

    Args:
        snapshot: the cluster.
        gpu_memory_gb: GB that one whole GPU counts for whose product is not known.
        release_namespace: where Nebulnetes itself runs; nobody is evicted there, nor in kube-system.
    """
    counting = active(snapshot.quotas)
    governed = by_namespace(counting)
    memory = GpuMemory.of(gpu_memory_gb, snapshot.nodes)
    opened = [
        OpenGate(pod.namespace, pod.name, pod.uid)
        for pod in snapshot.unbound()
        if names.QUOTA_GATE in pod.gates and not pod.terminating and pod.namespace not in governed
    ]
    if not counting:
        plan = partition.plan(snapshot)
        return Admission(plan, (*opened, *_nominations(snapshot, plan, ())))
    return _Round(snapshot, counting, memory, {SYSTEM_NAMESPACE, release_namespace}).run(opened)


def reserved(label: str, how: str, node: str, memory: str = "") -> str:
    """The reservation annotation: with which standing a pod was let in, by what room, where, counting what."""
    return "/".join(part for part in (label, how, node, memory) if part)


def _nominations(snapshot: Snapshot, plan: Plan, gated: Iterable[str]) -> Iterator[Nominate]:
    """Pods that room is made for and that the scheduler has refused, where it does not keep that room for them yet."""
    if not plan.made:
        return
    for pod in snapshot.unbound():
        made = plan.made.get(pod.key)
        node = plan.assigned.get(pod.key, "")
        if made and pod.key not in gated and pod.unschedulable and pod.nominated != node:
            yield Nominate(pod.namespace, pod.name, pod.uid, node)


@dataclass(slots=True)
class _Entry:
    """A pod of a quota that waits, gated or let in."""

    pod: Pod
    quota: Quota
    request: Resources
    owner: bool = False
    tier: int = OWNER
    wait: str = ""

    @property
    def key(self) -> str:
        return self.pod.key

    @property
    def label(self) -> str:
        return names.IN_QUOTA if self.owner else names.OVER_QUOTA


class _Ahead:
    """By quota and tier, the highest priority of those that pass: nobody of less comes in an earlier tier."""

    def __init__(self, highest: Mapping[str, Mapping[int, int]] = MappingProxyType({})) -> None:
        self._highest = {quota: dict(tiers) for quota, tiers in highest.items()}

    def copy(self) -> _Ahead:
        """The same, apart from this."""
        return _Ahead(self._highest)

    def note(self, entry: _Entry, tier: int) -> None:
        """One passes in a tier."""
        tiers = self._highest.setdefault(entry.quota.key, {})
        tiers[tier] = max(tiers.get(tier, entry.pod.priority), entry.pod.priority)

    def tier(self, entry: _Entry, natural: int) -> int:
        """The tier in which one's turn is."""
        tiers = self._highest.get(entry.quota.key)
        if not tiers:
            return natural
        return max([natural, *(tier for tier, priority in tiers.items() if priority > entry.pod.priority)])


class _Round:
    """One round over a snapshot with quotas that count."""

    def __init__(self, snapshot: Snapshot, counting: Sequence[Quota], memory: GpuMemory, spared: Set[str]) -> None:
        self._snapshot = snapshot
        self._memory = memory
        self._spared = spared
        self._of = by_namespace(counting)
        self._now, self._later = Ledger(counting), Ledger(counting)
        self._able: _Borrowed | None = None
        self._carried: list[tuple[_Entry, Reclaim]] = []
        self._gated: list[_Entry] = []
        self._inside: list[_Entry] = []
        self._leaving = frozenset(pod.node for pod in snapshot.pods if pod.terminating and pod.node and not pod.ended)
        self._contested = self._leaving
        self._names = {node.name for node in snapshot.nodes}
        self._expects: dict[str, str] = {}
        self._kept: set[str] = set()
        self._inside_ahead = _Ahead()
        self._ahead = _Ahead()
        self._placed: list[tuple[Pod, str]] = []
        self._untried: dict[object, list[str]] = {}
        self._decisions: list[AdmissionDecision] = []
        self._waits: dict[str, str] = {}
        self._searches = 0
        self._reclaiming: set[str] = set()
        self._lowest = min((pod.priority for pod in snapshot.pods if pod.node and not pod.ended), default=0)
        self._read()

    def _read(self) -> None:
        """Sort the pods of quotas by how they stand, and make up the books."""
        counted, last = self._snapshot.counted(), _Last.sums
        _Last.sums = {}
        for key, counting in self._now.quotas.items():
            members = tuple(counted.get(namespace, ()) for namespace in counting.namespaces)
            known = last.get(key)
            if known is None or not known.of(counting, members, self._memory):
                known = _Sum.made(counting, members, self._memory)
            _Last.sums[key] = known
            self._now.charge(counting, known.now)
            self._later.charge(counting, known.later)
        for pod in self._snapshot.unbound():
            quota = self._of.get(pod.namespace)
            if quota is None or pod.ended or pod.terminating:
                continue
            request = self._memory.request(pod)
            if not pod.gates:
                entry = _Entry(pod, quota, request)
                self._charge(entry, summed=self._summed(entry))
                self._inside.append(entry)
            elif pod.gates == (names.QUOTA_GATE,):
                self._gated.append(_Entry(pod, quota, request))
            else:
                others = ", ".join(gate for gate in pod.gates if gate != names.QUOTA_GATE)
                self._waits[pod.key] = f"waits: other scheduling gates come first: {others}"
        for entry in self._inside:
            entry.owner = entry.pod.reservation.partition("/")[0] != names.OVER_QUOTA
        self._gated.sort(key=lambda entry: (-entry.pod.priority, entry.pod.created, entry.key))
        for entry in self._inside:
            if entry.pod.unschedulable and not entry.owner:
                self._inside_ahead.note(entry, SHARER)
        for entry in self._inside:
            entry.tier = self._inside_ahead.tier(entry, OWNER if entry.owner else SHARER)
        self._inside.sort(key=lambda entry: (entry.tier, -entry.pod.priority, entry.pod.created, entry.key))

    def _borrowed(self) -> _Borrowed:
        """Who may have to go: found when first asked for, without those that this round evicts."""
        if self._able is None:
            sums = [known for known in _Last.sums.values() if self._spared.isdisjoint(known.quota.namespaces)]
            self._able = _Borrowed(sums, self._snapshot.budgets, self._memory)
        return self._able

    def _summed(self, entry: _Entry) -> bool:
        """Whether a pod that was let in keeps others from borrowing: unless it has, and will have, no room."""
        return not entry.pod.unschedulable or bool(entry.pod.nominated)

    def _charge(self, entry: _Entry, *, summed: bool = True) -> None:
        """Count a pod, now and later."""
        for ledger in (self._now, self._later):
            ledger.charge(entry.quota, entry.request, summed=summed)

    def _uncharge(self, entry: _Entry, *, summed: bool = True) -> None:
        """Undo :meth:`_charge`."""
        for ledger in (self._now, self._later):
            ledger.discharge(entry.quota, entry.request, summed=summed)

    def run(self, opened: Sequence[OpenGate]) -> Admission:
        without: set[str] = set()
        why: dict[str, Reason] = {}
        if self._leaving:
            self._expect()
        for last in (*[False] * (MOST_PLANS - 1), True):
            accepted = self._accepted(without)
            plan = partition.plan(self._virtual(accepted))
            why |= plan.why
            homeless = self._homeless(accepted, plan)
            for entry in homeless:
                if entry.key in self._expects:
                    self._kept.add(entry.key)
                    continue
                self._uncharge(entry)
            planned = any(entry.key in plan.assigned for entry in homeless)
            without |= {entry.key for entry in homeless}
            accepted = [entry for entry in accepted if entry.key not in without]
            if last or not homeless:
                break
            passing = planned or self._others_pass(accepted, without)
            for entry in accepted:
                self._uncharge(entry)
            if not (passing or self._earlier_pass(accepted, without)):
                for entry in accepted:
                    self._charge(entry)
                break
        plan = replace(plan, why={key: reason for key, reason in why.items() if key not in plan.assigned})
        held = self._let_in(accepted, plan)
        self._reclaim({entry.key for entry in accepted}, plan, self._after(plan))
        gated = {entry.key for entry in self._gated}
        self._decisions += _nominations(self._snapshot, plan, gated)
        return Admission(plan, (*opened, *self._decisions), held, self._waits, frozenset(self._reclaiming))

    # Letting in.

    def _expect(self) -> None:
        """Find who gets the room of those on their way out, first come first: until then it is kept for them."""
        ground = Ground(self._snapshot.nodes, self._snapshot.bound())
        inside = [entry for entry in self._inside if entry.pod.unschedulable]
        waiting = [entry for entry in self._gated if not entry.pod.group]
        for entry in waiting:
            entry.owner = self._later.owns(entry.quota, entry.request)
            entry.tier = self._inside_ahead.tier(entry, self._natural(entry, self._later))
        ranked = sorted([*inside, *waiting], key=lambda e: (e.tier, -e.pod.priority, e.pod.created, e.key))
        for entry in ranked[:MOST_RECLAIMS]:
            if entry.pod.gated and not passes(self._later, entry.quota, entry.pod, entry.request):
                continue
            suiting = [name for name in ground.suiting(entry.pod, self._refusing(entry.pod)) if name in self._leaving]
            suiting.sort(key=lambda name: name != entry.pod.nominated)
            node = next((name for name in suiting if ground.fits(entry.pod, name)), None)
            if node is not None:
                ground.take(entry.pod, node)
                self._expects[entry.key] = node
                if entry.pod.gated:
                    self._later.charge(entry.quota, entry.request)
        for entry in waiting:
            if entry.key in self._expects:
                self._later.discharge(entry.quota, entry.request)

    def _accepted(self, without: set[str]) -> list[_Entry]:
        """Those whose quota lets them pass, owners first; they are charged. Of groups all that are of use, or none."""
        accepted: list[_Entry] = []
        self._ahead = self._inside_ahead.copy()
        groups = self._groups()
        waiting = [entry for entry in self._gated if entry.key not in without]
        for tier in (OWNER, SHARER, BORROWER):
            left: list[_Entry] = []
            tried: set[str] = set()
            for entry in waiting:
                group = entry.pod.group
                if group in groups:
                    if group not in tried:
                        tried.add(group)
                        members = [each for each in waiting if each.pod.group == group]
                        taken = self._together(members, groups[group], tier)
                        accepted += taken
                        chosen = {each.key for each in taken}
                        left += [each for each in members if each.key not in chosen]
                elif self._charged(entry, tier):
                    accepted.append(entry)
                else:
                    left.append(entry)
            waiting = left
        return accepted

    def _groups(self) -> dict[str, int]:
        """By group of gated pods, how many of these must go in together; two or more."""
        there: Counter[str] = Counter()
        members: Counter[str] = Counter()
        least: dict[str, int] = {}
        wanted = {entry.pod.group for entry in self._gated if entry.pod.group}
        if not wanted:
            return {}
        for pod in self._snapshot.grouped():
            if pod.group in wanted and not (pod.ended or pod.terminating):
                members[pod.group] += 1
                there[pod.group] += not pod.gated
                least[pod.group] = max(least.get(pod.group, 0), pod.group_min)
        needs = {
            group: (least[group] or self._snapshot.jobs.get(group) or members[group]) - there[group] for group in wanted
        }
        return {group: need for group, need in needs.items() if need > 1}

    def _together(self, members: Sequence[_Entry], need: int, tier: int) -> list[_Entry]:
        taken = [entry for entry in members if self._charged(entry, tier)]
        if len(taken) >= need:
            return taken
        for entry in taken:
            self._uncharge(entry)
        for entry in members:
            entry.wait = (
                entry.wait or f"waits: {need} pods of its group go in together, and the quota lets {len(taken)}"
            )
        return []

    def _charged(self, entry: _Entry, tier: int) -> bool:
        """Whether a pod passes, and comes as early as it is now the turn of; then it is charged.

        Nobody passes before one of its own quota that passes too and has a higher priority: that one would only evict
        it again. One that gets the room of pods on their way out is charged without passing, so that nobody
        gets in before it.
        """
        if entry.key in self._kept:
            return False
        entry.owner, entry.wait = self._now.owns(entry.quota, entry.request), ""
        may = passes(self._now, entry.quota, entry.pod, entry.request)
        expects = entry.key in self._expects and not may
        natural = self._natural(entry, self._later if expects else self._now)
        entry.tier = self._ahead.tier(entry, natural)
        if may:
            self._ahead.note(entry, natural)
        if entry.tier > tier:
            return False
        if not may:
            entry.wait = self._refused(entry)
            if expects:
                self._kept.add(entry.key)
        if may or expects:
            self._charge(entry)
        return may

    @staticmethod
    def _natural(entry: _Entry, ledger: Ledger) -> int:
        """The tier of a pod by itself."""
        if ledger.owns(entry.quota, entry.request):
            return OWNER
        return SHARER if ledger.shares(entry.quota, entry.request) else BORROWER

    def _refused(self, entry: _Entry) -> str:
        quota = entry.quota
        for refusal in self._now.refusals(quota, entry.request):
            used, limit, asked = (
                resources.quantity(refusal.resource, value) for value in (refusal.used, refusal.limit, refusal.asked)
            )
            if refusal.rule == "max":
                return f"waits: {quota.name} uses {used} of max {limit} {refusal.resource}, and this asks for {asked}"
            return f"waits: quotas use {used} of {limit} {refusal.resource} in all, and this asks for {asked}"
        return f"waits: it is not preemptible, so it may not borrow, and {quota.name} has no min left for it"

    def _virtual(self, accepted: Iterable[_Entry]) -> Snapshot:
        """The snapshot as if the accepted had been let in, and refused by the scheduler."""
        seen = [(entry.pod, (entry.tier, True)) for entry in accepted]
        for entry in self._inside:
            promised = entry.pod.reservation.split("/")[1:2] in ([MADE], [RECLAIMED])
            if promised or entry.tier:
                seen.append((entry.pod, (entry.tier, entry.pod.unschedulable or promised)))
        copies = {pod.key: (pod, how, _copy(pod, tier=how[0], refused=how[1])) for pod, how in seen}
        _Last.copies = copies
        return self._snapshot.instead({key: copy for key, (_, _, copy) in copies.items()})

    def _ground(self, plan: Plan, *, now: bool = False) -> Ground:
        pods = {pod.key: pod for pod in self._snapshot.unbound()}
        assigned = [(pods[key], node) for key, node in plan.assigned.items()]
        return Ground(self._snapshot.nodes, self._snapshot.bound(), assigned, plan.geometries, now=now)

    def _after(self, plan: Plan) -> Ground:
        """The nodes once pods on their way out have gone, and all have their room that got some in this round."""
        ground = self._ground(plan)
        for pod, node in self._placed:
            ground.take(pod, node)
        return ground

    def _homeless(self, accepted: Sequence[_Entry], plan: Plan) -> list[_Entry]:
        """Those that pass and have no room; what asks for no MIG device gets its room here.

        What the scheduler may bind at any moment, or keeps room for, has its room before them; what somebody gets once
        pods have gone is not theirs.
        """
        now, kept = self._ground(plan, now=True), self._kept_room()
        self._placed = []
        self._untried.clear()
        for pod in self._snapshot.unbound():
            if pod.waiting and not pod.mig_request and (pod.nominated or not pod.unschedulable):
                node = self._first_fit(pod, now)
                if node is not None:
                    now.take(pod, node)
                    self._placed.append((pod, node))
        found = []
        short: defaultdict[str, int] = defaultdict(int)
        displaced: dict[str, list[_Entry]] = {}
        for entry in accepted:
            pod, node = entry.pod, plan.assigned.get(entry.key)
            if not pod.mig_request:
                node = self._first_fit(pod, now, kept)
                if node is None:
                    node, others = self._in_place_of_later(entry, accepted, plan)
                    if node is not None:
                        displaced[entry.key] = others
                        continue
                if node is not None:
                    now.take(pod, node)
                    self._placed.append((pod, node))
            elif node in self._contested and self._expects.get(entry.key) != node and not kept.fits(pod, node):
                node = None
            if node is None:
                found.append(entry)
                short[pod.group] += 1
            elif node in self._contested and self._expects.get(entry.key) != node:
                kept.take(pod, node)
        known = {entry.key for entry in found}
        for others in displaced.values():
            found += [entry for entry in others if entry.key not in known]
            known |= {entry.key for entry in others}
        groups = self._groups()
        gone = {entry.key for entry in found}
        for group, need in groups.items():
            members = [entry for entry in accepted if entry.pod.group == group]
            if short[group] and len(members) - short[group] < need:
                found += [entry for entry in members if entry.key not in gone]
        return found

    def _in_place_of_later(
        self, entry: _Entry, accepted: Sequence[_Entry], plan: Plan
    ) -> tuple[str | None, list[_Entry]]:
        """Where a pod without MIG devices fits if those of later turns wait that the plan put there, not knowing it."""
        rank = entry.tier, -entry.pod.priority
        later = [e for e in accepted if e.key in plan.assigned and (e.tier, -e.pod.priority) > rank]
        if not later:
            return None, []
        gone = {each.key for each in later}
        others = replace(plan, assigned={key: node for key, node in plan.assigned.items() if key not in gone})
        ground = self._ground(others, now=True)
        for pod, taken in self._placed:
            ground.take(pod, taken)
        node = self._first_fit(entry.pod, ground)
        return node, [each for each in later if plan.assigned[each.key] == node]

    def _kept_room(self) -> Ground:
        """The nodes once pods have gone that are on their way out, and those are there that get their room."""
        ground = Ground(self._snapshot.nodes, self._snapshot.bound())
        pods = {pod.key: pod for pod in self._snapshot.unbound()} if self._expects else {}
        for key, node in self._expects.items():
            ground.take(pods[key], node)
        for pod in self._snapshot.unbound():
            # The plan knows of those that are nominated only if they ask for MIG devices.
            apart = not pod.mig_request and pod.key not in self._expects
            if pod.waiting and apart and pod.nominated in self._names and ground.fits(pod, pod.nominated):
                ground.take(pod, pod.nominated)
                self._contested |= {pod.nominated}
        return ground

    def _first_fit(self, pod: Pod, ground: Ground, kept: Ground | None = None) -> str | None:
        """Where a pod fits now, first where the scheduler keeps room for it; not in room that is kept for others.

        Room only gets less: where one pod did not fit, the next that is alike is not tried.
        """

        def free(node: str) -> bool:
            others = kept is not None and node in self._contested and self._expects.get(pod.key) != node
            return ground.fits(pod, node) and not (others and kept is not None and not kept.fits(pod, node))

        alone = not (pod.host_ports or pod.affinity or pod.anti_affinity or pod.spread or self._snapshot.avoiding())
        if kept is None or not alone or pod.nominated or pod.key in self._expects:
            suiting = ground.suiting(pod, self._refusing(pod))
            suiting.sort(key=lambda node: node != pod.nominated)
            return next((node for node in suiting if free(node)), None)
        kind = (
            tuple(sorted(pod.request.items())),
            tuple(sorted(pod.node_selector.items())),
            pod.node_affinity,
            pod.tolerations,
        )
        nodes = self._untried.get(kind)
        if nodes is None:
            nodes = self._untried[kind] = ground.suiting(pod, self._refusing(pod))[::-1]
        while nodes and not free(nodes[-1]):
            nodes.pop()
        return nodes[-1] if nodes else None

    def _refusing(self, pod: Pod) -> Callable[[str], str]:
        """What other pods mean for a pod, by node."""
        if not (pod.affinity or pod.anti_affinity or pod.spread or self._snapshot.avoiding()):
            return lambda _node: ""
        neighbours = Neighbours(self._snapshot)
        return lambda node: neighbours.refusal(pod, node)

    def _others_pass(self, accepted: Sequence[_Entry], without: set[str]) -> bool:
        """Whether one that was refused for what others would use passes now that they found no room."""
        inside = {entry.key for entry in accepted}
        return any(
            passes(self._now, entry.quota, entry.pod, entry.request)
            for entry in self._gated
            if entry.key not in inside and entry.key not in without
        )

    def _earlier_pass(self, accepted: Sequence[_Entry], without: set[str]) -> bool:
        """Whether one that was refused passes before some of the accepted, which are not charged meanwhile."""
        inside = {entry.key for entry in accepted}
        latest = max(((entry.tier, -entry.pod.priority) for entry in accepted), default=(OWNER, 0))
        return any(
            passes(self._now, entry.quota, entry.pod, entry.request)
            and (self._natural(entry, self._now), -entry.pod.priority) < latest
            for entry in self._gated
            if entry.key not in inside and entry.key not in without
        )

    def _hot(self, pod: Pod) -> bool:
        """Whether kube-scheduler might evict somebody for the pod: then it is let in only where it fits at once."""
        return not pod.never_preempts and pod.priority > self._lowest

    def _let_in(self, accepted: Sequence[_Entry], plan: Plan) -> frozenset[str]:
        """Let those in that have their room, or will; the nodes whose order waits for that."""
        held: set[str] = set()
        as_it_is = Ground(self._snapshot.nodes, self._snapshot.bound(), now=True)
        for entry in accepted:
            node, made = plan.assigned.get(entry.key, ""), plan.made.get(entry.key)
            # One that fits there already would take what is to go for another.
            if made and (self._hot(entry.pod) or as_it_is.fits(entry.pod, node, change=False)):
                self._waits[entry.key] = f"waits: room is made on {node}"
                continue
            if made:
                held.add(node)
            self._open(entry, MADE if made else FREE, node)
        for entry in self._inside:
            if plan.made.get(entry.key) and not entry.pod.unschedulable:
                held.add(plan.assigned[entry.key])
        return frozenset(held)

    def _open(self, entry: _Entry, how: str, node: str) -> None:
        pod = entry.pod
        reservation = reserved(entry.label, how, node, self._memory.promise(pod))
        self._decisions.append(LetIn(pod.namespace, pod.name, pod.uid, entry.label, reservation, pod.created))

    # Reclaim.

    def _reclaim(self, accepted: set[str], plan: Plan, ground: Ground) -> None:
        """Look for room that others must leave, for those who are still without, owners first."""
        waiting = [entry for entry in self._gated if entry.key not in accepted]
        for entry in waiting:
            if entry.key in self._kept:
                self._uncharge(entry)
        for entry in waiting:
            entry.owner = self._later.owns(entry.quota, entry.request)
        placed = {pod.key for pod, _ in self._placed}
        inside = [e for e in self._inside if e.pod.unschedulable and e.key not in plan.assigned and e.key not in placed]
        entries = sorted([*inside, *waiting], key=lambda e: (e.tier, -e.pod.priority, e.pod.created, e.key))
        vain: set[object] = set()
        groups, tried = self._groups(), set[str]()
        for entry in entries:
            gated = entry.pod.gated
            reason = plan.why.get(entry.key)
            group = entry.pod.group
            if gated and group in groups:
                if group not in tried:
                    tried.add(group)
                    members = [each for each in entries if each.pod.gated and each.pod.group == group]
                    ground = self._together_by_reclaim(members, groups[group], plan, ground)
                continue
            if self._searches >= MOST_RECLAIMS or (reason is not None and reason.later):
                self._tell(entry, reason)
                continue
            if not gated:
                self._uncharge(entry, summed=self._summed(entry))
            asks, selector = (tuple(sorted(of.items())) for of in (entry.request, entry.pod.node_selector))
            kind = entry.quota.key, asks, entry.pod.priority, entry.pod.node_affinity, selector
            found = None if kind in vain else self._found(entry, ground)
            if found is None:
                vain.add(kind)
                self._tell(entry, reason)
                self._without(entry, gated=gated)
                continue
            self._carry(entry, found, ground)

    def _together_by_reclaim(self, members: Sequence[_Entry], need: int, plan: Plan, ground: Ground) -> Ground:
        """Look for room for as many of a group as are of use together; where there is not enough, for nobody.

        Returns:
            The nodes as they are for those that come after.
        """
        before = list(self._carried)
        got: list[tuple[_Entry, Reclaim]] = []
        for entry in members:
            found = self._found(entry, ground, idle=True) if self._searches < MOST_RECLAIMS else None
            if found is not None:
                self._count(entry, found, ground)
                got.append((entry, found))
        if len(got) >= need:
            for entry, found in got:
                self._next(entry, found)
        else:
            for entry, found in reversed(got):
                for victim in found.victims:
                    if victim.quota is not None:
                        self._later.charge(victim.quota, victim.request)
                self._uncharge(entry)
            self._able, self._carried = None, []
            ground = self._after(plan)
            for entry, found in before:
                self._count(entry, found, ground, charge=False)
        served = {entry.key for entry, _ in got} if len(got) >= need else set()
        for entry in members:
            if entry.key not in served:
                self._tell(entry, plan.why.get(entry.key))
        return ground

    def _tell(self, entry: _Entry, reason: Reason | None) -> None:
        """Why a pod is not let in, or not bound: its quota, or else what the planner says of the nodes."""
        if entry.wait:
            self._waits[entry.key] = entry.wait
        elif reason is None:
            self._waits[entry.key] = "waits: no node has room"

    def _found(self, entry: _Entry, ground: Ground, *, idle: bool = False) -> Reclaim | None:
        """Where a pod fits once those have gone that are on their way, or whom to evict for it.

        ``idle``: it may be that nobody has to go.
        """
        pod, quota, request = entry.pod, entry.quota, entry.request
        sites = PodSites(ground, pod, self._refusing(pod))
        if (self._leaving or idle) and passes(self._later, quota, pod, request):
            node = next((node for node in sites.nodes() if sites.fits(node, ())), None)
            if node is not None:
                return Reclaim(node, ())
        if pod.protected and not self._later.owns(quota, request):
            return None
        able = self._borrowed()
        victims = victims_for(self._later, quota, pod, request, running=able.for_(quota), over=able.over)
        if not victims:
            return None
        self._searches += 1
        found = cheapest(Case(quota, self._later.refusals(quota, request), victims, sites, able.allowed))
        return found if found is not None and found.victims else None

    def _carry(self, entry: _Entry, found: Reclaim, ground: Ground) -> None:
        """Do what comes next for a pod that gets its room by others' end; what it waits for is kept for it."""
        self._next(entry, found)
        self._count(entry, found, ground)

    def _next(self, entry: _Entry, found: Reclaim) -> None:
        """What comes next for a pod that gets its room by others' end."""
        pod = entry.pod
        self._reclaiming.add(pod.key)
        goes = ", ".join(victim.pod.key for victim in found.victims)
        if not found.victims:
            self._waits[entry.key] = f"waits for pods on their way out on {found.node}"
        elif pod.gated and not self._hot(pod) and not self._beyond_max(entry):
            self._open(entry, RECLAIMED, found.node)
        elif not pod.gated and not self._hot(pod) and pod.nominated != found.node:
            self._decisions.append(Nominate(pod.namespace, pod.name, pod.uid, found.node))
            self._waits[entry.key] = f"waits: room is kept on {found.node}, then {goes} will be evicted"
        else:
            self._waits[entry.key] = f"waits: {goes} evicted for it on {found.node}"
            for victim in found.victims:
                self._decisions.append(
                    Evict(victim.pod.namespace, victim.pod.name, victim.pod.uid, pod.key, *self._why(entry, victim))
                )

    def _count(self, entry: _Entry, found: Reclaim, ground: Ground, *, charge: bool = True) -> None:
        """From here on in this round the victims are gone, and the pod is there."""
        self._carried.append((entry, found))
        if found.victims:
            self._borrowed().gone(found.victims)
            self._leaving |= {found.node}
        ground.release(victim.pod for victim in found.victims)
        ground.take(entry.pod, found.node)
        if charge:
            for victim in found.victims:
                if victim.quota is not None:
                    self._later.discharge(victim.quota, victim.request)
            self._charge(entry)

    def _beyond_max(self, entry: _Entry) -> bool:
        """Whether its quota's ``max`` keeps a pod out until others have gone."""
        return any(refusal.rule == "max" for refusal in self._now.refusals(entry.quota, entry.request))

    def _why(self, entry: _Entry, victim: Victim) -> tuple[str, str]:
        """Why a pod is evicted, for people and for the metric."""
        if victim.quota is entry.quota:
            return f"{entry.key} of the same quota has a higher priority", "priority"
        due = "its min" if entry.owner else "its guaranteed share"
        borrowed = victim.quota.name if victim.quota is not None else ""
        why = f"{borrowed} borrows, and {entry.quota.name} wants {due} back for {entry.key}"
        return why, "min" if entry.owner else "share"

    def _without(self, entry: _Entry, *, gated: bool) -> None:
        """A pod that nobody can make room for now."""
        pod = entry.pod
        fits_quota = passes(self._now, entry.quota, pod, entry.request)
        if not gated:
            self._charge(entry, summed=self._summed(entry))
            if pod.nominated and pod.reservation:
                self._decisions.append(Nominate(pod.namespace, pod.name, pod.uid, ""))
        elif (
            fits_quota
            and entry.tier == OWNER
            and self._now.owns(entry.quota, entry.request)
            and not self._hot(pod)
            and entry.pod.group not in self._groups()
        ):
            # So that an autoscaler sees it and may add nodes.
            entry.owner = True
            self._open(entry, NONE, "")
            self._charge(entry, summed=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """What follows from a quota and its pods that have a node alone.

    Attributes:
        quota: the quota.
        members: these pods, by namespace in its order.
        memory: what whole GPUs count for.
        now: what they use.
        later: what those use that are not on their way out.
        running: the latter.
        over: keys of those of them that are over-quota.
    """

    quota: Quota
    members: tuple[tuple[Pod, ...], ...]
    memory: GpuMemory
    now: Resources
    later: Resources
    running: tuple[Victim, ...]
    over: frozenset[str]

    @staticmethod
    def made(quota: Quota, members: tuple[tuple[Pod, ...], ...], memory: GpuMemory) -> _Sum:
        """Of some pods."""
        counted = [Victim(pod, memory.request(pod), quota) for pods in members for pod in pods if pod.node]
        running = tuple(victim for victim in counted if not victim.pod.terminating)
        now = resources.total(victim.request for victim in counted)
        later = now if len(running) == len(counted) else resources.total(victim.request for victim in running)
        return _Sum(quota, members, memory, now, later, running, _over(quota, running, memory))

    def of(self, quota: Quota, members: Sequence[tuple[Pod, ...]], memory: GpuMemory) -> bool:
        """Whether it is that of some objects."""
        same = all(one is other for one, other in zip(self.members, members, strict=False))
        return self.quota is quota and self.memory is memory and same


class _Borrowed:
    """Who may have to go for others, while a round evicts.

    Attributes:
        over: keys of over-quota pods.
        allowed: how many pods each disruption budget lets go.
    """

    def __init__(self, sums: Iterable[_Sum], budgets: Sequence[Budget], memory: GpuMemory) -> None:
        self._memory = memory
        self._running: dict[str, Sequence[Victim]] = {}
        self.over: set[str] = set()
        self.allowed = {budget.key: budget.allowed for budget in budgets}
        for known in sums:
            running: Sequence[Victim] = known.running
            if budgets:
                running = [replace(v, budgets=tuple(b.key for b in budgets if b.guards(v.pod))) for v in running]
            self._running[known.quota.key] = running
            self.over |= known.over
        self._borrowers = self._sorted()

    def _sorted(self) -> list[Victim]:
        borrowers = [victim for each in self._running.values() for victim in each if victim.pod.key in self.over]
        return sorted(borrowers, key=lambda victim: (-victim.pod.created, victim.pod.key))

    def for_(self, quota: Quota) -> list[Victim]:
        """Pods of the quota, and over-quota ones of others."""
        return [*self._running.get(quota.key, ()), *(v for v in self._borrowers if v.quota is not quota)]

    def gone(self, victims: Iterable[Victim]) -> None:
        """Some are evicted; labels of their quotas are found again."""
        keys = {victim.pod.key for victim in victims}
        for victim in victims:
            for budget in victim.budgets:
                self.allowed[budget] -= 1
        for quota in {victim.quota.key: victim.quota for victim in victims if victim.quota is not None}.values():
            left = [victim for victim in self._running[quota.key] if victim.pod.key not in keys]
            self.over -= {victim.pod.key for victim in self._running[quota.key]}
            self.over |= _over(quota, left, self._memory)
            self._running[quota.key] = left
        self._borrowers = self._sorted()


def _over(quota: Quota, running: Sequence[Victim], memory: GpuMemory) -> frozenset[str]:
    """Keys of the over-quota pods among those of a quota."""
    labels = capacity_labels(quota, [victim.pod for victim in running], memory)
    return frozenset(key for key, label in labels.items() if label == names.OVER_QUOTA)


class _Last:
    """What the last round worked out, where equal objects give equal answers; no more than one snapshot shows.

    Attributes:
        copies: by key, a pod, how it was seen, and its copy for the plan.
        sums: by quota.
    """

    copies: Mapping[str, tuple[Pod, tuple[int, bool], Pod]] = {}
    sums: dict[str, _Sum] = {}  # noqa: RUF012 - replaced as a whole


def _copy(pod: Pod, *, tier: int, refused: bool) -> Pod:
    """A pod as the planner should see it: let in, and behind all of earlier tiers."""
    known = _Last.copies.get(pod.key)
    if known is not None and known[0] is pod and known[1] == (tier, refused):
        return known[2]
    return replace(pod, gates=(), priority=pod.priority - tier * BEHIND, unschedulable=refused)
