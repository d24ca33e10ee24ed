"""How one pod stands with its quota and its MIG devices, by what one round of decisions holds: for whoever asks.

Decides nothing. What it says of a pod is what the pod's event says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from brain.decide.decisions import Decisions
from brain.decide.ledger import by_namespace
from brain.decide.why import Reason
from brain.model.mig import Placement
from brain.model.pod import Pod
from brain.model.quota import Quota, active


class Standing(Enum):
    """How a pod stands."""

    NO_MIG = "asks for no MIG devices"
    ENDED = "has ended"
    GATED = "has scheduling gates left"
    BOUND = "is bound to a node"
    FITS = "fits on a node as it is"
    OVERDUE = "fits on a node as it is, and is not bound to it all the same"
    MAKING_ROOM = "room is being made for it"
    WAITS = "no node has room for it"
    UNTRIED = "the scheduler has yet to say that it finds no room"


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a pod stands.

    Attributes:
        pod: the pod.
        standing: how it stands.
        text: the same in words.
        node: the node that it is bound to, fits on, or that room is being made on; empty where there is none.
        made: what is made for it: ``(GPU index, placement)``; empty once the order is given.
        reason: why it waits; None where it does not.
        quota: the quota that governs its namespace; None where none does, and once the pod has ended.
    """

    pod: Pod
    standing: Standing
    text: str
    node: str = ""
    made: tuple[tuple[int, Placement], ...] = ()
    reason: Reason | None = None
    quota: Quota | None = None


def explain(pod: Pod, decisions: Decisions, quotas: Iterable[Quota] = ()) -> Explanation:
    """How a pod of the snapshot stands, from which the decisions follow; ``quotas`` are those of the snapshot."""
    found = _stands(pod, decisions)
    if found.standing is Standing.ENDED:
        return found
    return replace(found, quota=by_namespace(active(quotas)).get(pod.namespace))


def _stands(pod: Pod, decisions: Decisions) -> Explanation:
    plan = decisions.plan
    node = plan.assigned.get(pod.key, "")
    if pod.ended:
        return Explanation(pod, Standing.ENDED, f"has ended: {pod.phase}", pod.node)
    if pod.node:
        leaving = " and is being deleted" if pod.terminating else ""
        return Explanation(pod, Standing.BOUND, f"is bound to node {pod.node}{leaving}", pod.node)
    if pod.terminating:
        return Explanation(pod, Standing.ENDED, "is being deleted and never had a node")
    if pod.key in decisions.waits:
        return Explanation(pod, Standing.GATED if pod.gated else Standing.WAITS, decisions.waits[pod.key])
    if pod.gated and pod.key not in plan.why:
        return Explanation(pod, Standing.GATED, "has scheduling gates left: no room is looked for before they are gone")
    if not pod.mig_request:
        return Explanation(pod, Standing.NO_MIG, "asks for no MIG devices: kube-scheduler alone finds it a node")
    if pod.key in plan.overdue:
        return Explanation(pod, Standing.OVERDUE, plan.why[pod.key].text, plan.overdue[pod.key])
    if pod.key in plan.why:
        reason = plan.why[pod.key]
        return Explanation(pod, Standing.WAITS, reason.text, reason=reason)
    if not node:
        text = "nothing free suits it; nothing is made for it before the scheduler has said that it finds no room"
        return Explanation(pod, Standing.UNTRIED, text)
    if pod.key in decisions.fitting:
        text = f"fits on node {node} as it is: the scheduler may bind it at any moment"
        return Explanation(pod, Standing.FITS, text, node)
    made = plan.made.get(pod.key, ())
    return Explanation(pod, Standing.MAKING_ROOM, making(node, made), node, made)


def making(node: str, made: Sequence[tuple[int, Placement]]) -> str:
    """What a pod is told for which room is being made."""
    if not made:
        return f"Making room on node {node}: the change is under way"
    placed = ", ".join(f"{placement.profile} at slot {placement.start} of GPU {gpu}" for gpu, placement in made)
    return f"Making room on node {node}: {placed}"
