"""From a plan to what happens to each node next: taint, settle, order, publish, untaint.

A node that is being changed carries a taint, so that no pod is bound to what is about to go. Every step follows
from the snapshot: whoever leads next goes on where the last one stopped. One order at most is applied under one
taint; then the node is opened again, so that pods get to what was made before it changes once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from brain.decide import eligibility, fit, problems, reasons
from brain.decide.decisions import (
    AnnotateNode,
    AskState,
    Decision,
    OrderGeometry,
    PublishDevices,
    ReplacePlugin,
    TaintNode,
    UntaintNode,
)
from brain.decide.partition import Plan
from brain.model.mig import Geometry, InstanceState
from brain.model.node import Agent, Node, Plugin
from brain.model.pod import Pod
from n8s import names

SILENCE_SECONDS: Final = 30.0
"""For how long nobody may answer for a node that keeps the taint; then it is opened, by way of a new device plugin."""
REPLACED_SECONDS: Final = 60.0
"""After that: for the device plugin's pod to be replaced, which takes its time to stop (30 s by default) and start."""
LOOK_SECONDS: Final = 2.0
"""For a device plugin that has become Ready to look at the GPUs and tell the kubelet."""
SHOWN_SECONDS: Final = 15.0
"""From a device plugin's being Ready until its devices show in the node's status: a second or two for it to look, and
the kubelet reports every 10 s."""
ADMISSION_SECONDS: Final = 10.0
"""For how long at most after the settle time an order waits for the kubelet to give bound pods their devices. It does
so within 0.1 s; what a pod's init containers alone ask for it never shows."""
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
        return _tell_plugin(node, agent, settle_seconds)
    if not node.enabled or agent is None or not agent.connected or agent.problem or eligibility.unfit(node):
        return _leave(node)
    retry = agent.failure.retry_seconds if agent.failure is not None else 0.0
    wanted = plan.geometries.get(node.name, {})
    if not eligibility.unchangeable(node) and (wanted or not agent.plugin_current):
        if not wanted and not node.repartitioning and not any(_devices(agent).values()) and not _advertised(node):
            return Step((OrderGeometry(node.name, _as_it_is(agent), closed=False),))
        order = OrderGeometry(node.name, wanted or _as_it_is(agent))
        coming = any(_unadmitted(pod, agent) for pod in bound)
        return _toward_order(node, order, expected=expected, coming=coming, settle_seconds=settle_seconds)
    return Step(_open(node, agent), wake_seconds=retry or None)


def _devices(agent: Agent) -> dict[str, int]:
    """How many MIG devices of each resource the kubelet knows."""
    return {name: len(ids) for name, ids in agent.shown.items()}


def _advertised(node: Node) -> bool:
    """Whether the node's status shows a MIG device: only then is a pod bound to one."""
    return any(count for name, count in node.allocatable.items() if name.startswith(names.MIG_PREFIX))


def _tell_plugin(node: Node, agent: Agent, settle_seconds: float) -> Step:
    """Replace the pod of the device plugin that the agent waits for and cannot tell to look again, once.

    One that came before the agent waited may have looked too early; one that came afterwards has seen all.
    """
    plugin = node.plugin
    if agent.awaited_seconds is None or plugin is None or not fit.tolerates_repartitioning(plugin.pod):
        return Step()
    if not node.repartitioning:
        return Step((TaintNode(node.name),))  # nothing of MIG is there to lose, but the plugin may have whole GPUs too
    if node.tainted_seconds < settle_seconds:
        return Step(wake_seconds=settle_seconds - node.tainted_seconds)
    if plugin.pod.terminating or not plugin.pod.ready or plugin.known_seconds < agent.awaited_seconds:
        return Step()
    if plugin.ready_seconds < LOOK_SECONDS:
        return Step(wake_seconds=LOOK_SECONDS - plugin.ready_seconds)
    return Step(_replacement(node, plugin, f"the agent cannot have it do so: {agent.plugin_problem}"))


def _replacement(node: Node, plugin: Plugin, why: str) -> tuple[Decision, ...]:
    pod = plugin.pod
    told = f"Pod {pod.key} of the device plugin is replaced so that it looks at the GPUs again; {why}"
    return (
        ReplacePlugin(node.name, pod.namespace, pod.name, pod.uid),
        problems.event(node, reasons.PLUGIN_REPLACED, told, warning=False),
    )


def _leave(node: Node) -> Step:
    """Open a node that is not to be changed, or that nobody answers for.

    What an agent was in the middle of may be half done, and the device plugin may show what is gone; so where that is
    not known to be over, the taint stays until the plugin has looked again.
    """
    if not node.repartitioning:
        return Step()
    agent = node.agent
    known = agent is not None and not agent.problem and agent.ordered is None
    if agent is not None and known and (agent.connected or not node.enabled):
        opening = _open(node, agent)
        if opening:
            return Step(opening)
    quiet = node.tainted_seconds if agent is None or agent.connected else agent.silent_seconds
    if quiet < SILENCE_SECONDS:
        return Step(wake_seconds=SILENCE_SECONDS - quiet)
    if agent is not None and known and agent.plugin_current:
        return Step((UntaintNode(node.name),))
    return _reopen(node, quiet - SILENCE_SECONDS)


def _reopen(node: Node, seconds: float) -> Step:
    """Open a node whose device plugin may show devices that are gone, once a new pod of it has looked.

    Where that cannot be, the node is opened all the same: a pod that is given what is gone does not start, which is bad
    for one, but a node that stays closed is bad for all.

    Args:
        node: the node.
        seconds: since the silence was long enough.
    """
    plugin = node.plugin
    opening = UntaintNode(node.name)
    left = REPLACED_SECONDS - seconds
    if plugin is not None and not fit.tolerates_repartitioning(plugin.pod):
        why = f"Its pod would not have come back if it was replaced: {problems.TOLERATE}, and restart it on this node"
        return Step((opening, _unseen(node, why)))
    if node.agent is not None and node.agent.has_lost:
        why = "Its pod was not replaced, for it ends where a GPU does not answer: reset the lost GPU or reboot the node"
        return Step((opening, _unseen(node, why)))
    if plugin is None and not _advertised(node):
        return Step((opening,))
    if left <= 0.0:
        return Step((opening, _unseen(node, "No new pod of it has become Ready: see why")))
    if plugin is None or plugin.pod.terminating:
        return Step(wake_seconds=left)
    if plugin.ready_seconds > seconds:
        return Step(
            _replacement(node, plugin, "no agent has answered since the GPUs were being changed"), wake_seconds=left
        )
    if plugin.ready_seconds < SHOWN_SECONDS:
        return Step(wake_seconds=min(left, SHOWN_SECONDS - plugin.ready_seconds) if plugin.ready_seconds else left)
    return Step((opening,))


def _unseen(node: Node, why: str) -> Decision:
    told = (
        f"Opened though the device plugin (DaemonSet {problems.daemon_set(node)}) may show MIG devices that are gone, "
        f"and pods that get one do not start. {why}."
    )
    return problems.event(node, reasons.OPENED_UNSEEN, told)


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
    devices = _devices(agent)
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
