"""What quotas say of their namespaces' pods: usage, labels, standing. Enforcement is not decided here.

What follows from a quota and its own pods alone is kept for the next round.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

from brain.decide.decisions import LabelPod, UpdateQuota
from brain.decide.gpumemory import GpuMemory
from brain.decide.ledger import Ledger
from brain.model import resources
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import EXCEEDS, RECLAIMING, Condition, Quota, QuotaStatus, Standing, Verdict, standings
from brain.model.resources import Resources
from brain.model.snapshot import Snapshot
from n8s import names

MOST_FOLLOWING: Final = 32
"""Statuses written in one round only because of what other quotas use."""


def quota_decisions(
    snapshot: Snapshot, gpu_memory_gb: int, reclaiming: Set[str] = frozenset()
) -> Iterator[LabelPod | UpdateQuota]:
    """Where a quota's status or a pod's capacity label is not what it should be, what to write.

    A pod that does not run, or whose namespace has no active quota, carries no capacity label. ``reclaiming`` are keys
    of pods that others must leave for.
    """
    verdicts = standings(snapshot.quotas)
    memory = GpuMemory.of(gpu_memory_gb, snapshot.nodes)
    running, counted = snapshot.running(), snapshot.counted()
    last, sums = _Last.sums, dict[str, _Sum]()
    governed: set[str] = set()
    writes: list[LabelPod] = []
    ordered = sorted(snapshot.quotas, key=lambda quota: quota.key)
    for quota in ordered:
        if verdicts[quota.key].standing is Standing.ACTIVE:
            governed.update(quota.namespaces)
            members = tuple(of.get(namespace, ()) for of in (running, counted) for namespace in quota.namespaces)
            known = last.get(quota.key)
            if known is None or not known.of(quota, members, memory):
                known = _summed(quota, members, memory)
            sums[quota.key] = known
            writes += known.writes
    _Last.sums = sums
    conditions = {quota.key: _conditions(verdicts[quota.key]) for quota in ordered}
    for name, said in (
        _reclaims(ordered, reclaiming),
        _exceeding([known.quota for known in sums.values()], snapshot.nodes),
    ):
        for quota in ordered:
            message = said.get(quota.key, "") if quota.key in sums else ""
            reason = name if message else f"Not{name}"
            conditions[quota.key].append(Condition(name, bool(message), reason, message))
    yield from _updates(ordered, conditions, sums)
    labelled = snapshot.labelled()
    writes += _writes((pod for pod in labelled if not _bears(pod) or pod.namespace not in governed), {})
    yield from sorted(writes, key=lambda write: (write.namespace, write.name))


def _updates(
    quotas: Sequence[Quota], conditions: Mapping[str, list[Condition]], sums: Mapping[str, _Sum]
) -> Iterator[UpdateQuota]:
    """Where a status is not what it should be, what to write.

    Each pod changes what is left for all quotas. So of the statuses in which nothing else is new, a round writes those
    that are the furthest off; what is written brings the next round.
    """
    ledger = Ledger(quota for quota in quotas if quota.key in sums)
    for quota in ledger.quotas.values():
        ledger.charge(quota, sums[quota.key].reserved)
    borrowed: Counter[str] = Counter()
    for quota in ledger.quotas.values():
        borrowed.update(ledger.borrowed(quota))
    following: list[tuple[int, UpdateQuota]] = []
    for quota in quotas:
        held = tuple(sorted(conditions[quota.key], key=lambda condition: condition.type))
        status = QuotaStatus(conditions=held, generation=quota.generation)
        if quota.key in sums:
            known = sums[quota.key]
            left = {name: max(0, value - known.reserved[name]) for name, value in quota.min.items()}
            status = replace(
                status,
                used=known.used,
                reserved=known.reserved,
                borrowed=ledger.borrowed(quota),
                lent={name: min(value, borrowed[name]) for name, value in left.items()},
                guaranteed_over_quota=ledger.share(quota),
                gpu_memory=known.memory.shown() if names.GPU_MEMORY in quota.named else {},
            )
        shown = quota.status
        if status == shown:
            continue
        if replace(status, lent=shown.lent, guaranteed_over_quota=shown.guaranteed_over_quota) != shown:
            yield UpdateQuota(quota, status)
        else:
            following.append((_distance(quota, status), UpdateQuota(quota, status)))
    following.sort(key=lambda each: -each[0])
    yield from (update for _, update in following[:MOST_FOLLOWING])


def _distance(quota: Quota, status: QuotaStatus) -> int:
    """By how much what a status shows of others' doing is off: per mille of ``min``."""
    shown = quota.status
    return max(
        (
            1000 * abs(now.get(name, 0) - before.get(name, 0)) // max(1, least)
            for now, before in ((status.lent, shown.lent), (status.guaranteed_over_quota, shown.guaranteed_over_quota))
            for name, least in quota.min.items()
        ),
        default=0,
    )


def _writes(pods: Iterable[Pod], labels: Mapping[str, str]) -> Iterator[LabelPod]:
    """What to write where pods carry other capacity labels than they should."""
    name = names.CAPACITY_LABEL
    for pod in pods:
        wanted = labels.get(pod.key) if labels else None
        if wanted != pod.labels.get(name):
            yield LabelPod(pod.namespace, pod.name, pod.uid, name, wanted)


def _bears(pod: Pod) -> bool:
    """Whether a pod of a quota carries a capacity label: while it runs, and from when it was let in."""
    return pod.phase == "Running" or (bool(pod.reservation) and not pod.ended)


def _summed(quota: Quota, members: tuple[tuple[Pod, ...], ...], memory: GpuMemory) -> _Sum:
    half = len(quota.namespaces)
    running, counted = ([pod for group in part for pod in group] for part in (members[:half], members[half:]))
    writes = tuple(_writes(running, capacity_labels(quota, running, memory)))
    used, reserved = (usage(quota, pods, memory) for pods in (running, counted))
    return _Sum(quota, members, memory, used, reserved, writes)


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """What follows from a quota and its own pods alone.

    Attributes:
        quota: the quota.
        members: its running pods, by namespace in its order, then those that decisions count.
        memory: what whole GPUs count for.
        used: what its running pods use; see :func:`usage`.
        reserved: what those use that decisions count.
        writes: where those pods' capacity labels are not what they should be.
    """

    quota: Quota
    members: tuple[tuple[Pod, ...], ...]
    memory: GpuMemory
    used: Mapping[str, int]
    reserved: Mapping[str, int]
    writes: tuple[LabelPod, ...]

    def of(self, quota: Quota, members: Sequence[tuple[Pod, ...]], memory: GpuMemory) -> bool:
        """Whether it is that of some objects."""
        same = all(one is other for one, other in zip(self.members, members, strict=False))
        return self.quota is quota and self.memory is memory and same


class _Last:
    """The sums of the last round, by quota; no more is kept than one snapshot shows."""

    sums: Mapping[str, _Sum] = {}


def usage(quota: Quota, pods: Iterable[Pod], memory: GpuMemory) -> dict[str, int]:
    """What pods ask for of each resource that the quota names."""
    used = resources.total(memory.request(pod) for pod in pods)
    return {name: used.get(name, 0) for name in sorted(quota.named)}


def capacity_labels(quota: Quota, pods: Iterable[Pod], memory: GpuMemory) -> dict[str, str]:
    """The capacity label of each of a quota's running pods, by pod key.

    Protected pods first, then the oldest, the highest priority, the smaller request (resource by resource in name
    order), the name: in-quota while the running sum stays within ``min`` on each resource that it names.
    """
    ordered = list(pods)
    requests = {pod.key: memory.request(pod) for pod in ordered}
    asked = sorted(set[str]().union(*requests.values()))
    labels: dict[str, str] = {}
    total: Resources = {}
    for pod in sorted(ordered, key=lambda pod: _seniority(pod, requests[pod.key], asked)):
        total = resources.total([total, requests[pod.key]])
        within = all(total.get(name, 0) <= limit for name, limit in quota.min.items())
        labels[pod.key] = names.IN_QUOTA if within else names.OVER_QUOTA
    return labels


def _seniority(pod: Pod, request: Resources, asked: Sequence[str]) -> tuple[object, ...]:
    """What pods are put in order by; ``asked`` are the resources that any of them asks for, in name order."""
    protected = pod.labels.get(names.PREEMPTIBLE_LABEL) == "false"
    sizes = tuple(request.get(name, 0) for name in asked)
    return not protected, pod.created, -pod.priority, sizes, pod.key


def _reclaims(quotas: Iterable[Quota], reclaiming: Set[str]) -> tuple[str, dict[str, str]]:
    """The condition that says that room is taken back, with its message by quota key where it holds."""
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(reclaiming):
        waiting[key.partition("/")[0]].append(key)
    pods = {quota.key: [key for namespace in quota.namespaces for key in waiting[namespace]] for quota in quotas}
    said = {key: f"{len(keys)} pods wait for others to leave, first {keys[0]}" for key, keys in pods.items() if keys}
    return RECLAIMING, said


def _exceeding(active: Iterable[Quota], nodes: Iterable[Node]) -> tuple[str, dict[str, str]]:
    """The condition that says that more is guaranteed than there is, with its message by quota key where it holds.

    MIG devices and GPU memory are not judged: how much of them there can be is for the planner to find.
    """
    guaranteed: Counter[str] = Counter()
    whose: defaultdict[str, list[str]] = defaultdict(list)
    for quota in active:
        for name, value in quota.min.items():
            if name != names.GPU_MEMORY and not name.startswith(names.MIG_PREFIX):
                guaranteed[name] += value
                whose[name].append(quota.key)
    there = dict.fromkeys(guaranteed, 0)
    for node in nodes:
        for name in there:
            there[name] += node.allocatable.get(name, 0)
    said: dict[str, str] = {}
    for name, value in sorted(guaranteed.items()):
        if value > there[name]:
            least, most = (resources.quantity(name, each) for each in (value, there[name]))
            text = f"quotas guarantee {least} {name}, and nodes have {most}"
            said |= {key: f"{said[key]}; {text}" if key in said else text for key in whose[name]}
    return EXCEEDS, said


def _conditions(verdict: Verdict) -> list[Condition]:
    """All three standings as conditions, so that each can be waited for."""
    found = []
    for standing in Standing:
        holds = verdict.standing is standing
        reason = verdict.standing.value if holds or standing is Standing.ACTIVE else f"Not{standing.value}"
        message = verdict.reason if holds or standing is Standing.ACTIVE else ""
        found.append(Condition(standing.value, holds, reason, message))
    return found
