"""What quotas say of their namespaces' pods: usage, labels, standing. Enforcement is not decided here.

What follows from a quota and its running pods alone is kept for the next round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from brain.decide.decisions import LabelPod, UpdateQuota
from brain.model import resources
from brain.model.pod import Pod
from brain.model.quota import Condition, Quota, QuotaStatus, Standing, Verdict, standings
from brain.model.resources import Resources
from brain.model.snapshot import Snapshot
from n8s import names


def quota_decisions(snapshot: Snapshot, gpu_memory_gb: int) -> Iterator[LabelPod | UpdateQuota]:
    """Where a quota's status or a pod's capacity label is not what it should be, what to write.

    A pod that does not run, or whose namespace has no active quota, carries no capacity label.
    """
    verdicts = standings(snapshot.quotas)
    running = snapshot.running()
    last, sums = _Last.sums, dict[str, _Sum]()
    governed: set[str] = set()
    writes: list[LabelPod] = []
    for quota in sorted(snapshot.quotas, key=lambda quota: quota.key):
        verdict = verdicts[quota.key]
        used: Mapping[str, int] = {}
        if verdict.standing is Standing.ACTIVE:
            governed.update(quota.namespaces)
            members = tuple(running.get(namespace, ()) for namespace in quota.namespaces)
            known = last.get(quota.key)
            if known is None or not known.of(quota, members, gpu_memory_gb):
                known = _summed(quota, members, gpu_memory_gb)
            sums[quota.key] = known
            used = known.used
            writes += known.writes
        status = QuotaStatus(used, tuple(_conditions(verdict)), quota.generation)
        if status != quota.status:
            yield UpdateQuota(quota, status)
    _Last.sums = sums
    labelled = snapshot.labelled()
    writes += _writes((pod for pod in labelled if not _bears(pod) or pod.namespace not in governed), {})
    yield from sorted(writes, key=lambda write: (write.namespace, write.name))


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


def _summed(quota: Quota, members: tuple[tuple[Pod, ...], ...], gpu_memory_gb: int) -> _Sum:
    pods = [pod for group in members for pod in group]
    writes = tuple(_writes(pods, capacity_labels(quota, pods, gpu_memory_gb)))
    return _Sum(quota, members, gpu_memory_gb, usage(quota, pods, gpu_memory_gb), writes)


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """What follows from a quota and its running pods alone.

    Attributes:
        quota: the quota.
        members: its running pods, by namespace in its order.
        gpu_memory_gb: what one whole GPU counts for.
        used: see :func:`usage`.
        writes: where those pods' capacity labels are not what they should be.
    """

    quota: Quota
    members: tuple[tuple[Pod, ...], ...]
    gpu_memory_gb: int
    used: Mapping[str, int]
    writes: tuple[LabelPod, ...]

    def of(self, quota: Quota, members: Sequence[tuple[Pod, ...]], gpu_memory_gb: int) -> bool:
        """Whether it is that of some objects."""
        same = all(one is other for one, other in zip(self.members, members, strict=False))
        return self.quota is quota and self.gpu_memory_gb == gpu_memory_gb and same


class _Last:
    """The sums of the last round, by quota; no more is kept than one snapshot shows."""

    sums: Mapping[str, _Sum] = {}


def usage(quota: Quota, pods: Iterable[Pod], gpu_memory_gb: int) -> dict[str, int]:
    """What pods ask for of each resource that the quota names."""
    used = resources.total(resources.with_gpu_memory(pod.request, gpu_memory_gb) for pod in pods)
    return {name: used.get(name, 0) for name in sorted(quota.named)}


def capacity_labels(quota: Quota, pods: Iterable[Pod], gpu_memory_gb: int) -> dict[str, str]:
    """The capacity label of each of a quota's running pods, by pod key.

    Protected pods first, then the oldest, the highest priority, the smaller request (resource by resource in name
    order), the name: in-quota while the running sum stays within ``min`` on each resource that it names.
    """
    ordered = list(pods)
    requests = {pod.key: resources.with_gpu_memory(pod.request, gpu_memory_gb) for pod in ordered}
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


def _conditions(verdict: Verdict) -> Iterator[Condition]:
    """All three standings as conditions, by type, so that each can be waited for."""
    for standing in sorted(Standing, key=lambda standing: standing.value):
        holds = verdict.standing is standing
        reason = verdict.standing.value if holds or standing is Standing.ACTIVE else f"Not{standing.value}"
        message = verdict.reason if holds or standing is Standing.ACTIVE else ""
        yield Condition(standing.value, holds, reason, message)
