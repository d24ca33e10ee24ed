"""Pods that fit on a node as it is and that the scheduler does not bind all the same: MIG is not what they lack.

Such a pod has a reason that the snapshot does not show, a volume that does not exist or a scheduler that is down. What
it would take is not kept for it: others may use it, and the pod is told that it is not MIG that it waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from brain.decide.neighbours import Neighbours
from brain.decide.rooms import Room
from brain.model.node import Node
from brain.model.pod import Pod

OVERDUE_SECONDS: Final = 15.0
"""A pod that fits for so long is not bound by another try: the scheduler's back-off ends at 10 s by default
(``podMaxBackoffSeconds`` of KubeSchedulerConfiguration), and a node that opens makes it try again."""


def overdue(
    rooms: Sequence[Room], neighbours: Neighbours, waiting: Sequence[Pod], fitting: Mapping[str, float]
) -> dict[str, str]:
    """Pods that the scheduler had time enough to bind, by key, with what it says.

    Args:
        rooms: the nodes as they are.
        neighbours: the pods that are bound to them.
        waiting: the pods.
        fitting: for how many seconds pods, by key, have been found to fit as things are.
    """
    found = {}
    for pod in waiting:
        if fitting.get(pod.key, 0.0) >= OVERDUE_SECONDS:
            room = next((room for room in rooms if _has_room(room, neighbours, pod)), None)
            if room is not None:
                said = pod.scheduler_message or "its scheduler has not said why"
                found[pod.key] = f"fits on node {room.node.name} as it is, but is not bound to it: {said}"
    return found


def binds(node: Node) -> bool:
    """Whether the scheduler can bind to what is free on a node: no taint of ours, and the kubelet knows the devices."""
    return not node.repartitioning and (node.agent is None or node.agent.plugin_current)


def _has_room(room: Room, neighbours: Neighbours, pod: Pod) -> bool:
    refused = not room.knows(pod) or room.refusal(pod) or neighbours.refusal(pod, room.node.name)
    return not refused and room.option(pod, change=False) is not None
