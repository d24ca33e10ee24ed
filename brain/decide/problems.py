"""What is wrong with a node that a person can put right: shown as its annotation, its events and a metric.

It follows from the node alone. Whether a node is changed all the same is :mod:`brain.decide.eligibility`'s business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from brain.decide import eligibility, reasons
from brain.decide.decisions import AnnotateNode, EmitEvent
from brain.model.node import NEW_SECONDS, Agent, Node
from n8s import names

TOLERATE: Final = (
    f"add the toleration {{key: {names.REPARTITIONING_TAINT}, operator: Exists, effect: NoSchedule}} to it (GPU "
    "operator: value daemonsets.tolerations; NVIDIA's chart: value tolerations)"
)
"""What to do where the device plugin's pod would not come back while the node carries our taint."""
NO_MIG: Final = "no-mig"
_BY_CODE: Final = {"mig-off": reasons.MIG_OFF, "no-permission": reasons.NO_PERMISSION}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        reason: which, one of :mod:`brain.decide.reasons`.
        text: what is wrong and what to do, for people.
    """

    reason: str
    text: str


def problems(node: Node) -> tuple[Problem, ...]:
    """All that is wrong with a node, the gravest first; nothing where it does not carry our label."""
    return tuple(_problems(node)) if node.enabled else ()


def wake_seconds(node: Node) -> float | None:
    """After how long something that is wrong with a node is told that is not told yet; None where nothing is."""
    plugin = node.plugin
    if plugin is None or not plugin.pod.ready or not node.enabled or not eligibility.out_of_reach(node):
        return None
    return NEW_SECONDS - plugin.ready_seconds if plugin.ready_seconds < NEW_SECONDS else None


def shown(node: Node) -> AnnotateNode | None:
    """The annotation that says what is wrong, where the node does not carry it so; None where it does."""
    told = "\n".join(f"{problem.reason}: {problem.text}" for problem in problems(node)) or None
    if node.annotations.get(names.PROBLEM_ANNOTATION) == told:
        return None
    return AnnotateNode(node.name, {names.PROBLEM_ANNOTATION: told})


def events(node: Node) -> Iterator[EmitEvent]:
    """What an administrator should know of a node that carries our label."""
    for problem in problems(node):
        yield event(node, problem.reason, problem.text)
    failure = node.agent.failure if node.agent is not None and node.enabled else None
    if failure is not None:
        yield event(node, reasons.APPLY_FAILED, f"Repartitioning ended with {failure.outcome}: {failure.message}")


def event(node: Node, reason: str, message: str, *, warning: bool = True) -> EmitEvent:
    """Something to tell about a node."""
    return EmitEvent("Node", "", node.name, node.uid, reason, message, warning)


def daemon_set(node: Node) -> str:
    """The device plugin's DaemonSet, for people."""
    pod = node.plugin.pod if node.plugin is not None else None
    return f"{pod.namespace}/{pod.daemon.name}" if pod is not None and pod.daemon is not None else "none"


def _problems(node: Node) -> Iterator[Problem]:
    if eligibility.managed_elsewhere(node):
        config = node.labels[names.MIG_CONFIG_LABEL]
        yield Problem(
            reasons.NOT_OURS,
            f"Left alone: label {names.MIG_CONFIG_LABEL}={config} says that NVIDIA's mig-manager partitions this node. "
            "Set it to all-disabled or remove it.",
        )
    if strategy := eligibility.wrong_strategy(node):
        yield Problem(
            reasons.WRONG_STRATEGY,
            f"Left alone: label {names.MIG_STRATEGY_LABEL}={strategy} says that the device plugin gives MIG devices no "
            f"resources of their own. Set its MIG strategy to {names.MIG_STRATEGY} (GPU operator: value mig.strategy; "
            "NVIDIA's chart: value migStrategy); feature discovery then changes the label within a minute.",
        )
    agent = node.agent
    if agent is None:
        return
    if agent.connected and agent.problem:
        yield Problem(reasons.AGENT_PROBLEM, f"The agent cannot work: {agent.problem}")
    if len(found := eligibility.models(agent)) > 1:
        yield Problem(
            reasons.MIXED_MODELS,
            f"Left alone: its GPUs with MIG are of several models ({', '.join(sorted(found))}), which share names for "
            "different devices, and pods cannot say which they want. Leave MIG on for one model only.",
        )
    yield from _plugin(node, agent)
    yield from _gpus(agent)


def _plugin(node: Node, agent: Agent) -> Iterator[Problem]:
    told = agent.failure.message if agent.failure is not None else ""
    if eligibility.out_of_reach(node) and node.plugin is None:
        yield Problem(
            reasons.PLUGIN_MISSING,
            f"No device plugin is found: {agent.plugin_problem}, and no DaemonSet has a pod of it here. Install "
            "NVIDIA's device plugin on this node; where its container has an unusual name, set the chart's "
            "value brain.devicePluginContainers.",
        )
    elif eligibility.out_of_reach(node) and node.plugin is not None and node.plugin.ready_seconds >= NEW_SECONDS:
        yield Problem(
            reasons.PLUGIN_OUT_OF_REACH,
            f"Left alone: nobody can have the device plugin look again: {agent.plugin_problem}, and the pod "
            f"of DaemonSet {daemon_set(node)} would not come back if it was replaced: {TOLERATE}, or set the "
            "chart's value agent.hostPID to true.",
        )
    elif eligibility.unshown(node) == eligibility.SHOWS_GONE:
        yield Problem(
            reasons.PLUGIN_LATE,
            f"The node takes no new pods, for its kubelet shows MIG devices that are gone: {told}. See that its device "
            f"plugin (DaemonSet {daemon_set(node)}) looks again; where it has, restart the kubelet.",
        )
    elif eligibility.late(agent) and not agent.plugin_current:
        yield Problem(
            reasons.PLUGIN_LATE,
            f"The device plugin (DaemonSet {daemon_set(node)}) did not show the MIG devices in time, so nothing "
            f"is made here for now: {told}. See the log of its pod.",
        )


def _gpus(agent: Agent) -> Iterator[Problem]:
    """What is wrong with GPUs; those alike in one. GPUs without MIG are as they should be where others have it."""
    alike: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for gpu in agent.gpus:
        if gpu.problem and gpu.problem_code != NO_MIG:
            alike[_BY_CODE.get(gpu.problem_code, reasons.GPU_PROBLEM), gpu.problem].append(str(gpu.index))
    for (reason, text), indices in alike.items():
        which = f"GPU {indices[0]}" if len(indices) == 1 else f"GPUs {', '.join(indices)}"
        yield Problem(reason, f"{which} cannot be partitioned: {text}")
    if agent.gpus and all(gpu.problem_code == NO_MIG for gpu in agent.gpus):
        yield Problem(
            reasons.NO_MIG,
            f"None of its GPUs has MIG. Take the label {names.AUTO_MIG_LABEL} off this node.",
        )
