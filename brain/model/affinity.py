"""What a pod demands of the pods around it: selectors of labels, (anti-)affinity terms, topology spread.

Only what the scheduler must obey is here; preferences are nobody's business. All values are hashable, so that pods of
one workload share them and what follows from them is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a selector: ``key operator values`` (operators as in Kubernetes' NodeSelectorRequirement)."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it; an operator that Kubernetes does not know is never met."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt":
                return _compares(value, self.values, int.__gt__)
            case "Lt":
                return _compares(value, self.values, int.__lt__)
        return False


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; without any it selects everything. Where Kubernetes has none, None stands: nothing.

    ``matchLabels`` are requirements ``In`` with one value.
    """

    requirements: tuple[Requirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects what carries these labels."""
        return all(requirement.holds(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class AffinityTerm:
    """One required term of a pod's affinity or anti-affinity.

    Attributes:
        topology_key: the node label whose value names a node's domain.
        selector: the pods that are meant; None means none.
        namespaces: where they are, by name; the pod's own where its term names neither names nor a selector.
        namespace_selector: where they are besides, by the namespaces' labels; None means nowhere else.
    """

    topology_key: str
    selector: LabelSelector | None
    namespaces: frozenset[str] = frozenset()
    namespace_selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class SpreadConstraint:
    """One topology spread constraint with ``whenUnsatisfiable: DoNotSchedule``.

    Attributes:
        topology_key: the node label whose value names a node's domain.
        max_skew: how many more matching pods than the emptiest domain a domain may hold.
        selector: the pods of the pod's namespace that are counted; None means none.
        min_domains: with fewer domains than these the emptiest counts as holding none.
        honor_affinity: whether only nodes that suit the pod's node selector and affinity make domains.
        honor_taints: whether only nodes whose taints the pod tolerates make domains.
    """

    topology_key: str
    max_skew: int
    selector: LabelSelector | None
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


def _compares(value: str | None, bounds: tuple[str, ...], compare: Callable[[int, int], bool]) -> bool:
    try:
        return value is not None and len(bounds) == 1 and compare(int(value), int(bounds[0]))
    except ValueError:
        return False
