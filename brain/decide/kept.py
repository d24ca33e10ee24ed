"""Room that others leave for a pod, and to which kube-scheduler might bind somebody else.

It knows of what is kept only by nominations, which not all pods have, and which keep nothing from pods of higher
priority. Who gets which room in the brain's eyes is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brain.decide.ground import Ground, Land
from brain.model.pod import Pod


@dataclass(frozen=True, slots=True)
class Promise:
    """Room on a node, for a pod that others go for; ``robbed``: whether somebody else got what was left for it once."""

    pod: Pod
    node: str
    robbed: bool


class Kept:
    """What is kept in one round."""

    def __init__(self, land: Land, as_it_is: Ground, promises: Sequence[Promise]) -> None:
        """``as_it_is``: the nodes as they are now."""
        self._promises = promises
        self._as_it_is = as_it_is
        self._without, self._with = Ground(land), Ground(land)
        for promise in promises:
            if self._with.fits(promise.pod, promise.node):
                self._with.take(promise.pod, promise.node)

    def tempting(self, pod: Pod, *, now: bool = False) -> str:
        """The node where a pod that is let in might be bound to what is kept for another; empty: none.

        ``now``: it has room elsewhere, so it will be bound while those on their way out are still there. It is to wait
        only for those that were robbed before.
        """
        nodes = {
            each.node
            for each in self._promises
            if (each.robbed or not now) and (each.pod.nominated != each.node or each.pod.priority < pod.priority)
        }
        nodes -= {each.node for each in self._promises if each.pod is pod}
        ground = self._as_it_is if now else self._without
        for node in sorted(nodes.intersection(ground.suiting(pod)) if nodes else ()):
            if ground.fits(pod, node, change=False) and not self._with.fits(pod, node, change=False):
                return node
        return ""


def told(node: str) -> str:
    """What one waits for that might be bound to what is kept for another."""
    return f"waits: kube-scheduler might bind it to room on {node} that is kept for a pod that others left it for"
