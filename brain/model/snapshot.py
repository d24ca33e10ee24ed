"""A cluster at one moment: the only input of the decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
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
        found: defaultdict[str, list[Pod]] = defaultdict(list)
        for pod in self.pods:
            if pod.node and not pod.ended:
                found[pod.node].append(pod)
        return {node: tuple(sorted(pods, key=lambda pod: pod.key)) for node, pods in found.items()}
