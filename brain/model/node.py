"""A node as the decisions see it: what the API server says of it, and what its agent reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from brain.model.mig import Geometry, Gpu
from brain.model.pod import Pod
from brain.model.resources import Resources
from n8s import names


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class Failure:
    """How the last order ended when it did not go well.

    Attributes:
        outcome: the agent's word: ``in-use``, ``failed``, ``refused``, ``plugin-late``.
        message: what went wrong, for people.
        retry_seconds: how long from now the node is left alone before the next order; 0 when that time is over.
    """

    outcome: str
    message: str
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class Agent:
    """What the node's agent says.

    Attributes:
        connected: whether it has a session now.
        silent_seconds: since its session ended; 0 while it has one.
        gpus: the GPUs as last reported, by index.
        allocatable: device ids by resource, as the kubelet shows them.
        problem: what keeps the agent from its work; empty when nothing does.
        plugin_problem: why it cannot have the device plugin look again; empty when it can.
        awaited_seconds: for how long its order, whose GPUs are done, has waited for the device plugin, which it could
            not have look again; None where it does not.
        ordered: geometry by GPU index of an order that is sent and not confirmed; None when none is.
        failure: how the last order ended, unless it was applied.
        applied_seconds: since the agent last said that it had applied an order; infinite where it did not.
        version: the agent's version.
        driver: name and version of its GPU driver.
    """

    connected: bool
    silent_seconds: float
    gpus: tuple[Gpu, ...]
    allocatable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    problem: str = ""
    plugin_problem: str = ""
    awaited_seconds: float | None = None
    ordered: Mapping[int, Geometry] | None = None
    failure: Failure | None = None
    applied_seconds: float = float("inf")
    version: str = ""
    driver: str = ""

    @property
    def devices(self) -> dict[str, frozenset[str]]:
        """Device ids by resource that the device plugin should show: the UUIDs of all whole instances.

        Those of lost GPUs are none of them: the plugin does not reach them either.
        """
        result: dict[str, set[str]] = {}
        for gpu in self.gpus:
            for instance in gpu.instances:
                if instance.uuid and not gpu.lost:
                    result.setdefault(names.mig_resource(instance.profile), set()).add(instance.uuid)
        return {name: frozenset(ids) for name, ids in result.items()}

    @property
    def geometries(self) -> dict[int, Geometry]:
        """What each GPU holds, or will hold once the order under way is applied, by index."""
        return {gpu.index: gpu.geometry for gpu in self.gpus} | dict(self.ordered or {})

    @property
    def held(self) -> dict[str, dict[str, int]]:
        """Devices that containers hold by the kubelet's account: count by resource, by pod key."""
        return _held(self.gpus)

    @property
    def held_in_reach(self) -> dict[str, dict[str, int]]:
        """The same without those of lost GPUs: for these the scheduler takes others, which are there, as taken."""
        return _held(gpu for gpu in self.gpus if not gpu.lost)

    @property
    def has_lost(self) -> bool:
        """Whether one of its GPUs is lost."""
        return any(gpu.lost for gpu in self.gpus)

    @property
    def shown(self) -> dict[str, frozenset[str]]:
        """MIG device ids by resource, as the kubelet shows them."""
        return {name: ids for name, ids in self.allocatable.items() if name.startswith(names.MIG_PREFIX)}

    @property
    def plugin_current(self) -> bool:
        """Whether the kubelet knows exactly the MIG devices that exist; those of lost GPUs it may know or not."""
        lost = {instance.uuid for gpu in self.gpus if gpu.lost for instance in gpu.instances}
        return {name: left for name, ids in self.shown.items() if (left := ids - lost)} == self.devices

    @property
    def shows_gone(self) -> bool:
        """Whether the kubelet shows MIG devices that do not exist: it fails a pod that it would give one of them."""
        known = {instance.uuid for gpu in self.gpus for instance in gpu.instances}
        return any(ids - known for ids in self.shown.values())


def _held(gpus: Iterable[Gpu]) -> dict[str, dict[str, int]]:
    """Devices of some GPUs that containers hold: count by resource, by pod key."""
    result: dict[str, dict[str, int]] = {}
    for gpu in gpus:
        for instance in gpu.instances:
            if instance.holder is not None:
                pod = result.setdefault(instance.holder.key, {})
                resource = names.mig_resource(instance.profile)
                pod[resource] = pod.get(resource, 0) + 1
    return result


NEW_SECONDS: Final = 5.0
"""A device plugin that has been Ready for less is new: the agent, which looks every 2 s, may not have noticed it."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """NVIDIA's device plugin on a node, as far as it is a DaemonSet's pod.

    Attributes:
        pod: its pod.
        known_seconds: for how long this brain has known of that pod; infinite as ``ready_seconds`` is.
        ready_seconds: for how long this brain has seen that pod Ready; 0 where it has not. Infinite where it was
            before this brain looked, and where it is no longer new and the node is without our taint: time does not
            matter then.
    """

    pod: Pod
    known_seconds: float
    ready_seconds: float


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        name: its name.
        uid: its uid.
        labels: its labels.
        annotations: those of ours (group ``n8s.nebuly.ai``) only.
        taints: its taints, ours included.
        unschedulable: whether it is cordoned.
        ready: its Ready condition.
        capacity: ``status.capacity``.
        allocatable: ``status.allocatable``.
        agent: what its agent says; None where none has ever spoken to this brain.
        plugin: the pod of NVIDIA's device plugin; None where there is none.
        tainted_seconds: for how long this brain has seen our taint on it; 0 when it does not carry it.
        untainted_seconds: since this brain saw our taint go; infinite where it did not.
        unknown: why nothing can be said of its GPUs where only a file speaks of it; empty in a cluster.
    """

    name: str
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    capacity: Resources = field(default_factory=dict)
    allocatable: Resources = field(default_factory=dict)
    agent: Agent | None = None
    plugin: Plugin | None = None
    tainted_seconds: float = 0.0
    untainted_seconds: float = float("inf")
    unknown: str = ""

    def seen(
        self, agent: Agent | None, plugin: Plugin | None, tainted_seconds: float, untainted_seconds: float
    ) -> Node:
        """The node with what this brain sees of it besides; takes half as long as ``dataclasses.replace``."""
        return Node(
            self.name,
            self.uid,
            self.labels,
            self.annotations,
            self.taints,
            self.unschedulable,
            self.ready,
            self.capacity,
            self.allocatable,
            agent,
            plugin,
            tainted_seconds,
            untainted_seconds,
            self.unknown,
        )

    @property
    def enabled(self) -> bool:
        """Whether its GPUs are ours to partition: it carries the label with the value ``true``."""
        return self.labels.get(names.AUTO_MIG_LABEL) == "true"

    @property
    def repartitioning(self) -> bool:
        """Whether it carries our taint."""
        return any(taint.key == names.REPARTITIONING_TAINT for taint in self.taints)
