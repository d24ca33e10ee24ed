"""What kube-scheduler would say of a pod on a node, MIG devices aside: selectors, affinity, taints, room.

What other pods mean for it is :mod:`brain.decide.neighbours`' business; volumes are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from brain.model import resources
from brain.model.node import Node, Taint
from brain.model.pod import NodeSelectorTerm, Pod, Toleration
from n8s import names

ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - compared, not listened on
"""The address of a host port that is taken on all addresses of its node."""
_CORDONED: Final = Taint("node.kubernetes.io/unschedulable")


def unsuitable(pod: Pod, node: Node) -> str:
    """Why a node is not one that the pod may run on, however empty; "" when it may. Our own taint does not count.

    The phrases are categories without names of nodes, so that equal ones can be counted together.
    """
    if not node.ready:
        return "is not ready"
    if node.unschedulable and not _tolerated(_CORDONED, pod.tolerations):
        return "is cordoned"
    if any(node.labels.get(key) != value for key, value in pod.node_selector.items()):
        return "does not match the pod's node selector"
    if not _affine(pod, node):
        return "does not match the pod's node affinity"
    taint = untolerated(pod, node)
    return f"has taint {taint.key} that the pod does not tolerate" if taint is not None else ""


def selected(pod: Pod, node: Node) -> bool:
    """Whether the pod's node selector and node affinity allow the node."""
    return all(node.labels.get(key) == value for key, value in pod.node_selector.items()) and _affine(pod, node)


def untolerated(pod: Pod, node: Node) -> Taint | None:
    """The first taint, ours aside, that keeps the pod from the node; None where none does."""
    for taint in node.taints:
        if (
            taint.key != names.REPARTITIONING_TAINT
            and taint.effect in {"NoSchedule", "NoExecute"}
            and not _tolerated(taint, pod.tolerations)
        ):
            return taint
    return None


def tolerates_repartitioning(pod: Pod) -> bool:
    """Whether the pod can be bound in spite of our taint."""
    return _tolerated(Taint(names.REPARTITIONING_TAINT), pod.tolerations)


def free_resources(node: Node, bound: Iterable[Pod]) -> dict[str, int]:
    """What a node has left by the scheduler's count, pods included, MIG devices left out."""
    free = {name: value for name, value in node.allocatable.items() if not name.startswith(names.MIG_PREFIX)}
    for pod in bound:
        take(free, pod)
    return free


def take(free: dict[str, int], pod: Pod) -> None:
    """Subtract what a pod takes of a node, its MIG devices left out."""
    free[resources.PODS] = free.get(resources.PODS, 0) - 1
    for name, value in pod.request.items():
        if not name.startswith(names.MIG_PREFIX):
            free[name] = free.get(name, 0) - value


def too_small(pod: Pod, free: Mapping[str, int]) -> str:
    """Which resources, MIG devices aside, a node has too little of; "" when it has enough."""
    asked = {name: value for name, value in pod.request.items() if not name.startswith(names.MIG_PREFIX)}
    lacking = resources.lacking({**asked, resources.PODS: 1}, free)
    return f"has too little {', '.join(lacking)}" if lacking else ""


def ports_taken(pod: Pod, bound: Iterable[Pod]) -> str:
    """Whether a host port of the pod is taken by another on the node; "" when none is."""
    for other in bound:
        for protocol, address, port in pod.host_ports:
            for other_protocol, other_address, other_port in other.host_ports:
                overlap = address == other_address or ANY_ADDRESS in {address, other_address}
                if (protocol, port) == (other_protocol, other_port) and overlap:
                    return f"has host port {port} taken"
    return ""


def _tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    return any(
        (toleration.effect in {"", taint.effect})
        and (toleration.key == taint.key or (not toleration.key and toleration.operator == "Exists"))
        and (toleration.operator == "Exists" or toleration.value == taint.value)
        for toleration in tolerations
    )


def _affine(pod: Pod, node: Node) -> bool:
    return pod.node_affinity is None or any(_matches(term, node) for term in pod.node_affinity)


def _matches(term: NodeSelectorTerm, node: Node) -> bool:
    if not term.labels and not term.fields:
        return False
    return all(requirement.holds(node.labels) for requirement in term.labels) and all(
        requirement.holds({"metadata.name": node.name}) for requirement in term.fields
    )
