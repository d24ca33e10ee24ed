"""What the brain can decide to do. Values only: ``brain.act`` carries them out.

Each is level-triggered: it is decided again, and alike, from every snapshot in which it has not happened yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from brain.decide.partition import Plan
from brain.model.hold import Hold
from brain.model.mig import Geometry
from brain.model.quota import Quota, QuotaStatus


@dataclass(frozen=True, slots=True)
class TaintNode:
    """Put the repartitioning taint on a node, so that no pod is bound to what is about to change."""

    node: str


@dataclass(frozen=True, slots=True)
class UntaintNode:
    """Take the repartitioning taint off."""

    node: str


@dataclass(frozen=True, slots=True)
class OrderGeometry:
    """Send a node's agent the wanted geometry of some of its GPUs, by index, used instances included."""

    node: str
    geometries: Mapping[int, Geometry]


@dataclass(frozen=True, slots=True)
class AskState:
    """Ask a node's agent for its state now: pods on it have started or ended, and its last report does not show it."""

    node: str


@dataclass(frozen=True, slots=True)
class PublishDevices:
    """Write the number of devices by resource to a node's ``status.capacity`` and ``status.allocatable``.

    They are what the kubelet's device manager holds already; its own next report says the same.
    """

    node: str
    devices: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AnnotateNode:
    """Set annotations of ours on a node; None removes one."""

    node: str
    annotations: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Set a label of ours on a pod; None removes it. Holds for this uid only."""

    namespace: str
    name: str
    uid: str
    label: str
    value: str | None


@dataclass(frozen=True, slots=True)
class LetIn:
    """Let a pod in: our gate off, capacity label and reservation on, all at once or not at all. For this uid only.

    ``created`` is when the pod was, in seconds since the epoch, for the metric; 0 where that does not matter.
    """

    namespace: str
    name: str
    uid: str
    label: str
    reservation: str
    created: int = 0


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Take our gate off a pod that no quota governs any more. Holds for this uid only."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Nominate:
    """Have kube-scheduler keep room on a node for a pod that it has refused. Holds for this uid only."""

    namespace: str
    name: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Evict a pod, within its disruption budgets and with its own grace period. Holds for this uid only.

    Attributes:
        namespace: of the pod.
        name: of the pod.
        uid: of the pod.
        beneficiary: key of the pod that is to have its room.
        reason: why, for people.
        cause: why, for the metric: what entitles the beneficiary, ``min``, ``share`` or ``priority``.
    """

    namespace: str
    name: str
    uid: str
    beneficiary: str
    reason: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class LabelNamespace:
    """Set the label that says whether a quota governs a namespace; None removes it."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class UpdateQuota:
    """Write a quota's status."""

    quota: Quota
    status: QuotaStatus


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Tell about an object by a Kubernetes event. The same one is told once.

    Attributes:
        kind: ``Pod`` or ``Node``.
        namespace: of the object; empty for a node.
        name: of the object.
        uid: of the object.
        reason: one of :mod:`brain.decide.reasons`.
        message: for people.
        warning: whether it is a Warning.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    warning: bool


Decision = (
    TaintNode
    | UntaintNode
    | OrderGeometry
    | AskState
    | PublishDevices
    | AnnotateNode
    | LabelPod
    | LetIn
    | OpenGate
    | Nominate
    | Evict
    | LabelNamespace
    | UpdateQuota
    | EmitEvent
)


@dataclass(frozen=True, slots=True)
class Decisions:
    """All that follows from one snapshot.

    Attributes:
        decisions: in the order in which to carry them out.
        plan: what they carry out, for the inventory and metrics.
        fitting: keys of waiting pods that fit as things are: the next snapshot says for how long they do.
        waits: by key, what pods of quotas wait for before they are let in or bound.
        holds: by key, the room kept for pods as others leave it: the next snapshot says for how long it is.
        wake_seconds: after how long to decide again though nothing changed; None when time alone changes nothing.
    """

    decisions: tuple[Decision, ...] = ()
    plan: Plan = field(default_factory=Plan)
    fitting: frozenset[str] = frozenset()
    waits: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    wake_seconds: float | None = None
