"""Quota questions as documents: who is let in, who is evicted, who is over-quota; for ``n8s quota decide``.

A document has quotas, pods that run, nodes (by what is allocatable; none: room plays no part) and either one pod that
waits, several of them, a request to count, or a quota that somebody writes. Nothing is repartitioned here: MIG devices
are counted like any other resource.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from brain.decide.entitlement import Borrowing, passes, victims_for
from brain.decide.gpumemory import GpuMemory
from brain.decide.ground import Ground, Land, PodSites
from brain.decide.labels import capacity_labels
from brain.decide.ledger import Ledger, Refusal, by_namespace
from brain.decide.reclaim import Case, Reclaim, Victim, cheapest
from brain.model import resources
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Quota, Standing, active, standings
from brain.model.snapshot import Snapshot
from brain.offline import asked, written
from brain.offline.errors import WHOLE
from brain.offline.question import Amounts, Question, Request, StatedNode, StatedPod, StatedQuota, read, titles
from n8s import names

_ANY: Final = 10**18
"""As good as no limit."""


_EVERYWHERE: Final = StatedNode("", Amounts())
"""Stands for all nodes where a document has none: every pod fits."""


def answer(document: object, file: str, path: str = WHOLE) -> dict[str, Any]:
    """What follows for one document: its name, and the fields that apply to its kind.

    Raises:
        InputError: it cannot be understood.
    """
    question = read(document, file, path)
    found: dict[str, Any] = {"name": question.name}
    if question.input is not None:
        found |= _counted(question.input, question.gpu_memory_gb)
    elif question.written is not None:
        found |= written.answer(question, question.written)
    else:
        found |= _World(question).answer()
    return found


def _counted(request: Request, gpu_memory_gb: int) -> dict[str, Any]:
    """What quotas count for a request."""
    whole = resources.with_gpu_memory(request, gpu_memory_gb)
    return {"request": dict(sorted(whole.items())), "gpu_memory": whole.get(names.GPU_MEMORY, 0)}


def _quota(stated: StatedQuota, age: int) -> Quota:
    """A quota of a world. Its resources may have any name, and it may limit only."""
    least, most = asked.amounts(stated.min), asked.amounts(stated.max)
    problems = [f"min[{name}]: {value} is negative" for name, value in least.items() if value < 0]
    problems += [f"max[{name}]: {value} is negative" for name, value in most.items() if value < 0]
    problems += [
        f"min[{name}]: {value} is more than max[{name}], which is {most[name]}"
        for name, value in least.items()
        if name in most and value > most[name]
    ]
    if not stated.namespaces:
        problems.append("namespaces: name at least one namespace")
    return replace(stated.quota(age, problems), min=least, max=most)


class _World:
    """Quotas, pods and nodes of one document."""

    def __init__(self, question: Question) -> None:
        self._question = question
        stated = [_quota(each, age) for age, each in enumerate(question.quotas)]
        self._titles = {quota.key: title for quota, title in zip(stated, titles(question.quotas), strict=True)}
        self._verdicts = standings(stated)
        self._quotas = active(stated)
        self._of = by_namespace(self._quotas)
        self._running = [self._pod(each) for each in question.running]
        waiting = {f"{each.ns}/{each.name}" for each in self._waiting}
        self._nominated = [pod for each in question.nominated if (pod := self._pod(each)).key not in waiting]
        named = {name for each in (*question.running, *question.nominated, *self._waiting) for name in each.request}
        self._nodes = [
            Node(each.name, allocatable={**dict.fromkeys([*named, resources.PODS], _ANY), **each.allocatable})
            for each in question.nodes or [_EVERYWHERE]
        ]

    @property
    def _waiting(self) -> list[StatedPod]:
        question = self._question
        return [*([question.pending] if question.pending else []), *(question.pending_sequence or [])]

    def answer(self) -> dict[str, Any]:
        """The fields that apply."""
        ledger = self._ledger()
        found: dict[str, Any] = {}
        if self._running or self._question.used_override:
            found["labels"] = self._labels()
        running = self._ledger(nominated=False)
        found["used"] = {
            self._titles[quota.key]: {name: running.used[quota.key][name] for name in sorted(quota.named)}
            for quota in self._quotas
        }
        found["guaranteed_overquota"] = {
            self._titles[quota.key]: dict(sorted(ledger.share(quota).items())) for quota in self._quotas
        }
        found["available_overquota"] = {
            name: ledger.lendable(name) for name in sorted({name for quota in self._quotas for name in quota.min})
        }
        idle = {key: verdict for key, verdict in self._verdicts.items() if verdict.standing is not Standing.ACTIVE}
        if idle:
            found["not_active"] = {
                self._titles[key]: f"{verdict.standing.value}: {verdict.reason}" for key, verdict in idle.items()
            }
        if self._question.pending is not None:
            found |= self._one(self._pod(self._question.pending))
        elif self._question.pending_sequence is not None:
            found |= self._all([self._pod(each) for each in self._question.pending_sequence])
        return found

    def _pod(self, stated: StatedPod) -> Pod:
        return Pod(
            stated.ns,
            stated.name,
            f"{stated.ns}/{stated.name}",
            stated.created,
            stated.request,
            stated.labels,
            "Running" if stated.node else "Pending",
            stated.node,
            priority=stated.priority,
        )

    def _request(self, pod: Pod) -> dict[str, int]:
        return resources.with_gpu_memory(pod.request, self._question.gpu_memory_gb)

    def _ledger(self, *, nominated: bool = True) -> Ledger:
        """What is used; of a quota whose totals the document gives, those.

        Nominated pods count in their own quota and, while it is within ``min`` of what they ask for, in the sums.
        """
        ledger = Ledger(self._quotas)
        given = self._question.used_override
        for pod in self._running:
            quota = self._of.get(pod.namespace)
            if quota is not None and self._titles[quota.key] not in given:
                ledger.charge(quota, self._request(pod))
        for quota in self._quotas:
            ledger.charge(quota, given.get(self._titles[quota.key], {}))
        if not nominated:
            return ledger
        counted = [
            (quota, self._request(pod)) for pod in self._nominated if (quota := self._of.get(pod.namespace)) is not None
        ]
        for quota, request in counted:
            ledger.charge(quota, request, summed=False)
        over = {quota.key: ledger.over_min(quota) for quota, _ in counted}
        for quota, request in counted:
            if not over[quota.key] & {name for name, value in request.items() if value}:
                ledger.discharge(quota, request, summed=False)
                ledger.charge(quota, request)
        return ledger

    def _labels(self) -> dict[str, str]:
        members: defaultdict[str, list[Pod]] = defaultdict(list)
        for pod in self._running:
            quota = self._of.get(pod.namespace)
            if quota is not None:
                members[quota.key].append(pod)
        labels: dict[str, str] = {}
        memory = GpuMemory(self._question.gpu_memory_gb)
        for quota in self._quotas:
            labels |= capacity_labels(quota, members[quota.key], memory)
        return labels

    def _one(self, pod: Pod) -> dict[str, Any]:
        admitted, reclaim, refused = self._judged(pod)
        found: dict[str, Any] = {"admitted": admitted is not None}
        if admitted is None:
            found["admitted_after_eviction"] = reclaim is not None
        found["victims"] = sorted(victim.pod.key for victim in reclaim.victims) if reclaim is not None else []
        if refused:
            found["rejected_by"] = refused
        return found

    def _all(self, waiting: list[Pod]) -> dict[str, Any]:
        """Lets pods in, owners first, then by priority, until none goes in any more."""
        victims: list[str] = []
        moved = True
        while moved and waiting:
            moved = False
            ledger = self._ledger()
            for pod in sorted(waiting, key=lambda pod: (not self._owns(ledger, pod), -pod.priority)):
                admitted, reclaim, _ = self._judged(pod)
                if admitted is None and reclaim is None:
                    continue
                gone = [victim.pod.key for victim in reclaim.victims] if reclaim is not None else []
                victims += gone
                node = admitted if reclaim is None else reclaim.node
                running = [other for other in self._running if other.key not in gone]
                self._running = [*running, replace(pod, node=node or "", phase="Running")]
                waiting = [other for other in waiting if other is not pod]
                moved = True
                break
        return {"final_running": sorted(pod.key for pod in self._running), "victims": sorted(victims)}

    def _owns(self, ledger: Ledger, pod: Pod) -> bool:
        quota = self._of.get(pod.namespace)
        return quota is None or ledger.owns(quota, self._request(pod))

    def _judged(self, pod: Pod) -> tuple[str | None, Reclaim | None, str]:
        """The node that the pod is let in to; else whom to evict for it; else the rule that refuses it."""
        ledger, request = self._ledger(), self._request(pod)
        quota = self._of.get(pod.namespace)
        land = Land(Snapshot(tuple(self._nodes), tuple(self._running)))
        sites = PodSites(Ground(land), pod)
        if passes(ledger, quota, pod, request):
            for node in sites.nodes():
                if sites.fits(node, ()):
                    return node, None, ""
        running = [Victim(each, self._request(each), self._of.get(each.namespace)) for each in self._running]
        labels = self._labels()
        borrowers: defaultdict[str, list[Victim]] = defaultdict(list)
        for victim in running:
            if victim.quota is not None and labels[victim.pod.key] == names.OVER_QUOTA:
                borrowers[victim.quota.key].append(victim)
        own = [victim for victim in running if victim.quota is quota]
        victims = victims_for(
            ledger, quota, pod, request, own=own, borrowers={key: Borrowing(over) for key, over in borrowers.items()}
        )
        refusals = ledger.refusals(quota, request) if quota is not None else []
        if pod.protected and quota is not None and not ledger.owns(quota, request):
            return None, None, "protected"
        reclaim = cheapest(Case(quota, refusals, victims, sites))
        if reclaim is not None:
            return None, reclaim, _rule(refusals)
        for victim in victims:
            if victim.quota is not None:
                ledger.discharge(victim.quota, victim.request)
        return None, None, _rule(ledger.refusals(quota, request) if quota is not None else [])


def _rule(refusals: Sequence[Refusal]) -> str:
    """The rule that refuses; where ``max`` asks for as much to go, what is left to borrow tells nothing more."""
    by_max = {refusal.resource: refusal.short for refusal in refusals if refusal.rule == "max"}
    rules_ = {each.rule for each in refusals if each.rule == "max" or each.short > by_max.get(each.resource, 0)}
    return "sum_min_or_max" if len(rules_) > 1 else "".join(rules_)
