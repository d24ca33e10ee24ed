"""A cluster at one moment: the only input of the decisions.

Its pods in groups are made from the groups of the snapshot before, where most pods are the same objects: a large
cluster mostly changes by a few pods. Groups without a change are the same tuples again, so that what follows from them
alone need not be found again. No result depends on which snapshot came before.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Quota


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the brain knows at one moment. The order within the tuples means nothing.

    Attributes:
        nodes: the nodes.
        pods: the pods.
        quotas: the quotas of both kinds.
        fitting: by pod key, for how many seconds this brain has found that the waiting pod fits as things are.
        namespaces: the labels of each namespace that is known, by name.
    """

    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    quotas: tuple[Quota, ...] = ()
    fitting: Mapping[str, float] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def bound(self) -> Mapping[str, tuple[Pod, ...]]:
        """By node name, the pods bound to it that have not ended, by key; nodes without any are left out."""
        return _grouped(self.pods).bound

    def running(self) -> Mapping[str, tuple[Pod, ...]]:
        """By namespace, its pods in phase Running, by key; namespaces without any are left out."""
        return _grouped(self.pods).running

    def unbound(self) -> tuple[Pod, ...]:
        """The pods that have no node."""
        return _grouped(self.pods).unbound


@dataclass(frozen=True, slots=True)
class _Groups:
    """Pods by what the decisions ask for.

    Attributes:
        pods: all of them.
        bound: see :meth:`Snapshot.bound`.
        running: see :meth:`Snapshot.running`.
        unbound: see :meth:`Snapshot.unbound`.
    """

    pods: tuple[Pod, ...]
    bound: Mapping[str, tuple[Pod, ...]]
    running: Mapping[str, tuple[Pod, ...]]
    unbound: tuple[Pod, ...]


class _Last:
    """The groups of the snapshot asked for last; one at a time, so that no more is kept than one snapshot's pods."""

    groups = _Groups((), {}, {}, ())


def _grouped(pods: tuple[Pod, ...]) -> _Groups:
    last = _Last.groups
    if last.pods is not pods:
        last = _Last.groups = _regrouped(pods, last)
    return last


def _regrouped(pods: tuple[Pod, ...], last: _Groups) -> _Groups:
    start = _common(pods, last.pods)
    end = _common(pods[start:][::-1], last.pods[start:][::-1])
    before = {id(pod): pod for pod in last.pods[start : len(last.pods) - end]}
    now = {id(pod): pod for pod in pods[start : len(pods) - end]}
    gone = [before[one] for one in before.keys() - now.keys()]
    new = [now[one] for one in now.keys() - before.keys()]
    return _Groups(
        pods,
        _changed(
            last.bound,
            [(pod.node, pod) for pod in gone if pod.node and not pod.ended],
            [(pod.node, pod) for pod in new if pod.node and not pod.ended],
        ),
        _changed(
            last.running,
            [(pod.namespace, pod) for pod in gone if pod.phase == "Running"],
            [(pod.namespace, pod) for pod in new if pod.phase == "Running"],
        ),
        tuple([pod for pod in pods if not pod.node]),
    )


def _common(one: Sequence[Pod], other: Sequence[Pod]) -> int:
    """How many pods at the start of both are the same objects."""
    same = bytes(map(operator.is_, one, other))
    first = same.find(0)
    return len(same) if first < 0 else first


def _changed(
    groups: Mapping[str, tuple[Pod, ...]], gone: Iterable[tuple[str, Pod]], new: Iterable[tuple[str, Pod]]
) -> Mapping[str, tuple[Pod, ...]]:
    """Groups of pods by key, without some pods and with others."""
    less: defaultdict[str, set[int]] = defaultdict(set)
    more: defaultdict[str, list[Pod]] = defaultdict(list)
    for name, pod in gone:
        less[name].add(id(pod))
    for name, pod in new:
        more[name].append(pod)
    found = dict(groups)
    for name in less.keys() | more.keys():
        without = less.get(name, set())
        members = [pod for pod in found.pop(name, ()) if id(pod) not in without] + more.get(name, [])
        if members:
            found[name] = tuple(sorted(members, key=lambda pod: pod.key))
    return found
