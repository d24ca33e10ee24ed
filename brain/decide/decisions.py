"""What the brain can decide to do. Values only: ``brain.act`` carries them out.

Each is level-triggered: it is decided again, and alike, from every snapshot in which it has not happened yet. A round
of a large cluster makes 100,000 of them: the garbage collector is kept from tracking each, for a pass over them would
hold up all threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from brain.decide.partition import Plan
from brain.model.hold import Hold
from brain.model.mig import Geometry
from brain.model.quota import Quota, QuotaStatus


class TaintNode(msgspec.Struct, frozen=True, gc=False):
    """Put the repartitioning taint on a node, so that no pod is bound to what is about to change."""

    node: str


class UntaintNode(msgspec.Struct, frozen=True, gc=False):
    """Take the repartitioning taint off."""

    node: str


class OrderGeometry(msgspec.Struct, frozen=True, gc=False):
    """Send a node's agent the wanted geometry of some of its GPUs, by index, used instances included.

    ``closed``: only if the node carries the repartitioning taint at that moment. The snapshot may be older than this
    brain's own taking it off.
    """

    node: str
    geometries: Mapping[int, Geometry]
    closed: bool = True


class AskState(msgspec.Struct, frozen=True, gc=False):
    """Ask a node's agent for its state now: pods on it have started or ended, and its last report does not show it."""

    node: str


class PublishDevices(msgspec.Struct, frozen=True, gc=False):
    """Write the number of devices by resource to a node's ``status.capacity`` and ``status.allocatable``.

    They are what the kubelet's device manager holds already; its own next report says the same.
    """

    node: str
    devices: Mapping[str, int]


class ReplacePlugin(msgspec.Struct, frozen=True, gc=False):
    """Evict the device plugin's pod of a node: its DaemonSet makes another, which looks at the GPUs as it starts.

    Within its disruption budgets, as any eviction. Holds for this uid only.
    """

    node: str
    namespace: str
    name: str
    uid: str


class AnnotateNode(msgspec.Struct, frozen=True, gc=False):
    """Set annotations of ours on a node; None removes one."""

    node: str
    annotations: Mapping[str, str | None]


class LabelPod(msgspec.Struct, frozen=True, gc=False):
    """Set a label of ours on a pod; None removes it. Holds for this uid only."""

    namespace: str
    name: str
    uid: str
    label: str
    value: str | None


class LetIn(msgspec.Struct, frozen=True, gc=False):
    """Let a pod in: our gate off, capacity label and reservation on, all at once or not at all. For this uid only.

    Attributes:
        namespace: of the pod.
        name: of the pod.
        uid: of the pod.
        label: its capacity label.
        reservation: its reservation annotation.
        created: when the pod was, in seconds since the epoch, for the metric; 0 where that does not matter.
        version: its resource version that this was decided for: one that has changed since is looked at again. Empty:
            whatever it is by now.
    """

    namespace: str
    name: str
    uid: str
    label: str
    reservation: str
    created: int = 0
    version: str = ""


class OpenGate(msgspec.Struct, frozen=True, gc=False):
    """Take our gate off a pod that no quota governs any more. Holds for this uid only."""

    namespace: str
    name: str
    uid: str


class Nominate(msgspec.Struct, frozen=True, gc=False):
    """Have kube-scheduler keep room on a node for a pod that it has refused. Holds for this uid only."""

    namespace: str
    name: str
    uid: str
    node: str


class Evict(msgspec.Struct, frozen=True, gc=False):
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


class LabelNamespace(msgspec.Struct, frozen=True, gc=False):
    """Set the label that says whether a quota governs a namespace; None removes it."""

    name: str
    value: str | None


class UpdateQuota(msgspec.Struct, frozen=True, gc=False):
    """Write a quota's status."""

    quota: Quota
    status: QuotaStatus


class EmitEvent(msgspec.Struct, frozen=True, gc=False):
    """Tell about an object by a Kubernetes event. The same is told once.

    Attributes:
        kind: ``Pod`` or ``Node``.
        namespace: of the object; empty for a node.
        name: of the object.
        uid: of the object.
        reason: one of :mod:`brain.decide.reasons`.
        message: for people.
        warning: whether it is a Warning.
        about: what makes it the same, where the message holds figures that change with every pod; else empty.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    warning: bool
    about: str = ""


Decision = (
    TaintNode
    | UntaintNode
    | OrderGeometry
    | AskState
    | PublishDevices
    | ReplacePlugin
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
        lingering: by node and pod key, whose devices are not free though the pod has ended or gone, as above.
        looks: by node that is ordered to change, uids of the pods that this look knows of; for the next snapshot.
        late: how many pods were bound later than the settle time covers, and found so in this round.
        wake_seconds: after how long to decide again though nothing changed; None when time alone changes nothing.
    """

    decisions: tuple[Decision, ...] = ()
    plan: Plan = field(default_factory=Plan)
    fitting: frozenset[str] = frozenset()
    waits: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    lingering: frozenset[tuple[str, str]] = frozenset()
    looks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    late: int = 0
    wake_seconds: float | None = None
