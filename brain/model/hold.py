"""Room that others leave, and that is kept for the pod that they leave for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """How it stands with one waiting pod.

    Attributes:
        uid: of the pod.
        evicting: uids of the pods to be evicted for it.
        leaving: uids of the pods on their way out where its room will be; keys of those that are no more, but for what
            they held.
        tries: how often it has ended, because no eviction succeeded for too long, or those that did were in vain.
        resting: whether it has ended, and nothing is kept for the pod.
        seconds: since it began or an eviction last succeeded; while it rests, since it ended.
        gone: whether some went for the pod, or are on their way out.
        vain: how often others were to follow some that had gone, because the pod did not get what these had left.
    """

    uid: str
    evicting: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    tries: int = 0
    resting: bool = False
    seconds: float = 0.0
    gone: bool = False
    vain: int = 0

    @property
    def spent(self) -> bool:
        """Whether all have gone that room was kept of; what is left is the memory of it."""
        return not (self.resting or self.evicting or self.leaving)
