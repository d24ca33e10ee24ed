"""A pod as the decisions see it: what it asks for, where it may run, how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from brain.model.affinity import AffinityTerm, Requirement, SpreadConstraint
from brain.model.resources import Resources
from n8s import names

_PAST_THE_GATE: Final = 1 << 40
"""More than any age in seconds."""


@dataclass(frozen=True, slots=True)
class NodeSelectorTerm:
    """All requirements must hold. ``fields`` knows ``metadata.name`` only, as Kubernetes does."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration; an empty key with ``Exists`` tolerates all, an empty effect every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a DaemonSet's pod is known by: the name of the DaemonSet, and those of the containers."""

    name: str
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        namespace: its namespace.
        name: its name.
        uid: its uid.
        created: seconds since the epoch, from its creation timestamp.
        request: what the scheduler counts for it, in the units of :mod:`brain.model.resources`.
        labels: its labels.
        phase: ``Pending``, ``Running``, ``Succeeded`` or ``Failed``.
        node: the node it is bound to; empty while it has none.
        nominated: ``status.nominatedNodeName``.
        terminating: whether it is being deleted.
        gates: names of the scheduling gates it has left.
        unschedulable: whether the scheduler has said ``PodScheduled=False`` with reason ``Unschedulable``.
        scheduler_message: what the scheduler said with it.
        priority: its priority.
        never_preempts: whether kube-scheduler takes no room from others for it (``preemptionPolicy: Never``).
        reservation: what it was let in with: the annotation that the brain wrote then; empty where there is none.
        node_selector: labels that its node must carry.
        node_affinity: required node affinity: one of the terms must match; None where it has none.
        tolerations: its tolerations.
        host_ports: ``(protocol, address, port)`` that it takes on its node.
        affinity: required terms of its affinity to other pods; all of them must be met by the same pods.
        anti_affinity: required terms of its anti-affinity; each alone keeps it away.
        spread: topology spread constraints that its scheduling depends on.
        group: what it stands and falls with, e.g. ``job/<namespace>/<uid>``; empty where it stands alone.
        group_min: how many pods of its group are of use only together; 0 means all that have not ended.
        daemon: what it is known by where it belongs to a DaemonSet; else None.
        ready: whether it is Ready, where it belongs to a DaemonSet: of others, nothing follows from that.
        version: its resource version while it has our gate, so that it is let in only as it was seen; empty without.
        key: ``namespace/name``; kept, as what follows, since both are asked for so often.
        mig_request: MIG devices it asks for: count by resource name, without zeros.
        first_out: sorts pods that are worth as much to those who need their room: who came in past the gate goes first,
            then the newest.
    """

    namespace: str
    name: str
    uid: str
    created: int = 0
    request: Resources = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    phase: str = "Pending"
    node: str = ""
    nominated: str = ""
    terminating: bool = False
    gates: tuple[str, ...] = ()
    unschedulable: bool = False
    scheduler_message: str = ""
    priority: int = 0
    never_preempts: bool = False
    reservation: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    node_affinity: tuple[NodeSelectorTerm, ...] | None = None
    tolerations: tuple[Toleration, ...] = ()
    host_ports: frozenset[tuple[str, str, int]] = frozenset()
    affinity: tuple[AffinityTerm, ...] = ()
    anti_affinity: tuple[AffinityTerm, ...] = ()
    spread: tuple[SpreadConstraint, ...] = ()
    group: str = ""
    group_min: int = 0
    daemon: Daemon | None = None
    ready: bool = False
    version: str = ""
    key: str = field(init=False, compare=False, repr=False)
    mig_request: Resources = field(init=False, compare=False, repr=False)
    first_out: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        devices = {name: n for name, n in self.request.items() if name.startswith(names.MIG_PREFIX) and n > 0}
        object.__setattr__(self, "key", f"{self.namespace}/{self.name}")
        object.__setattr__(self, "mig_request", devices)
        object.__setattr__(self, "first_out", -self.created if self.reservation else -self.created - _PAST_THE_GATE)

    @property
    def ended(self) -> bool:
        """Whether it has run to its end and holds nothing any more."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def gated(self) -> bool:
        """Whether a scheduling gate, of whomever, keeps it from being scheduled."""
        return bool(self.gates)

    @property
    def protected(self) -> bool:
        """Whether it is never a victim of reclaim, and therefore never a borrower."""
        return self.labels.get(names.PREEMPTIBLE_LABEL) == "false"

    @property
    def waiting(self) -> bool:
        """Whether the scheduler may bind it: no node, no gate, not ended, not on its way out."""
        return not (self.node or self.gated or self.ended or self.terminating)
