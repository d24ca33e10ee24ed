"""Whether a node's GPUs may be changed now, as far as the node itself can say."""

from __future__ import annotations

from typing import Final

from brain.decide import fit
from brain.model.node import Agent, Node
from n8s import names

BUSY: Final = "is being repartitioned"
SHOWS_GONE: Final = "is closed while its kubelet shows MIG devices that are gone"


def unchangeable(node: Node) -> str:
    """Why a node's GPUs cannot be changed now; "" when they can."""
    if node.unknown:
        return node.unknown
    if not node.enabled:
        return f"is not labelled {names.AUTO_MIG_LABEL}=true"
    if wrong := unfit(node):
        return wrong
    if node.agent is None:
        return "has no agent yet"
    if not node.agent.connected:
        return "has a silent agent"
    if node.agent.problem:
        return f"has an agent with a problem: {node.agent.problem}"
    if node.agent.ordered is not None:
        return BUSY
    if node.agent.failure is not None and node.agent.failure.retry_seconds > 0:
        return "could not be repartitioned a moment ago"
    if node.repartitioning and node.agent.applied_seconds < node.tainted_seconds:
        return BUSY
    return ""


def unfit(node: Node) -> str:
    """What keeps a node's GPUs from being changed until a person puts it right; "" when nothing does."""
    if managed_elsewhere(node):
        return "is driven by NVIDIA's mig-manager"
    if wrong_strategy(node):
        return f"has MIG strategy {wrong_strategy(node)}, where it must be {names.MIG_STRATEGY}"
    if node.agent is not None and len(models(node.agent)) > 1:
        return "has GPUs of more than one model"
    return "has a device plugin that nobody can have look again" if out_of_reach(node) else ""


def fixed(node: Node) -> str:
    """Why no change of a node's GPUs can be planned now; "" when one can.

    NVIDIA's device plugin asks every GPU when it looks again, and ends where one does not answer; with it all devices
    of the node would be gone for new pods. So what is there stays as it is until the GPU is back.
    """
    if reason := unchangeable(node):
        return reason
    lost = node.agent is not None and node.agent.has_lost
    return "has a lost GPU, beside which none is repartitioned" if lost else ""


def unshown(node: Node) -> str:
    """Why what is free on a node cannot be bound though it is there; "" when it can, or will be in a moment.

    A device plugin that looks again is down for about a second; here are those that did not come back in time.
    """
    agent = node.agent
    if agent is None:
        return ""
    if node.enabled and agent.connected and agent.failure is not None and agent.shows_gone:
        return SHOWS_GONE
    lasting = not agent.connected or late(agent) or wrong_strategy(node) or out_of_reach(node)
    return "has a device plugin that does not show its MIG devices" if lasting and not agent.plugin_current else ""


def late(agent: Agent) -> bool:
    """Whether the device plugin did not show the devices in time when it was last told to look."""
    return agent.failure is not None and agent.failure.outcome == "plugin-late"


def managed_elsewhere(node: Node) -> bool:
    """Whether NVIDIA's mig-manager drives the node (its label, other than the value that disables it)."""
    return node.labels.get(names.MIG_CONFIG_LABEL, "all-disabled") != "all-disabled"


def wrong_strategy(node: Node) -> str:
    """The MIG strategy of the node's device plugin where it is one without a resource for each profile; else ""."""
    strategy = node.labels.get(names.MIG_STRATEGY_LABEL, "")
    return "" if strategy == names.MIG_STRATEGY else strategy


def models(agent: Agent) -> frozenset[str]:
    """Models of the GPUs that have MIG on. Others may stand beside them, such as one for a display."""
    return frozenset(gpu.model for gpu in agent.gpus if gpu.profiles)


def out_of_reach(node: Node) -> bool:
    """Whether neither the agent nor the brain can have the node's device plugin look again.

    The brain evicts the plugin's pod, and it must come back in spite of our taint. Under the taint one that is not
    there may be about to.
    """
    if node.agent is None or not node.agent.plugin_problem:
        return False
    if node.plugin is None:
        return not node.repartitioning
    return not fit.tolerates_repartitioning(node.plugin.pod)
