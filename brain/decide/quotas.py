"""What quotas say of their namespaces' pods: usage, labels, standing. Enforcement is not decided here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

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
    running: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in snapshot.pods:
        if pod.phase == "Running":
            running[pod.namespace].append(pod)
    labels: dict[str, str] = {}
    for quota in sorted(snapshot.quotas, key=lambda quota: quota.key):
        verdict = verdicts[quota.key]
        pods = [pod for namespace in quota.namespaces for pod in running[namespace]]
        active = verdict.standing is Standing.ACTIVE
        used = usage(quota, pods, gpu_memory_gb) if active else {}
        status = QuotaStatus(used, tuple(_conditions(verdict)), quota.generation)
        if status != quota.status:
            yield UpdateQuota(quota, status)
        if active:
            labels |= capacity_labels(quota, pods, gpu_memory_gb)
    for pod in sorted(snapshot.pods, key=lambda pod: pod.key):
        wanted = labels.get(pod.key) if pod.phase == "Running" else pod.labels.get(names.CAPACITY_LABEL)
        if wanted != pod.labels.get(names.CAPACITY_LABEL):
            yield LabelPod(pod.namespace, pod.name, pod.uid, names.CAPACITY_LABEL, wanted)


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
