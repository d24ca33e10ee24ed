"""Room that others leave for a pod, and to which kube-scheduler might bind somebody else.

It knows of what is kept only by nominations, which not all pods have, and which keep nothing from pods of higher
priority. Who gets which room in the brain's eyes is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brain.decide.ground import Ground
from brain.decide.waiting import Entry


@dataclass(frozen=True, slots=True)
class Promise:
    """Room on a node for a pod that others went for; ``robbed``: whether more had to, as others got what was left."""

    entry: Entry
    node: str
    robbed: bool

    @property
    def told(self) -> str:
        """What one waits for that might be bound to it."""
        return f"waits: kube-scheduler might bind it to room on {self.node} that is kept for {self.entry.key}"


class Kept:
    """What is kept in one round."""

    def __init__(self, promises: Sequence[Promise], as_it_is: Ground, without: Ground, beside: Ground) -> None:
        """What a round knows.

        Args:
            promises: what is kept.
            as_it_is: the nodes as they are now.
            without: the nodes once all are there that get room, but those that something is kept for.
            beside: the same with these.
        """
        self._promises = promises
        self._as_it_is = as_it_is
        self._without = without
        self._beside = beside

    def tempting(self, entry: Entry, given: str = "") -> Promise | None:
        """What a pod that is let in might be bound to, though it is kept for one whose turn is before.

        Not for one of its group. ``given``: the node where it gets room, if any: it will be bound at once, so it is to
        wait only for those that were robbed before.
        """
        pod = entry.pod
        ground = self._as_it_is if given else self._without
        for promise in self._promises:
            other = promise.entry.pod
            if (promise.node == given or (given and not promise.robbed)) or promise.entry.rank >= entry.rank:
                continue
            if (pod.group and pod.group == other.group) or promise.node not in ground.suiting(pod):
                continue
            stopped = other.nominated == promise.node and other.priority >= pod.priority
            if stopped or not ground.fits(pod, promise.node, change=False):
                continue
            if not self._beside.fits(pod, promise.node, change=False):
                return promise
        return None
