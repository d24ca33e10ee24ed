"""A PodDisruptionBudget as the decisions see it: how many evictions the API server would let pass now.

The API server keeps budgets, whatever is decided here; knowing them beforehand only spares evictions that fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from brain.model.affinity import LabelSelector
from brain.model.pod import Pod


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget (``policy/v1``).

    Attributes:
        namespace: its namespace.
        name: its name.
        selector: its pods, within its namespace; None selects none, one without requirements all.
        allowed: how many of its pods may be evicted now, by ``status.disruptionsAllowed``; none until its status is
            about the spec that it has.
    """

    namespace: str
    name: str
    selector: LabelSelector | None
    allowed: int

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def guards(self, pod: Pod) -> bool:
        """Whether evicting a pod takes one of the allowed evictions.

        The API server evicts pods that have not started, have ended or are on their way out in any case. It may do so
        for running pods that are not ready, too; nothing is known of these here.
        """
        guarded = pod.phase != "Pending" and not (pod.ended or pod.terminating)
        return (
            guarded
            and pod.namespace == self.namespace
            and self.selector is not None
            and self.selector.selects(pod.labels)
        )
