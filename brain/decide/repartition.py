"""From a plan to what happens to each node next: taint, settle, order, publish, untaint.

A node that is being changed carries a taint, so that no pod is bound to what is about to go. Every step follows
from the snapshot: whoever leads next goes on where the last one stopped. One order at most is applied under one
taint; then the node is opened again, so that pods get to what was made before it changes once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from brain.decide import eligibility, reasons
from brain.decide.decisions import (
    AnnotateNode,
    AskState,
    Decision,
    EmitEvent,
    OrderGeometry,
    PublishDevices,
    TaintNode,
    UntaintNode,
)
from brain.decide.partition import Plan
from brain.model.mig import Geometry, InstanceState
from brain.model.node import Agent, Node
from brain.model.pod import Pod
from n8s import names

SILENCE_SECONDS: Final = 30.0
"""For how long at most a node keeps the taint that nobody answers for: then the kubelet has long reported the truth."""
ADMISSION_SECONDS: Final = 10.0
"""For how long at most after the settle time an order waits for the kubelet to give bound pods their devices. It does
so within 0.1 s; what a pod's init containers alone ask for it never shows."""
CLOSED: Final = (
    "The node takes no new pods while its kubelet shows devices that are gone: see that its device plugin looks again; "
    "where it has, restart the kubelet"
)
REOPEN_SECONDS: Final = 1.0
"""For how long after the taint went pods get to bind to what is free on the node before it may change again."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to a node now, and after how long to look again though nothing changed (None: never)."""

    decisions: tuple[Decision, ...] = ()
    wake_seconds: float | None = None


def step(node: Node, bound: Sequence[Pod], plan: Plan, *, expected: bool, settle_seconds: float) -> Step:
    """The next step of one node.

    Args:
        node: the node.
        bound: the pods bound to it.
        plan: what the planner wants.
        expected: whether a waiting pod fits on the node as it is, and so may be bound at any moment.
        settle_seconds: how long the taint must stand before an order.
    """
    agent = node.agent
    if agent is not None and agent.connected and agent.ordered is not None:
        return Step()
    if not node.enabled or agent is None or not agent.connected or agent.problem:
        return _leave(node)
    retry = agent.failure.retry_seconds if agent.failure is not None else 0.0
    wanted = plan.geometries.get(node.name, {})
    if not eligibility.unchangeable(node) and (wanted or not agent.plugin_current):
        if not wanted and not node.repartitioning and not _advertised(node, agent):
            return Step((OrderGeometry(node.name, _as_it_is(agent)),))
        order = OrderGeometry(node.name, wanted or _as_it_is(agent))
        coming = any(_unadmitted(pod, agent) for pod in bound)
        return _toward_order(node, order, expected=expected, coming=coming, settle_seconds=settle_seconds)
    return Step(_open(node, agent), wake_seconds=retry or None)


def _advertised(node: Node, agent: Agent) -> bool:
    """Whether anybody shows a MIG device: only then can a device plugin that looks again take one from a pod."""
    return any(ids for name, ids in agent.allocatable.items() if name.startswith(names.MIG_PREFIX)) or any(
        count for name, count in node.allocatable.items() if name.startswith(names.MIG_PREFIX)
    )


def _leave(node: Node) -> Step:
    """Open a node that is not to be changed, or that nobody answers for.

    What an agent was in the middle of may be half done, and the device plugin may show what is gone; so where that is
    not known to be over, the taint stays until the kubelet has long reported the truth.
    """
    if not node.repartitioning:
        return Step()
    agent = node.agent
    if agent is not None and not node.enabled and not agent.problem and agent.ordered is None:
        opening = _open(node, agent)
        if opening:
            return Step(opening)
    quiet = node.tainted_seconds if agent is None or agent.connected else agent.silent_seconds
    if quiet < SILENCE_SECONDS:
        return Step(wake_seconds=SILENCE_SECONDS - quiet)
    return Step((UntaintNode(node.name),))


def outdated(node: Node, bound: Sequence[Pod]) -> AskState | None:
    """A question to the agent, where its report does not show yet what pods hold by the API server's account.

    Without it the next report would come with the agent's next look, up to its poll interval later.
    """
    if not node.enabled or node.agent is None or not node.agent.connected:
        return None
    asking = {pod.key: pod.mig_request for pod in bound if pod.mig_request}
    return AskState(node.name) if asking != node.agent.held else None


def _unadmitted(pod: Pod, agent: Agent) -> bool:
    """Whether the kubelet has yet to give a bound pod its devices; while the plugin is down, it would fail the pod."""
    if pod.phase != "Pending" or pod.terminating or not pod.mig_request:
        return False
    held = agent.held.get(pod.key, {})
    return any(held.get(resource, 0) < count for resource, count in pod.mig_request.items())


def _toward_order(node: Node, order: OrderGeometry, *, expected: bool, coming: bool, settle_seconds: float) -> Step:
    if not node.repartitioning:
        if expected and node.untainted_seconds < REOPEN_SECONDS:
            return Step(wake_seconds=REOPEN_SECONDS - node.untainted_seconds)
        return Step((TaintNode(node.name),))
    if node.tainted_seconds < settle_seconds:
        return Step(wake_seconds=settle_seconds - node.tainted_seconds)
    left = settle_seconds + ADMISSION_SECONDS - node.tainted_seconds
    if coming and left > 0:
        return Step(wake_seconds=left)
    return Step((order,))


def _open(node: Node, agent: Agent) -> tuple[Decision, ...]:
    """Publish what the kubelet knows and take the taint off, once the plugin shows what exists.

    A plugin that did not come back in time closes its node no longer than its failure is known: then the kubelet's own
    report is what counts. Where that has devices that are gone, the node stays closed: each pod that was given one
    would be lost.
    """
    if not node.repartitioning:
        return ()
    if not agent.plugin_current and (agent.failure is None or agent.shows_gone):
        return ()
    devices = {name: len(ids) for name, ids in agent.allocatable.items() if name.startswith(names.MIG_PREFIX)}
    gone = {name: 0 for name in node.allocatable if name.startswith(names.MIG_PREFIX) and name not in devices}
    current = {name: n for name, n in node.allocatable.items() if name in devices or name in gone}
    if current != gone | devices:
        return (PublishDevices(node.name, gone | devices),)
    return (UntaintNode(node.name),)


def _as_it_is(agent: Agent) -> dict[int, Geometry]:
    """What exists, as an order: it makes the agent have the device plugin look again."""
    return {
        gpu.index: tuple(sorted(i.placement for i in gpu.instances if i.state is not InstanceState.BROKEN))
        for gpu in agent.gpus
        if not gpu.problem
    }


def shown_geometry(node: Node, plan: Plan) -> AnnotateNode | None:
    """The annotations that show a node's geometry, where they differ from what it carries; None when they agree.

    ``status-…`` counts instances by GPU, profile and use; ``spec-…`` counts what is wanted. A node that is not ours
    keeps what it has.
    """
    if not node.enabled or node.agent is None:
        return None
    wanted: dict[str, int] = {}
    for gpu in node.agent.gpus:
        for instance in gpu.instances:
            profile = names.mig_resource(instance.profile).removeprefix(names.MIG_PREFIX)
            used = instance.state is not InstanceState.FREE
            _count(wanted, names.status_annotation(gpu.index, profile, used=used))
    spec = node.agent.geometries | dict(plan.geometries.get(node.name, {}))
    for index, geometry in spec.items():
        for placement in geometry:
            profile = names.mig_resource(placement.profile).removeprefix(names.MIG_PREFIX)
            _count(wanted, names.spec_annotation(index, profile))
    prefixes = (f"{names.GROUP}/status-gpu-", f"{names.GROUP}/spec-gpu-")
    present = {key: value for key, value in node.annotations.items() if key.startswith(prefixes)}
    change: dict[str, str | None] = dict.fromkeys(present.keys() - wanted.keys())
    change |= {key: str(count) for key, count in wanted.items() if present.get(key) != str(count)}
    return AnnotateNode(node.name, dict(sorted(change.items()))) if change else None


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def node_events(node: Node) -> Iterator[EmitEvent]:
    """What an administrator should know of a node that carries our label."""
    if not node.enabled:
        return
    if eligibility.managed_elsewhere(node):
        config = node.labels[names.MIG_CONFIG_LABEL]
        yield _node_event(
            node,
            reasons.NOT_OURS,
            f"Left alone: label {names.MIG_CONFIG_LABEL}={config} says that NVIDIA's mig-manager partitions this node. "
            "Set it to all-disabled or remove it.",
        )
    if node.agent is None:
        return
    if node.agent.failure is not None:
        failure = node.agent.failure
        closed = f". {CLOSED}" if eligibility.unshown(node) == eligibility.SHOWS_GONE else ""
        told = f"Repartitioning ended with {failure.outcome}: {failure.message}{closed}"
        yield _node_event(node, reasons.APPLY_FAILED, told)
    for gpu in node.agent.gpus:
        if gpu.problem:
            yield _node_event(node, reasons.GPU_PROBLEM, f"GPU {gpu.index} cannot be partitioned: {gpu.problem}")


def _node_event(node: Node, reason: str, message: str) -> EmitEvent:
    return EmitEvent("Node", "", node.name, node.uid, reason, message, warning=True)
