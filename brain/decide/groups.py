"""Groups of pods that are of use only together: how many of each must still find room.

A plan serves that many pods of a group, or none. Pods that are bound already, and those that ask for no MIG device,
count as served; pods that have ended, are on their way out or still gated do not belong. A group of which one more pod
is enough binds nobody: each of its pods stands alone. A Job creates its pods a few at a time: what it wants says how
many there will be, so that the first ones take no room that is of no use without the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from types import MappingProxyType

from brain.model.pod import Pod


def least(pods: Sequence[Pod], wanted: int) -> int:
    """How many pods of a group are of use only together. ``wanted``: how many its Job wants at once; 0: not known."""
    # Where pods of one group say different numbers, the largest: none is told less than it asks for.
    return max(pod.group_min for pod in pods) or wanted or len(pods)


def gated_needs(grouped: Iterable[Pod], gated: Iterable[Pod], jobs: Mapping[str, int]) -> dict[str, int]:
    """By group of gated pods, how many of these must be let in together; two or more.

    Args:
        grouped: pods of groups; those that have ended or are on their way out do not belong.
        gated: the gated pods.
        jobs: see :class:`Groups`.
    """
    asked = {pod.group for pod in gated if pod.group}
    if not asked:
        return {}
    members: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in grouped:
        if pod.group in asked and not (pod.ended or pod.terminating):
            members[pod.group].append(pod)
    return _needs(members, jobs, lambda pod: not pod.gated)


def spares(grouped: Iterable[Pod], jobs: Mapping[str, int]) -> dict[str, int]:
    """By group of which several pods have a node, how many of these may go before the others are of no use.

    Groups in which each pod is of use alone are left out. ``grouped`` and ``jobs``: see :func:`gated_needs`.
    """
    members: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in grouped:
        if not (pod.ended or pod.terminating):
            members[pod.group].append(pod)
    found = {}
    for group, pods in members.items():
        standing, together = sum(bool(pod.node) for pod in pods), least(pods, jobs.get(group, 0))
        if standing > 1 and together > 1:
            found[group] = max(0, standing - together)
    return found


def _needs(
    members: Mapping[str, Sequence[Pod]], jobs: Mapping[str, int], served: Callable[[Pod], bool]
) -> dict[str, int]:
    """By group, how many of its pods are to be served together beside those that are; two or more."""
    needs = {group: least(pods, jobs.get(group, 0)) - sum(map(served, pods)) for group, pods in members.items()}
    return {group: need for group, need in needs.items() if need > 1}


class Groups:
    """The groups of some pods that bind their pods.

    Attributes:
        needs: by group, how many of its waiting pods must find room together; two or more.
        missing: by group, how many of these are not there yet; groups that are all there are left out.
    """

    def __init__(self, pods: Iterable[Pod], jobs: Mapping[str, int] = MappingProxyType({})) -> None:
        """``jobs``: how many pods each Job wants at once, by group; of one that is not known, those that are there."""
        members: defaultdict[str, list[Pod]] = defaultdict(list)
        for pod in pods:
            if pod.group and not (pod.ended or pod.terminating or pod.gated):
                members[pod.group].append(pod)
        self.needs = _needs(members, jobs, lambda pod: bool(pod.node) or not pod.mig_request)
        self.missing: dict[str, int] = {}
        self._waiting: dict[str, list[Pod]] = {}
        for group, need in self.needs.items():
            waiting = self._waiting[group] = [pod for pod in members[group] if pod.waiting and pod.mig_request]
            if len(waiting) < need:
                self.missing[group] = need - len(waiting)
        self._first = {group: min(pod.created for pod in pods_) for group, pods_ in self._waiting.items() if pods_}

    def binds(self, pod: Pod) -> bool:
        """Whether a pod is served only together with others of its group."""
        return pod.group in self.needs

    def ranked(self, pods: Iterable[Pod]) -> list[Pod]:
        """Pods, given by key, by rank: priority, then age, which for all of a group is that of the oldest.

        Sorted by one thing after the other, the last first: sorting so many tuples would hold up all other threads.
        """
        found = list(pods)
        if self.needs:
            found.sort(key=lambda pod: pod.created if pod.group in self.needs else 0)
            found.sort(key=lambda pod: pod.group if pod.group in self.needs else "")
        found.sort(key=lambda pod: self._first.get(pod.group, pod.created))
        found.sort(key=lambda pod: -pod.priority)
        return found

    def served(self, group: str, assigned: Container[str]) -> int:
        """How many waiting pods of a group are among the assigned, by key."""
        return sum(pod.key in assigned for pod in self._waiting[group])
