"""decide: the one function that the brain's loop calls, from a snapshot to all decisions.

What follows from one node alone is kept for the next round; no decision depends on what a round before decided.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from operator import attrgetter

from brain.decide import governed, holds, late, overdue, problems, quotas, reasons, repartition, standing
from brain.decide.admission import Admission, admit
from brain.decide.decisions import Decision, Decisions, EmitEvent, Evict, OrderGeometry
from brain.decide.partition import Plan
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import LINGER_SECONDS, Snapshot, lingerers


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator may set of the decisions.

    Attributes:
        gpu_memory_gb: GB that one whole ``nvidia.com/gpu`` counts for in quotas where its product is not known.
        settle_seconds: how long the taint must stand before instances may go: the scheduler assumes a pod
            before its bind shows.
        release_namespace: where Nebulnetes itself runs: quotas never hold its pods back. Empty: nowhere.
    """

    gpu_memory_gb: int = 32
    settle_seconds: float = 1.0
    release_namespace: str = ""


def decide(snapshot: Snapshot, settings: Settings) -> Decisions:
    """All that follows from a snapshot: geometries, taints, annotations, labels, quota status, events."""
    admission = admit(snapshot, settings.gpu_memory_gb, settings.release_namespace)
    plan = admission.plan
    if _Last.turns:
        # One pass over this and all that follows would hold up all threads; the first round's is never looked at.
        gc.collect(0)
    as_it_is = {key: node for key, node in plan.assigned.items() if key not in plan.made}
    now = {node: wanted for node, wanted in plan.geometries.items() if node not in admission.held}
    turns = _turns(snapshot, replace(plan, geometries=now), set(as_it_is.values()), settings.settle_seconds)
    decisions: list[Decision] = [each for turn in turns for each in turn.steps]
    belated, looks = late.late_binds(snapshot, [each.node for each in decisions if isinstance(each, OrderGeometry)])
    decisions += [_event(pod, reasons.LATE_BIND, late.told(pod), warning=True) for pod in belated]
    decisions += governed.namespace_labels(snapshot, settings.release_namespace)
    decisions += quotas.quota_decisions(snapshot, settings.gpu_memory_gb, admission.reclaiming)
    decisions += admission.decisions
    decisions += [each for turn in turns for each in turn.shown]
    decisions += _pod_events(snapshot, admission)
    wakes = [turn.wake_seconds for turn in turns if turn.wake_seconds is not None]
    fitting = plan.tried | _fitting(snapshot, as_it_is)
    wakes += (left for key in fitting if (left := overdue.OVERDUE_SECONDS - snapshot.fitting.get(key, 0.0)) > 0.0)
    lingering = lingerers(snapshot)
    lasted = (LINGER_SECONDS - snapshot.lingered.get(place, 0.0) for place in lingering)
    wakes += (left for left in lasted if left > 0.0)
    wakes += (wake for hold in admission.holds.values() if (wake := holds.wake_seconds(hold)) is not None)
    return Decisions(
        tuple(decisions),
        plan,
        fitting,
        admission.waits,
        admission.holds,
        lingering,
        looks,
        len(belated),
        min(wakes, default=None),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What happens to one node.

    Attributes:
        node: the node.
        bound: the pods bound to it.
        asked: what else it follows from: see :func:`_turns`.
        steps: what is done now.
        shown: annotations and events.
        wake_seconds: after how long to look again though nothing changed; None: never.
    """

    node: Node
    bound: tuple[Pod, ...]
    asked: tuple[bool, float]
    steps: tuple[Decision, ...]
    shown: tuple[Decision, ...]
    wake_seconds: float | None


class _Last:
    """The turns of the last round, by node; one round's at a time, so that no more is kept than one snapshot shows."""

    turns: Mapping[str, _Turn] = {}


def _turns(snapshot: Snapshot, plan: Plan, expected: Set[str], settle_seconds: float) -> list[_Turn]:
    """What happens to each node, by name.

    It follows from the node, its bound pods, whether a waiting pod is expected there, the settle time and the plan. Of
    nodes that the plan does not change and that were the same objects in the round before, it is not found again.
    """
    bound = snapshot.bound()
    last = _Last.turns
    kept: dict[str, _Turn] = {}
    found = []
    for node in sorted(snapshot.nodes, key=attrgetter("name")):
        name = node.name
        pods = bound.get(name, ())
        asked = (name in expected, settle_seconds)
        known = None if name in plan.geometries else last.get(name)
        if known is None or known.node is not node or known.bound is not pods or known.asked != asked:
            known = _turn(node, pods, plan, asked)
        if name not in plan.geometries:
            kept[name] = known
        found.append(known)
    _Last.turns = kept
    return found


def _turn(node: Node, bound: tuple[Pod, ...], plan: Plan, asked: tuple[bool, float]) -> _Turn:
    expected, settle_seconds = asked
    step = repartition.step(node, bound, plan, expected=expected, settle_seconds=settle_seconds)
    question = repartition.outdated(node, bound)
    wakes = [wake for wake in (step.wake_seconds, problems.wake_seconds(node)) if wake is not None]
    shown = (repartition.shown_geometry(node, plan), problems.shown(node))
    return _Turn(
        node,
        bound,
        asked,
        step.decisions if question is None else (*step.decisions, question),
        (*(each for each in shown if each is not None), *problems.events(node)),
        min(wakes, default=None),
    )


def _fitting(snapshot: Snapshot, as_it_is: Mapping[str, str]) -> frozenset[str]:
    """Of waiting pods that fit on a node as it is, by key with the node, those that the scheduler can bind now."""
    targets = set(as_it_is.values())
    open_ = {node.name for node in snapshot.nodes if node.name in targets and overdue.binds(node)}
    waiting = {pod.key for pod in snapshot.unbound() if pod.waiting}
    return frozenset(key for key, node in as_it_is.items() if node in open_ and key in waiting)


def _pod_events(snapshot: Snapshot, admission: Admission) -> Iterator[EmitEvent]:
    """What each pod that room is made for, or cannot be made for, is told; and those that must go for others."""
    plan = admission.plan
    evicted = {f"{e.namespace}/{e.name}": e for e in admission.decisions if isinstance(e, Evict)}
    if evicted:
        for pod in snapshot.pods:
            if pod.key in evicted:
                yield _event(pod, reasons.RECLAIMED, f"Evicted: {evicted[pod.key].reason}", warning=True)
    for pod in snapshot.unbound():
        if pod.key in admission.waits:
            told, about = admission.waits[pod.key], admission.about.get(pod.key, "")
            yield _event(pod, reasons.QUOTA_WAITS, told, about, warning=False)
            continue
        made = plan.made.get(pod.key)
        if made:
            yield _event(pod, reasons.REPARTITIONING, standing.making(plan.assigned[pod.key], made), warning=False)
        elif pod.key in plan.overdue:
            yield _event(pod, reasons.SUFFICIENT, plan.why[pod.key].text, warning=True)
        elif pod.key in plan.why and not plan.why[pod.key].later:
            why = plan.why[pod.key]
            yield _event(pod, reasons.NO_ROOM, why.text, "; ".join(lack.text for lack in why.lacks), warning=True)


def _event(pod: Pod, reason: str, message: str, about: str = "", *, warning: bool) -> EmitEvent:
    return EmitEvent("Pod", pod.namespace, pod.name, pod.uid, reason, message, warning, about)
