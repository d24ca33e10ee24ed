"""A cluster at one moment: the only input of the decisions.

Its pods in groups are made from the groups of the snapshot before, where most pods are the same objects: a large
cluster mostly changes by a few pods. Groups without a change are the same tuples again, so that what follows from them
alone need not be found again. No result depends on which snapshot came before.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from brain.model.budget import Budget
from brain.model.hold import Hold
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Quota
from n8s import names

_KEY: Final = operator.attrgetter("key")
_MOST_PLACES: Final = 10
"""Places at which two snapshots' pods differ, up to which these are found one after the other."""
LINGER_SECONDS: Final = 15.0
"""Devices that are not free so long after their holder's end are not about to be: something keeps them."""
_FEW: Final = 100
"""Pods of a group for each changed one, from which on the group is not sorted again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the brain knows at one moment. The order within the tuples means nothing.

    Attributes:
        nodes: the nodes.
        pods: the pods.
        quotas: the quotas of both kinds.
        fitting: by pod key, for how many seconds this brain has found that the waiting pod fits as things are.
        namespaces: the labels of each namespace that is known, by name.
        jobs: how many pods each Job wants at once, by the group of its pods; Jobs of one pod may be left out.
        budgets: the PodDisruptionBudgets.
        holds: by pod key, the room that this brain has kept for a waiting pod as others leave it.
        lingered: by node and pod key, for how many seconds this brain has seen that devices are held by a pod that has
            ended or gone.
        looks: by node that this brain has ordered to change under the taint that it carries, the uids of the pods with
            MIG devices that were bound to it at the last look.
    """

    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    quotas: tuple[Quota, ...] = ()
    fitting: Mapping[str, float] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    looks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    lingered: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def bound(self) -> Mapping[str, tuple[Pod, ...]]:
        """By node name, the pods bound to it that have not ended, by key; nodes without any are left out."""
        return _grouped(self.pods).bound

    def lingering(self) -> Mapping[str, frozenset[str]]:
        """By node name, keys of pods that its agent shows as holders of MIG devices though they have ended or gone.

        What they hold is about to be free: an agent looks ten times a second. Not those that a new pod of the same name
        may be, nor for whom that has lasted for :data:`LINGER_SECONDS`. Nodes without any are left out.
        """
        return _lingering(self)

    def running(self) -> Mapping[str, tuple[Pod, ...]]:
        """By namespace, its pods in phase Running, by key; namespaces without any are left out."""
        return _grouped(self.pods).running

    def instead(self, others: Mapping[str, Pod]) -> Snapshot:
        """The snapshot with other pods, by key, in the place of some that have no node."""
        groups = _grouped(self.pods)
        pods = tuple(others.get(pod.key, pod) for pod in self.pods) if others else self.pods
        traits = {
            trait: tuple(others.get(pod.key, pod) for pod in members) if trait in {_UNBOUND, _GROUPED} else members
            for trait, members in groups.traits.items()
        }
        _Last.beside = replace(groups, pods=pods, traits=traits)
        return replace(self, pods=pods)

    def counted(self) -> Mapping[str, tuple[Pod, ...]]:
        """By namespace, its pods that have not ended and are bound or free to be, by key; empty ones are left out."""
        return _grouped(self.pods).counted

    def unbound(self) -> tuple[Pod, ...]:
        """The pods that have no node, by key."""
        return _grouped(self.pods).traits.get(_UNBOUND, ())

    def grouped(self) -> tuple[Pod, ...]:
        """The pods that belong to a group, by key."""
        return _grouped(self.pods).traits.get(_GROUPED, ())

    def avoiding(self) -> tuple[Pod, ...]:
        """The pods that are bound, have not ended and keep others away by their anti-affinity, by key."""
        return _grouped(self.pods).traits.get(_AVOIDING, ())

    def labelled(self) -> tuple[Pod, ...]:
        """The pods that carry a capacity label, by key."""
        return _grouped(self.pods).traits.get(_LABELLED, ())

    def failed(self) -> tuple[Pod, ...]:
        """The pods that are bound, ask for MIG devices and have failed, by key."""
        return _grouped(self.pods).traits.get(_FAILED, ())


_UNBOUND: Final = "unbound"
_GROUPED: Final = "grouped"
_AVOIDING: Final = "avoiding"
_LABELLED: Final = "labelled"
_FAILED: Final = "failed"


def lingerers(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    """By node and pod key, all of these, however long that has lasted; the next snapshot says for how long."""
    return frozenset((name, key) for name, keys in _holding(snapshot).items() for key in keys)


def _holding(snapshot: Snapshot) -> Mapping[str, frozenset[str]]:
    asked = _Last.holding
    if asked[0] is snapshot.nodes and asked[1] is snapshot.pods:
        return asked[2]
    bound, last, _Last.holders = snapshot.bound(), _Last.holders, {}
    found: dict[str, frozenset[str]] = {}
    for node in snapshot.nodes:
        if node.agent is None:
            continue
        pods = bound.get(node.name, ())
        known = last.get(node.name)
        if known is None or known[0] is not node or known[1] is not pods:
            known = node, pods, frozenset(node.agent.held.keys() - {pod.key for pod in pods})
        _Last.holders[node.name] = known
        if known[2]:
            found[node.name] = known[2]
    _Last.holding = snapshot.nodes, snapshot.pods, found
    return found


def _lingering(snapshot: Snapshot) -> Mapping[str, frozenset[str]]:
    found = _holding(snapshot)
    if not found:
        return found
    # The kubelet may know a pod before the API server's word that it is bound comes.
    coming = {pod.key for pod in snapshot.unbound() if not pod.gates}
    lasting = {place for place, seconds in snapshot.lingered.items() if seconds >= LINGER_SECONDS}
    return {
        name: left
        for name, keys in found.items()
        if (left := frozenset(key for key in keys - coming if (name, key) not in lasting))
    }


def _traits(pod: Pod) -> Iterator[str]:
    """What few pods of a large cluster have."""
    if not pod.node:
        yield _UNBOUND
    elif pod.anti_affinity and not pod.ended:
        yield _AVOIDING
    if pod.phase == "Failed" and pod.node and pod.mig_request:
        yield _FAILED
    if pod.group:
        yield _GROUPED
    if names.CAPACITY_LABEL in pod.labels:
        yield _LABELLED


def _counts(pod: Pod) -> bool:
    """Whether decisions count a pod as using what it asks for."""
    return pod.waiting or (bool(pod.node) and not pod.ended)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Pods by what the decisions ask for.

    Attributes:
        pods: all of them.
        bound: see :meth:`Snapshot.bound`.
        running: see :meth:`Snapshot.running`.
        counted: see :meth:`Snapshot.counted`.
        traits: by trait, the pods that have it, by key.
    """

    pods: tuple[Pod, ...] = ()
    bound: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    running: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    counted: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    traits: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)


class _Last:
    """The groups of the snapshot asked for last; one at a time, so that no more is kept than one snapshot's pods.

    Beside it, those of the last that was made from one by :meth:`Snapshot.instead`, and by node name, what was asked
    for its lingering pods, and these; of all nodes those that were found last, as a round asks several times.
    """

    groups = _Groups()
    beside = _Groups()
    holders: dict[str, tuple[Node, tuple[Pod, ...], frozenset[str]]] = {}  # noqa: RUF012 - replaced as a whole
    holding: tuple[tuple[Node, ...], tuple[Pod, ...], Mapping[str, frozenset[str]]] = ((), (), {})


def _grouped(pods: tuple[Pod, ...]) -> _Groups:
    last = _Last.groups
    if _Last.beside.pods is pods:
        return _Last.beside
    if last.pods is not pods:
        last = _Last.groups = _regrouped(pods, last)
    return last


def _regrouped(pods: tuple[Pod, ...], last: _Groups) -> _Groups:
    gone, new = _difference(last.pods, pods)
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
        _changed(
            last.counted,
            [(pod.namespace, pod) for pod in gone if _counts(pod)],
            [(pod.namespace, pod) for pod in new if _counts(pod)],
        ),
        _changed(
            last.traits,
            [(trait, pod) for pod in gone for trait in _traits(pod)],
            [(trait, pod) for pod in new for trait in _traits(pod)],
        ),
    )


def _difference(before: tuple[Pod, ...], after: tuple[Pod, ...]) -> tuple[list[Pod], list[Pod]]:
    """Pods that are gone and pods that are new, as objects; one that has moved within the tuples may be both."""
    gone: list[Pod] = []
    new: list[Pod] = []
    for _ in range(_MOST_PLACES):
        same = _common(before, after)
        before, after = before[same:], after[same:]
        if not before or not after:
            return [*gone, *before], [*new, *after]
        if len(before) == 1 or after[0] is not before[1]:
            new.append(after[0])
            after = after[1:]
        if not after or before[0] is not after[0]:
            gone.append(before[0])
            before = before[1:]
    left, there = {id(pod): pod for pod in before}, {id(pod): pod for pod in after}
    gone += [left[one] for one in left.keys() - there.keys()]
    new += [there[one] for one in there.keys() - left.keys()]
    return gone, new


def _common(one: Sequence[Pod], other: Sequence[Pod]) -> int:
    """How many pods at the start of both are the same objects."""
    same = bytes(map(operator.is_, one, other))
    first = same.find(0)
    return len(same) if first < 0 else first


def _changed(
    groups: Mapping[str, tuple[Pod, ...]], gone: Iterable[tuple[str, Pod]], new: Iterable[tuple[str, Pod]]
) -> Mapping[str, tuple[Pod, ...]]:
    """Groups of pods by key, without some pods and with others."""
    less: defaultdict[str, list[Pod]] = defaultdict(list)
    more: defaultdict[str, list[Pod]] = defaultdict(list)
    for name, pod in gone:
        less[name].append(pod)
    for name, pod in new:
        more[name].append(pod)
    found = dict(groups)
    for name in less.keys() | more.keys():
        members = _merged(found.pop(name, ()), less.get(name, ()), more.get(name, ()))
        if members:
            found[name] = members
    return found


def _merged(members: Sequence[Pod], gone: Sequence[Pod], new: Sequence[Pod]) -> tuple[Pod, ...]:
    """Pods by key, without some of them and with others."""
    if (len(gone) + len(new)) * _FEW > len(members):
        without = set(map(id, gone))
        return tuple(sorted([*(pod for pod in members if id(pod) not in without), *new], key=_KEY))
    found = list(members)
    for pod in gone:
        at = bisect_left(found, pod.key, key=_KEY)
        while found[at] is not pod:
            at += 1
        del found[at]
    for pod in new:
        insort(found, pod, key=_KEY)
    return tuple(found)
