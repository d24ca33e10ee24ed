"""decide: the one function that the brain's loop calls, from a snapshot to all decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from brain.decide import overdue, partition, quotas, reasons, repartition, standing
from brain.decide.decisions import Decision, Decisions, EmitEvent
from brain.decide.partition import Plan
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator may set of the decisions.

    Attributes:
        gpu_memory_gb: GB that one whole ``nvidia.com/gpu`` counts for in quotas.
        settle_seconds: how long the taint must stand before instances may go: the scheduler assumes a pod
            before its bind shows.
    """

    gpu_memory_gb: int = 32
    settle_seconds: float = 1.0


def decide(snapshot: Snapshot, settings: Settings) -> Decisions:
    """All that follows from a snapshot: geometries, taints, annotations, labels, quota status, events."""
    plan = partition.plan(snapshot)
    decisions: list[Decision] = []
    wakes: list[float] = []
    expected = {node for key, node in plan.assigned.items() if key not in plan.made}
    bound = snapshot.bound()
    nodes = sorted(snapshot.nodes, key=lambda node: node.name)
    for node in nodes:
        step = repartition.step(node, plan, expected=node.name in expected, settle_seconds=settings.settle_seconds)
        decisions += step.decisions
        question = repartition.outdated(node, bound.get(node.name, ()))
        if question is not None:
            decisions.append(question)
        if step.wake_seconds is not None:
            wakes.append(step.wake_seconds)
    decisions += quotas.quota_decisions(snapshot, settings.gpu_memory_gb)
    for node in nodes:
        shown = repartition.shown_geometry(node, plan)
        if shown is not None:
            decisions.append(shown)
        decisions += repartition.node_events(node)
    decisions += _pod_events(snapshot, plan)
    fitting = _fitting(snapshot, plan)
    wakes += (left for key in fitting if (left := overdue.OVERDUE_SECONDS - snapshot.fitting.get(key, 0.0)) > 0.0)
    return Decisions(tuple(decisions), plan, fitting, min(wakes, default=None))


def _fitting(snapshot: Snapshot, plan: Plan) -> frozenset[str]:
    """Waiting pods that the scheduler can bind as things are."""
    as_it_is = {key: node for key, node in plan.assigned.items() if key not in plan.made}
    targets = set(as_it_is.values())
    open_ = {node.name for node in snapshot.nodes if node.name in targets and overdue.binds(node)}
    return frozenset(plan.overdue) | {key for key, node in as_it_is.items() if node in open_}


def _pod_events(snapshot: Snapshot, plan: Plan) -> Iterator[EmitEvent]:
    """What each pod that room is made for, or cannot be made for, is told."""
    for pod in sorted(snapshot.pods, key=lambda pod: pod.key):
        made = plan.made.get(pod.key)
        if made:
            yield _event(pod, reasons.REPARTITIONING, standing.making(plan.assigned[pod.key], made), warning=False)
        elif pod.key in plan.overdue:
            yield _event(pod, reasons.SUFFICIENT, plan.why[pod.key].text, warning=True)
        elif pod.key in plan.why and pod.key not in plan.deferred:
            yield _event(pod, reasons.NO_ROOM, plan.why[pod.key].text, warning=True)


def _event(pod: Pod, reason: str, message: str, *, warning: bool) -> EmitEvent:
    return EmitEvent("Pod", pod.namespace, pod.name, pod.uid, reason, message, warning)
