"""Pods that are alike, and nodes that suit the same ones: the planner asks once for many."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from brain.decide import fit
from brain.model import resources
from brain.model.node import Node
from brain.model.pod import Pod
from n8s import names


@dataclass(frozen=True, slots=True)
class Kind:
    """Pods that the planner cannot tell apart but by age.

    Attributes:
        pods: the pods, by rank.
        sample: one that stands for them; of each resource but MIG devices it asks for the least that any of them does.
        tag: what else tells them apart from others.
    """

    pods: tuple[Pod, ...]
    sample: Pod
    tag: Hashable = None

    @property
    def asks(self) -> tuple[tuple[str, int], ...]:
        """What each takes of a node, MIG devices aside."""
        rest = ((name, n) for name, n in self.sample.request.items() if n > 0 and not name.startswith(names.MIG_PREFIX))
        return ((resources.PODS, 1), *sorted(rest))


def asked_of(kinds: Iterable[Kind]) -> Counter[str]:
    """How many devices of each resource all pods of some kinds ask for."""
    found: Counter[str] = Counter()
    for kind in kinds:
        for name, count in kind.sample.mig_request.items():
            found[name] += count * len(kind.pods)
    return found


def alike(pod: Pod) -> tuple[object, ...]:
    """What tells pods apart, besides their age."""
    return (*shape(pod), tuple(sorted(pod.request.items())))


def shape(pod: Pod) -> tuple[object, ...]:
    """What tells pods apart, besides their age and what they ask for other than MIG devices."""
    devices = tuple(sorted(pod.mig_request.items()))
    selector = tuple(sorted(pod.node_selector.items()))
    return pod.priority, devices, selector, pod.node_affinity, pod.tolerations, pod.host_ports


def kinds_of(pods: Sequence[Pod], tags: Mapping[str, Hashable] | None = None) -> list[Kind]:
    """Kinds of pods, in the order of their first pods; ``tags``, by key, tell more of them apart."""
    tagged = tags or {}
    as_written: defaultdict[tuple[object, ...], list[Pod]] = defaultdict(list)
    for pod in pods:
        # The same maps are mostly written in the same order; what is left to sort is little.
        written = (
            pod.priority,
            tuple(pod.request.items()),
            tuple(pod.node_selector.items()),
            pod.node_affinity,
            pod.tolerations,
            pod.host_ports,
            tagged.get(pod.key) if tagged else None,
        )
        as_written[written].append(pod)
    merged: dict[tuple[object, ...], list[Pod]] = {}
    mixed = set()
    for members in as_written.values():
        known = merged.setdefault((*alike(members[0]), tagged.get(members[0].key)), members)
        if known is not members:
            known += members
            mixed.add(id(known))
    ranks = {pod.key: rank for rank, pod in enumerate(pods)} if mixed else {}
    for members in merged.values():
        if id(members) in mixed:
            members.sort(key=lambda pod: ranks[pod.key])
    return [Kind(tuple(members), members[0], tagged.get(members[0].key)) for members in merged.values()]


def shapes_of(kinds: Sequence[Kind]) -> list[tuple[int, ...]]:
    """Kinds, by position, that differ only in what they ask for other than MIG devices."""
    found: dict[tuple[object, ...], list[int]] = {}
    for position, kind in enumerate(kinds):
        found.setdefault((shape(kind.sample), kind.tag), []).append(position)
    return [tuple(positions) for positions in found.values()]


def smallest(kinds: Sequence[Kind]) -> Pod:
    """A pod that asks for the least of each resource that any of some kinds asks for."""
    request = dict(kinds[0].sample.request)
    for kind in kinds[1:]:
        request = {name: min(value, kind.sample.request.get(name, 0)) for name, value in request.items()}
    return replace(kinds[0].sample, request=request)


class Suits:
    """Which nodes some pods may run on, however empty; asked once for nodes that the pods cannot tell apart.

    Attributes:
        telling: whether they tell nodes apart by labels or names.
    """

    def __init__(self, samples: Sequence[Pod]) -> None:
        self._samples = samples
        terms = [term for pod in samples for term in pod.node_affinity or ()]
        keys = {key for pod in samples for key in pod.node_selector}
        self._keys = sorted(keys | {requirement.key for term in terms for requirement in term.labels})
        self._named = any(term.fields for term in terms)
        self.telling = bool(self._keys) or self._named
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}

    def labels(self, node: Node) -> tuple[object, ...]:
        """What the pods can tell of a node's labels and name; equal for nodes that they do not tell apart by these."""
        if not self.telling:
            return ()
        labels: Mapping[str, str] = node.labels
        return node.name if self._named else "", *[labels.get(key) for key in self._keys]

    def refusals(self, node: Node) -> tuple[str, ...]:
        """For each pod, why a node is not one that it may run on; "" when it is."""
        seen = (node.ready, node.unschedulable, node.taints, *self.labels(node))
        found = self._known.get(seen)
        if found is None:
            found = self._known[seen] = tuple(fit.unsuitable(pod, node) for pod in self._samples)
        return found
