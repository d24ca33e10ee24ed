"""Pods that are bound later than the settle time covers: after the last look at a node that then is changed.

The scheduler takes a pod in before its bind shows; that is why the taint stands for a while before the brain looks and
orders. A bind that comes later still, and that of a pod whose node was not the scheduler's choice, cannot be kept from
meeting a device that is about to go. It is counted and told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from brain.decide import fit
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot


def late_binds(snapshot: Snapshot, ordered: Iterable[str]) -> tuple[list[Pod], Mapping[str, frozenset[str]]]:
    """Pods bound to nodes since the last look before these were ordered to change, and what is known of them now.

    A node is looked after from its first order until the taint goes; each pod is found once. Pods that tolerate the
    taint are bound in spite of it at any time.

    Args:
        snapshot: the cluster.
        ordered: nodes that get an order now.

    Returns:
        The pods, and the next snapshot's :attr:`~brain.model.snapshot.Snapshot.looks`.
    """
    names = {*snapshot.looks, *ordered}
    if not names:
        return [], {}
    found: list[Pod] = []
    looks: dict[str, frozenset[str]] = {}
    for node in snapshot.nodes:
        if node.name in names and node.repartitioning:
            pods = _asking(snapshot, node)
            looks[node.name] = frozenset(pod.uid for pod in pods)
            before = snapshot.looks.get(node.name)
            if before is not None:
                found += [pod for pod in pods if pod.uid not in before and not fit.tolerates_repartitioning(pod)]
    return sorted(found, key=lambda pod: pod.key), looks


def told(pod: Pod) -> str:
    """What such a pod is told."""
    return (
        f"bound to node {pod.node} while its GPUs were being changed, later than the settle time covers, so that its "
        "device may have gone; if that happens often, make the settle time longer (chart value brain.settleSeconds)"
    )


def _asking(snapshot: Snapshot, node: Node) -> list[Pod]:
    """The pods bound to a node that ask for MIG devices, those among them that the kubelet has failed included."""
    bound = [pod for pod in snapshot.bound().get(node.name, ()) if pod.mig_request]
    return bound + [pod for pod in snapshot.failed() if pod.node == node.name]
