"""What kube-scheduler would say of a pod on a node because of other pods: affinity, anti-affinity, topology spread.

The rules are those of its plugins InterPodAffinity and PodTopologySpread (Kubernetes 1.36), required terms only. Who
plans tries a pod on a node, and takes it back; each costs a few look-ups, whatever the size of the cluster. Room,
taints and node selectors are :mod:`brain.decide.fit`'s business.

Some schedulers take a namespace selector of the pod that they place to select all namespaces where it selects one
without labels, e.g. by ``NotIn`` (kubernetes/kubernetes#141526). What either reading refuses is refused here.

A pod matters to a selector by its namespace and by those of its labels that some selector names. Pods are sorted by
these once, and each sort is compared only with the selectors that name one of its labels: tens of thousands of pods
that demand nothing cost next to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from brain.decide import fit
from brain.model.affinity import AffinityTerm, LabelSelector, SpreadConstraint
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot

AFFINITY: Final = "does not satisfy the pod's affinity to other pods"
ANTI_AFFINITY: Final = "does not satisfy the pod's anti-affinity to other pods"
OTHERS_ANTI_AFFINITY: Final = "does not satisfy other pods' anti-affinity to the pod"

_NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""Label that the API server gives each namespace; the only one that is known of one that was not seen."""

_Sort = tuple[str, tuple[str | None, ...]]
"""All that selectors can tell of a pod: its namespace, and its values of the labels that they name."""
_Anchor = tuple[str, str, str]
"""Namespace, label and value without which a rule selects no pod; empty where it does not demand one."""


class Neighbours:
    """Pods on their nodes, and whom they keep from where. Made for one plan; changed by it, and by nobody else."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Pods that are bound to a known node and have not ended stand there; the unbound may be asked about."""
        self._nodes = {node.name: node for node in snapshot.nodes}
        self._rules = _Rules(snapshot.nodes, snapshot.namespaces)
        self._askers: dict[tuple[str, str], _Asker] = {}
        self._standing: dict[tuple[str, str], _Stander] = {}
        unbound = [pod for pod in snapshot.unbound() if not pod.ended]
        if not self._gather([pod for pod in snapshot.avoiding() if pod.node in self._nodes], unbound):
            return
        bound = [pod for name, pods in snapshot.bound().items() if name in self._nodes for pod in pods]
        sorts = _Sorts(self._rules)
        self._cast(sorts, bound, unbound)
        for pod in bound:
            self.place(pod, pod.node)

    @property
    def strangers(self) -> bool:
        """Whether all pods are bystanders."""
        return not self._askers and not self._standing

    def bystander(self, pod: Pod) -> bool:
        """Whether nothing here is about a pod of the snapshot: it is never refused, and placing it changes nothing."""
        key = (pod.namespace, pod.name)
        return key not in self._askers and key not in self._standing

    def kind(self, pod: Pod) -> Hashable:
        """What tells pods apart for :meth:`refusal`; None for those that are never refused."""
        asker = self._askers.get((pod.namespace, pod.name))
        return None if asker is None else id(asker)

    def refusal(self, pod: Pod, node: str) -> str:
        """Why the scheduler would refuse an unbound pod of the snapshot on a node, by the pods placed; "" if not.

        The phrases are categories without names of nodes, so that equal ones can be counted together. The pod itself
        must not be placed at the time.
        """
        asker = self._askers.get((pod.namespace, pod.name))
        return asker.refusal(self._nodes[node].labels) if asker is not None else ""

    def place(self, pod: Pod, node: str) -> None:
        """From now on a pod of the snapshot stands on a node."""
        self._count(pod, node, 1)

    def remove(self, pod: Pod, node: str) -> None:
        """A pod that stands on a node does no longer; undoes :meth:`place`, in any order."""
        self._count(pod, node, -1)

    def _count(self, pod: Pod, node: str, change: int) -> None:
        stander = self._standing.get((pod.namespace, pod.name))
        if stander is None:
            return
        labels = self._nodes[node].labels
        for tally in stander.tallies:
            tally.add(labels, change)
        if not pod.terminating:  # kubernetes/kubernetes#87621: who goes does not count for spread
            for spread in stander.spreads:
                spread.add(node, change)

    def _gather(self, avoiding: Iterable[Pod], unbound: Iterable[Pod]) -> bool:
        """Makes the rules that the pods' demands give; whether there are any. ``avoiding`` are bound.

        Affinity and spread bind the scheduler only while it places the pod; anti-affinity holds for newcomers too.
        """
        seen = set()
        for pod in avoiding:
            if id(pod.anti_affinity) not in seen:
                seen.add(id(pod.anti_affinity))
                self._rules.avoided(pod.anti_affinity)
        alike_seen = set()
        for pod in unbound:
            if pod.affinity or pod.anti_affinity or pod.spread:
                alike = (pod.namespace, *_demands(pod))
                if alike not in alike_seen:
                    alike_seen.add(alike)
                    self._rules.of(pod)
        return bool(seen or alike_seen)

    def _cast(self, sorts: _Sorts, bound: Sequence[Pod], unbound: Sequence[Pod]) -> None:
        """Gives each pod that is no bystander its part; pods that are alike share it."""
        standers: dict[tuple[object, ...], _Stander] = {}
        askers: dict[tuple[object, ...], _Asker] = {}
        for pod in (*bound, *unbound):
            key = (pod.namespace, pod.name)
            sort = sorts.of(pod)
            selecting = sorts.selecting(sort)
            if not selecting and not (pod.affinity or pod.anti_affinity or pod.spread):
                continue
            alike: tuple[object, ...] = (sort, id(pod.anti_affinity))
            stander = standers.get(alike)
            if stander is None:
                stander = standers[alike] = self._rules.stander(pod, selecting)
            if stander.tallies or stander.spreads:
                self._standing[key] = stander
            if pod.node:
                continue
            alike = (sort, *_demands(pod))
            asker = askers.get(alike)
            if asker is None:
                asker = askers[alike] = self._rules.asker(pod, selecting)
            if asker.demanding:
                self._askers[key] = asker


@dataclass(frozen=True, slots=True)
class _Query:
    """Pods, by their labels and their namespaces."""

    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None = None

    def selects(self, namespace: str, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        """Whether it selects a pod with such labels in such a namespace."""
        there = namespace in self.namespaces or (
            self.namespace_selector is not None and self.namespace_selector.selects(namespace_labels)
        )
        return there and self.selector.selects(labels)

    def anchors(self) -> Iterator[tuple[_Anchor, ...]]:
        """Sets of anchors; whichever is taken, each pod that is selected has one of it."""
        namespaces = tuple(sorted(self.namespaces)) if self.namespace_selector is None else ("",)
        yield tuple((namespace, "", "") for namespace in namespaces)
        for requirement in self.selector.requirements:
            if requirement.operator == "In":
                values = tuple(dict.fromkeys(requirement.values))
                yield tuple((namespace, requirement.key, value) for namespace in namespaces for value in values)


class _Tally:
    """How many pods of one rule stand in each domain, by topology key and value."""

    __slots__ = ("counts", "keys", "total")

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(dict.fromkeys(keys))
        self.counts: dict[tuple[str, str], int] = {}
        self.total = 0

    def add(self, labels: Mapping[str, str], change: int) -> None:
        """Pods came to, or went from, a node with these labels."""
        for key in self.keys:
            value = labels.get(key)
            if value is not None:
                self.counts[key, value] = self.counts.get((key, value), 0) + change
                self.total += change

    def near(self, labels: Mapping[str, str]) -> bool:
        """Whether one stands in a domain of a node with these labels."""
        return self.total > 0 and any(
            (value := labels.get(key)) is not None and self.counts.get((key, value), 0) > 0 for key in self.keys
        )


class _Spread:
    """How many pods of one rule stand in each domain that counts, and how many in the emptiest of them."""

    __slots__ = ("_domain_of", "_levels", "counts", "domains", "least")

    def __init__(self, domain_of: Mapping[str, str], domains: int) -> None:
        """``domain_of`` has the domain of each node that counts; there are so many domains."""
        self._domain_of = domain_of
        self.counts: dict[str, int] = {}
        self.domains = domains
        self.least = 0
        self._levels = Counter({0: self.domains})  # how many domains hold so many pods

    def add(self, node: str, change: int) -> None:
        """A pod came to a node (1), or went from it (-1)."""
        domain = self._domain_of.get(node)
        if domain is None:
            return
        before = self.counts.get(domain, 0)
        after = self.counts[domain] = before + change
        self._levels[before] -= 1
        self._levels[after] += 1
        if after < self.least or (before == self.least and not self._levels[before]):
            self.least = after


@dataclass(slots=True)
class _Rule:
    """Pods that all of some queries select, and what follows for each of them.

    Attributes:
        tallies: where it is counted.
        spreads: where it is counted, unless it is on its way out.
        avoiders: those that keep it out of their domain.
    """

    queries: frozenset[_Query]
    tallies: list[_Tally] = field(default_factory=list)
    spreads: list[_Spread] = field(default_factory=list)
    avoiders: list[_Tally] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stander:
    """What changes where a pod is placed."""

    tallies: tuple[_Tally, ...]
    spreads: tuple[_Spread, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Where the pods stand that affinity terms want, and those that some schedulers take for them."""

    tally: _Tally
    mistaken: _Tally

    def holds(self, labels: Mapping[str, str], *, itself: bool) -> bool:
        """Whether they stand near; who wants ``itself`` may be the first, while nobody anywhere is what it wants."""
        keys = self.tally.keys
        if any(key not in labels for key in keys):
            return False
        if not self.tally.total:
            return itself and not self.mistaken.total
        return all(self.tally.counts.get((key, labels[key]), 0) > 0 for key in keys)


@dataclass(frozen=True, slots=True)
class _Evenly:
    """A spread constraint of a pod; without ``spread`` its selector counts nobody, and only the label must be there."""

    constraint: SpreadConstraint
    spread: _Spread | None
    counts_itself: bool

    def holds(self, domain: str) -> bool:
        """Whether the pod may join a domain."""
        if self.spread is None:
            return True
        least = self.spread.least if self.spread.domains >= self.constraint.min_domains else 0
        return self.spread.counts.get(domain, 0) + self.counts_itself - least <= self.constraint.max_skew


@dataclass(frozen=True, slots=True)
class _Asker:
    """What keeps a pod from nodes."""

    evenly: tuple[_Evenly, ...]
    wanted: _Wanted | None
    wants_itself: bool
    avoided: tuple[_Tally, ...]
    avoiders: tuple[_Tally, ...]

    @property
    def demanding(self) -> bool:
        """Whether it can ever be refused."""
        return bool(self.evenly or self.wanted is not None or self.avoided or self.avoiders)

    def refusal(self, labels: Mapping[str, str]) -> str:
        """Why not on a node with these labels."""
        for each in self.evenly:
            key = each.constraint.topology_key
            domain = labels.get(key)
            if domain is None:
                return f"lacks label {key} that the pod is to be spread over"
            if not each.holds(domain):
                return f"does not satisfy the pod's topology spread over {key}"
        if self.wanted is not None and not self.wanted.holds(labels, itself=self.wants_itself):
            return AFFINITY
        if any(tally.near(labels) for tally in self.avoided):
            return ANTI_AFFINITY
        if any(tally.near(labels) for tally in self.avoiders):
            return OTHERS_ANTI_AFFINITY
        return ""


class _Rules:
    """All rules of a snapshot, each once however many pods it comes from."""

    def __init__(self, nodes: Sequence[Node], namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self.namespaces = namespaces
        self._nodes = nodes
        self.rules: dict[frozenset[_Query], _Rule] = {}
        self._wanted: dict[tuple[AffinityTerm, ...], _Wanted] = {}
        self._avoided: dict[AffinityTerm, tuple[_Tally, _Tally]] = {}
        self._spreads: dict[tuple[object, ...], _Spread] = {}
        self._domains: dict[tuple[object, ...], tuple[dict[str, str], int]] = {}

    def of(self, pod: Pod) -> None:
        """Makes the rules that an unbound pod demands."""
        self.avoided(pod.anti_affinity)
        if pod.affinity:
            self.wanted(pod.affinity)
        for constraint in pod.spread:
            self.spread(pod, constraint)

    def wanted(self, terms: tuple[AffinityTerm, ...]) -> _Wanted:
        """Where the pods stand that affinity terms want: those that all of them select."""
        found = self._wanted.get(terms)
        if found is None:
            keys = [term.topology_key for term in terms]
            queries, taken = [_query(term) for term in terms], [_taken(term) for term in terms]
            tally = self._tally(keys, queries)
            found = self._wanted[terms] = _Wanted(tally, tally if taken == queries else self._tally(keys, taken))
        return found

    def avoided(self, terms: Iterable[AffinityTerm]) -> list[tuple[_Tally, _Tally]]:
        """By anti-affinity term, where the pods stand that it selects, and where those that have it."""
        return [self._avoided.get(term) or self._avoid(term) for term in terms]

    def spread(self, pod: Pod, constraint: SpreadConstraint) -> _Spread | None:
        """How the pods stand that a constraint of a pod counts; None where its selector counts nobody.

        The scheduler counts nobody for an empty selector too.
        """
        if constraint.selector is None or not constraint.selector.requirements:
            return None
        within = _domains_key(pod, constraint)
        key = (pod.namespace, constraint.selector, within)
        found = self._spreads.get(key)
        if found is None:
            if within not in self._domains:
                domain_of = _domains(pod, constraint, self._nodes)
                self._domains[within] = domain_of, len(set(domain_of.values()))
            found = self._spreads[key] = _Spread(*self._domains[within])
            query = _Query(constraint.selector, frozenset({pod.namespace}))
            self._rule(frozenset({query})).spreads.append(found)
        return found

    def stander(self, pod: Pod, selecting: Iterable[_Rule]) -> _Stander:
        """What changes where a pod is placed that these rules select."""
        own = [holders for _, holders in self.avoided(pod.anti_affinity)]
        tallies = [*(tally for rule in selecting for tally in rule.tallies), *own]
        return _Stander(tuple(tallies), tuple(spread for rule in selecting for spread in rule.spreads))

    def asker(self, pod: Pod, selecting: Sequence[_Rule]) -> _Asker:
        """What keeps a pod from nodes that these rules select."""
        selected_by = {id(tally) for rule in selecting for tally in rule.tallies}
        counted_in = {id(spread) for rule in selecting for spread in rule.spreads}
        wanted = self.wanted(pod.affinity) if pod.affinity else None
        spreads = [(constraint, self.spread(pod, constraint)) for constraint in pod.spread]
        return _Asker(
            evenly=tuple(_Evenly(constraint, spread, id(spread) in counted_in) for constraint, spread in spreads),
            wanted=wanted,
            wants_itself=wanted is not None and id(wanted.tally) in selected_by,
            avoided=tuple(selected for selected, _ in self.avoided(pod.anti_affinity)),
            avoiders=tuple(tally for rule in selecting for tally in rule.avoiders),
        )

    def _avoid(self, term: AffinityTerm) -> tuple[_Tally, _Tally]:
        query = _query(term)
        selected = self._tally([term.topology_key], [_taken(term)])
        holders = _Tally([term.topology_key])
        if query is not None:
            self._rule(frozenset({query})).avoiders.append(holders)
        self._avoided[term] = selected, holders
        return selected, holders

    def _tally(self, keys: Iterable[str], queries: Sequence[_Query | None]) -> _Tally:
        """Where the pods stand that all queries select."""
        tally = _Tally(keys)
        if None not in queries:
            self._rule(frozenset(query for query in queries if query is not None)).tallies.append(tally)
        return tally

    def _rule(self, queries: frozenset[_Query]) -> _Rule:
        return self.rules.setdefault(queries, _Rule(queries))


class _Sorts:
    """Pods by what selectors can tell of them, and the rules that select each sort."""

    def __init__(self, rules: _Rules) -> None:
        self._namespaces = rules.namespaces
        queries = {query for held in rules.rules for query in held}
        self._keys = tuple(sorted({part.key for query in queries for part in query.selector.requirements}))
        self._anchored: dict[_Anchor, list[_Rule]] = {}
        self._selecting: dict[_Sort, tuple[_Rule, ...]] = {}
        options = {held: [each for query in held for each in query.anchors()] for held in rules.rules}
        crowd = Counter(anchor for sets in options.values() for each in sets for anchor in each)
        for held, rule in rules.rules.items():
            least = min(options[held], key=lambda anchors: (sum(crowd[anchor] for anchor in anchors), anchors))
            for anchor in least:
                self._anchored.setdefault(anchor, []).append(rule)

    def of(self, pod: Pod) -> _Sort:
        """The sort of a pod."""
        return pod.namespace, tuple(map(pod.labels.get, self._keys))

    def selecting(self, sort: _Sort) -> tuple[_Rule, ...]:
        """The rules that select pods of a sort."""
        found = self._selecting.get(sort)
        if found is None:
            found = self._selecting[sort] = tuple(self._search(sort))
        return found

    def _search(self, sort: _Sort) -> Iterator[_Rule]:
        namespace, values = sort
        labels = {key: value for key, value in zip(self._keys, values, strict=True) if value is not None}
        of_namespace = self._namespaces.get(namespace, {_NAME_LABEL: namespace})
        for place in (namespace, ""):
            for key, value in (("", ""), *labels.items()):
                for rule in self._anchored.get((place, key, value), ()):
                    if all(query.selects(namespace, of_namespace, labels) for query in rule.queries):
                        yield rule


def _query(term: AffinityTerm) -> _Query | None:
    """The pods that a term means; None where it means none."""
    if term.selector is None:
        return None
    return _Query(term.selector, term.namespaces, term.namespace_selector)


def _taken(term: AffinityTerm) -> _Query | None:
    """The pods that some schedulers take a term of the pod that they place to mean; they are never fewer."""
    query = _query(term)
    if query is not None and query.namespace_selector is not None and query.namespace_selector.selects({}):
        return replace(query, namespace_selector=LabelSelector())
    return query


def _demands(pod: Pod) -> tuple[object, ...]:
    """Equal for pods that demand the same of others.

    Told by identity, which is quick: equal values that pods do not share are only worked out once more.
    """
    where = _where(pod) if pod.spread else ()
    return id(pod.affinity), id(pod.anti_affinity), id(pod.spread), *where


def _where(pod: Pod) -> tuple[object, ...]:
    """What of a pod decides which nodes' domains count for its spread."""
    return tuple(sorted(pod.node_selector.items())), pod.node_affinity, pod.tolerations


def _domains_key(pod: Pod, constraint: SpreadConstraint) -> tuple[object, ...]:
    """Equal for constraints over the same domains."""
    selector, affinity, tolerations = _where(pod)
    return (
        constraint.topology_key,
        frozenset(each.topology_key for each in pod.spread),
        (selector, affinity) if constraint.honor_affinity else None,
        tolerations if constraint.honor_taints else None,
    )


def _domains(pod: Pod, constraint: SpreadConstraint, nodes: Iterable[Node]) -> dict[str, str]:
    """The domain of each node that counts: it has all labels that the pod is to be spread over, and suits the pod."""
    return {
        node.name: node.labels[constraint.topology_key]
        for node in nodes
        if all(each.topology_key in node.labels for each in pod.spread)
        and (not constraint.honor_affinity or fit.selected(pod, node))
        and (not constraint.honor_taints or fit.untolerated(pod, node) is None)
    }
