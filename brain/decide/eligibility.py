"""Whether a node's GPUs may be changed now, as far as the node itself can say."""

from __future__ import annotations

from typing import Final

from brain.model.node import Node
from n8s import names

BUSY: Final = "is being repartitioned"
SHOWS_GONE: Final = "is closed while its kubelet shows MIG devices that are gone"


def unchangeable(node: Node) -> str:
    """Why a node's GPUs cannot be changed now; "" when they can."""
    if not node.enabled:
        return f"is not labelled {names.AUTO_MIG_LABEL}=true"
    if managed_elsewhere(node):
        return "is driven by NVIDIA's mig-manager"
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


def fixed(node: Node) -> str:
    """Why no change of a node's GPUs can be planned now; "" when one can.

    NVIDIA's device plugin asks every GPU when it looks again, and ends where one does not answer; with it all devices
    of the node would be gone for new pods. So what is there stays as it is until the GPU is back.
    """
    if reason := unchangeable(node):
        return reason
    lost = node.agent is not None and any(gpu.lost for gpu in node.agent.gpus)
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
    late = agent.failure is not None and agent.failure.outcome == "plugin-late"
    if agent.connected and not late:
        return ""
    return "" if agent.plugin_current else "has a device plugin that does not show its MIG devices"


def managed_elsewhere(node: Node) -> bool:
    """Whether NVIDIA's mig-manager drives the node (its label, other than the value that disables it)."""
    return node.labels.get(names.MIG_CONFIG_LABEL, "all-disabled") != "all-disabled"
