"""What the scheduler counts for a pod, from what its containers ask for.

Follows ``PodRequests`` of Kubernetes' ``component-helpers/resource`` and KEP-753 (sidecars), KEP-2837 (pod-level
resources). A request changed in place and not yet acted on by the kubelet is taken as it is in the spec.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from brain.model import resources
from brain.model.resources import Resources

_HUGEPAGES = "hugepages-"


@dataclass(frozen=True, slots=True)
class Container:
    """What one container asks for.

    Attributes:
        requests: its requests.
        limits: its limits; they stand in for requests that are missing.
        sidecar: whether it is an init container that runs on (``restartPolicy: Always``).
    """

    requests: Resources = field(default_factory=dict)
    limits: Resources = field(default_factory=dict)
    sidecar: bool = False

    @property
    def effective(self) -> Resources:
        """Its requests, with limits where requests are missing."""
        return {**self.limits, **self.requests} if self.limits else self.requests


def pod_request(
    containers: Iterable[Container],
    init_containers: Iterable[Container] = (),
    overhead: Resources | None = None,
    pod_level: Container | None = None,
) -> dict[str, int]:
    """What the scheduler counts for a pod, without zeros.

    Per resource: the larger of what runs together (containers and sidecars) and what each init container takes
    beside the sidecars started before it. CPU, memory and huge pages that the pod itself names replace that; its
    limits do so only where no container names the resource. The overhead comes on top.
    """
    together = resources.total(container.effective for container in containers)
    sidecars: dict[str, int] = {}
    first: dict[str, int] = {}
    for container in init_containers:
        if container.sidecar:
            sidecars = resources.total([sidecars, container.effective])
            first = resources.larger(first, sidecars)
        else:
            first = resources.larger(first, resources.total([sidecars, container.effective]))
    request = resources.larger(resources.total([together, sidecars]), first)
    if pod_level is not None:
        own = {**{name: n for name, n in pod_level.limits.items() if name not in request}, **pod_level.requests}
        request |= {name: n for name, n in own.items() if is_pod_level(name)}
    return {name: n for name, n in resources.total([request, overhead or {}]).items() if n}


def is_pod_level(resource: str) -> bool:
    """Whether a pod can ask for a resource as a whole, beside its containers."""
    return resource in {resources.CPU, resources.MEMORY} or resource.startswith(_HUGEPAGES)
