"""Pods that fit on a node as it is and that the scheduler does not bind all the same: MIG is not what they lack.

Such a pod has a reason that the snapshot does not show, a volume that does not exist or a scheduler that is down. What
it would take is not kept for it: others may use it, and the pod is told that it is not MIG that it waits for. Where the
scheduler says that other nodes lack nothing but devices, room is made for it on one of those.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from brain.decide.neighbours import Neighbours
from brain.decide.rooms import Room
from brain.model.node import Node
from brain.model.pod import Pod
from n8s import names

OVERDUE_SECONDS: Final = 15.0
"""A pod that fits for so long is not bound by another try: the scheduler's back-off ends at 10 s by default
(``podMaxBackoffSeconds`` of KubeSchedulerConfiguration), and a node that opens makes it try again."""
_LACKING: Final = f"Insufficient {names.MIG_PREFIX}"
"""How kube-scheduler says so (its plugin NodeResourcesFit)."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A pod that the scheduler had time enough to bind.

    Attributes:
        nodes: where it fits as things are; it is not bound there.
        elsewhere: whether the scheduler says that devices are what it lacks on other nodes.
    """

    nodes: tuple[str, ...]
    elsewhere: bool


def overdue(
    rooms: Sequence[Room], neighbours: Neighbours, waiting: Sequence[Pod], fitting: Mapping[str, float]
) -> dict[str, Overdue]:
    """Pods that the scheduler had time enough to bind, by key.

    Args:
        rooms: the nodes as they are.
        neighbours: the pods that are bound to them.
        waiting: the pods.
        fitting: for how many seconds pods, by key, have been found to fit as things are.
    """
    found = {}
    for pod in waiting:
        if fitting.get(pod.key, 0.0) >= OVERDUE_SECONDS:
            elsewhere = _LACKING in pod.scheduler_message
            fits = (room.node for room in rooms if _has_room(room, neighbours, pod))
            if elsewhere:
                # Where room has just been made for it, it is still to be tried.
                nodes = [node.name for node in fits if binds(node) and node.untainted_seconds >= OVERDUE_SECONDS]
            else:
                nodes = [node.name for node in itertools.islice(fits, 1)]
            if nodes:
                found[pod.key] = Overdue(tuple(nodes), elsewhere)
    return found


def told(pod: Pod, node: str) -> str:
    """What such a pod is told."""
    said = pod.scheduler_message or "its scheduler has not said why"
    return f"fits on node {node} as it is, but is not bound to it: {said}"


def binds(node: Node) -> bool:
    """Whether the scheduler can bind to what is free on a node: no taint of ours, and the kubelet knows the devices."""
    return not node.repartitioning and (node.agent is None or node.agent.plugin_current)


def _has_room(room: Room, neighbours: Neighbours, pod: Pod) -> bool:
    suits = room.suits(pod) and not neighbours.refusal(pod, room.node.name)
    return suits and room.option(pod, change=False) is not None
