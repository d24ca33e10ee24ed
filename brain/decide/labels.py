"""Which of a quota's pods are in-quota and which are over-quota. Who must go for whom is not decided here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from brain.decide.gpumemory import GpuMemory
from brain.model import resources
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources
from n8s import names


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


def over_quota(quota: Quota, pods: Iterable[Pod], memory: GpuMemory) -> frozenset[str]:
    """Keys of the over-quota pods among those of a quota."""
    labels = capacity_labels(quota, pods, memory)
    return frozenset(key for key, label in labels.items() if label == names.OVER_QUOTA)


def _seniority(pod: Pod, request: Resources, asked: Sequence[str]) -> tuple[object, ...]:
    """What pods are put in order by; ``asked`` are the resources that any of them asks for, in name order."""
    sizes = tuple(request.get(name, 0) for name in asked)
    return not pod.protected, pod.created, -pod.priority, sizes, pod.key
