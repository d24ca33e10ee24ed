"""For how long room is kept for a pod that others leave for: it ends when no eviction succeeds any more.

It ends, too, where some have gone, and the pod did not get what they left, a few times over. Then what was kept is
anybody's, and the reclaim is tried again later: a few times, and from then on only when others would have to go. Since
when a hold stands is in the snapshot; who is evicted is not decided here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Final

from brain.decide.overdue import OVERDUE_SECONDS
from brain.decide.reclaim import Reclaim
from brain.model.hold import Hold
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot

HOLD_SECONDS: Final = 300.0
"""A hold ends when no eviction has succeeded for so long."""
REST_SECONDS: Final = (60.0, 300.0)
"""After how long a reclaim is tried the second and the third time."""
MOST_TRIES: Final = len(REST_SECONDS) + 1
"""How often a reclaim is tried for one pod before something must change."""
MOST_VAIN: Final = 3
"""How often others may have to follow those that have gone for a pod, before that counts as a try that failed."""
RESTING: Final = "waits: evictions for it had no success; what they free is not kept for it meanwhile"


class Holds:
    """The holds of one round."""

    def __init__(self, snapshot: Snapshot, going: Iterable[Pod]) -> None:
        """``going``: pods on their way out."""
        self._leaving: defaultdict[str, set[str]] = defaultdict(set)
        known = set()
        for pod in going:
            self._leaving[pod.node].add(pod.uid)
            known.add((pod.node, pod.key))
        # Of pods that are no more, but for their devices, nobody knows the uid.
        gone = {(node, key) for node, keys in snapshot.lingering().items() for key in keys} - known
        for node, key in gone:
            self._leaving[node].add(key)
        standing = {pod.uid for pod in snapshot.pods if pod.node and not (pod.ended or pod.terminating)}
        there = standing.union(*self._leaving.values())
        self._last = {key: _judged(hold, standing, there) for key, hold in snapshot.holds.items()}
        self._now: dict[str, Hold] = {}

    def rests(self, pod: Pod, *, ever: bool = True) -> bool:
        """Whether nothing is kept for a pod. ``ever``: also where that ends once others would have to go."""
        hold = self._of(pod)
        return hold is not None and hold.resting and (ever or hold.tries < MOST_TRIES)

    def stands(self, pod: Pod) -> bool:
        """Whether others go for a pod, or have gone and it should be bound to what they left before long."""
        hold = self._of(pod)
        return hold is not None and hold.gone and not (hold.resting or (hold.spent and hold.seconds >= OVERDUE_SECONDS))

    def evicting(self, pods: Iterable[Pod]) -> Set[str]:
        """Uids of the pods that were to be evicted for some in the last round."""
        return frozenset[str]().union(*(hold.evicting for pod in pods if (hold := self._of(pod)) is not None))

    def robbed(self, pod: Pod) -> bool:
        """Whether others had to follow some that had gone for a pod, as it did not get what these had left."""
        hold = self._of(pod)
        return hold is not None and hold.vain > 0

    def keeps(self, pod: Pod, found: Reclaim) -> bool:
        """Whether room may be kept for a pod as others leave it; if so, it is from now on."""
        hold = self._of(pod)
        evicting = frozenset(victim.pod.uid for victim in found.victims)
        new = Hold(pod.uid, evicting, frozenset(self._leaving.get(found.node, ())))
        if hold is not None and hold.resting:
            if hold.tries < MOST_TRIES or (hold.evicting, hold.leaving) == (new.evicting, new.leaving):
                return False
        elif hold is not None:
            others = hold.gone and not evicting <= hold.evicting
            new = replace(
                new, tries=hold.tries, seconds=hold.seconds, gone=hold.gone and not others, vain=hold.vain + others
            )
            if new.vain > MOST_VAIN:
                self._now[pod.key] = _ended(new)
                return False
        self._now[pod.key] = new
        return True

    def goes_on(self, pod: Pod) -> None:
        """What was kept for a pod, if anything, still is."""
        hold = self._of(pod)
        if hold is not None and not hold.resting:
            self._now[pod.key] = hold

    def standing(self, waiting: Set[str]) -> Mapping[str, Hold]:
        """The holds by the key of the pod; ``waiting`` are keys of those that wait."""
        before = {
            key: hold if hold.resting or hold.spent else _spent(hold)
            for key, hold in self._last.items()
            if key in waiting and (hold.resting or hold.gone)
        }
        return before | self._now

    def _of(self, pod: Pod) -> Hold | None:
        hold = self._last.get(pod.key)
        return hold if hold is not None and hold.uid == pod.uid else None


def wake_seconds(hold: Hold) -> float | None:
    """After how long time alone changes something; None: never."""
    if hold.spent:
        return OVERDUE_SECONDS - hold.seconds if hold.seconds < OVERDUE_SECONDS else None
    if not hold.resting:
        return max(0.0, HOLD_SECONDS - hold.seconds)
    return max(0.0, REST_SECONDS[hold.tries - 1] - hold.seconds) if hold.tries < MOST_TRIES else None


def _judged(hold: Hold, standing: Set[str], there: Set[str]) -> Hold:
    """A hold of the last round as it is now. ``standing``: uids of pods not on their way out; ``there``: of all."""
    if hold.resting:
        due = hold.tries < MOST_TRIES and hold.seconds >= REST_SECONDS[hold.tries - 1]
        return replace(hold, resting=False, seconds=0.0) if due else hold
    if not (hold.evicting <= standing and hold.leaving <= there):
        return replace(hold, seconds=0.0, gone=hold.gone or not hold.evicting <= standing)
    return _ended(hold) if hold.seconds >= HOLD_SECONDS and not hold.spent else hold


def _spent(hold: Hold) -> Hold:
    """A hold of what all have left that were to leave it."""
    return replace(hold, evicting=frozenset(), leaving=frozenset(), seconds=0.0)


def _ended(hold: Hold) -> Hold:
    """A hold that has had no success."""
    return replace(hold, resting=True, tries=hold.tries + 1, seconds=0.0, gone=False, vain=0)
