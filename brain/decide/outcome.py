"""What a round says of pods of quotas: what to write, and what each of them waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from brain.decide.decisions import Evict, LetIn, Nominate, OpenGate
from brain.decide.gpumemory import GpuMemory
from brain.decide.reclaim import Reclaim, Victim
from brain.decide.waiting import Entry
from brain.decide.why import Reason
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot

FREE: Final = "free"
MADE: Final = "repartition"
RECLAIMED: Final = "reclaim"
NONE: Final = "none"

AdmissionDecision = LetIn | OpenGate | Nominate | Evict


def reserved(label: str, how: str, node: str, memory: str = "") -> str:
    """The reservation annotation: with which standing a pod was let in, by what room, where, counting what."""
    return "/".join(part for part in (label, how, node, memory) if part)


def room_by(pod: Pod) -> str:
    """How the room came about that a pod was let in for, by its reservation; empty where nothing says so."""
    return "".join(pod.reservation.split("/")[1:2])


class Outcome:
    """What one round says.

    Attributes:
        decisions: what to write.
        waits: what pods wait for, by key.
        about: the same without figures, by key, where there are any.
        reclaims: those that others are evicted for, or that wait for the room of pods on their way out, by rank.
    """

    def __init__(self, snapshot: Snapshot, memory: GpuMemory, waits: Mapping[str, str]) -> None:
        """``waits``: what some are known to wait for."""
        self._memory = memory
        self._lowest = min((pod.priority for pod in snapshot.pods if pod.node and not pod.ended), default=0)
        self.decisions: list[AdmissionDecision] = []
        self.waits = dict(waits)
        self.about: dict[str, str] = {}
        self.reclaims: list[tuple[Entry, Reclaim]] = []

    def hot(self, pod: Pod) -> bool:
        """Whether kube-scheduler might evict somebody for the pod: then it is let in only where it fits at once."""
        return not pod.never_preempts and pod.priority > self._lowest

    def open(self, entry: Entry, how: str, node: str) -> None:
        """A pod is let in."""
        pod, value = entry.pod, reserved(entry.label, how, node, self._memory.promise(entry.pod))
        self.decisions.append(LetIn(pod.namespace, pod.name, pod.uid, entry.label, value, pod.created, pod.version))

    def nominate(self, pod: Pod, node: str) -> None:
        """Room is kept for a pod; on no node if that is empty."""
        self.decisions.append(Nominate(pod.namespace, pod.name, pod.uid, node))

    def refuse(self, entry: Entry, reason: Reason | None) -> None:
        """Why a pod is not let in, or not bound: its quota, or else what the planner says of the nodes."""
        if entry.wait:
            self.waits[entry.key], self.about[entry.key] = entry.wait, entry.about
        elif reason is None:
            self.waits[entry.key] = "waits: no node has room"

    def reclaim(self, entry: Entry, found: Reclaim, *, shut: bool) -> None:
        """What comes next for a pod that gets its room by others' end.

        ``shut``: it keeps its gate until they have gone.
        """
        pod, key = entry.pod, entry.key
        self.reclaims.append((entry, found))
        goes = ", ".join(victim.pod.key for victim in found.victims)
        if not found.victims:
            self.waits[key] = f"waits for pods on their way out; room is kept on {found.node}"
        elif pod.gated and not shut:
            self.open(entry, RECLAIMED, found.node)
        elif not pod.gated and not self.hot(pod) and pod.nominated != found.node:
            self.nominate(pod, found.node)
            self.waits[key] = f"waits: room is kept on {found.node}, then {goes} will be evicted"
        else:
            self.waits[key] = f"waits: {goes} evicted for it on {found.node}"
            self.decisions += (
                Evict(victim.pod.namespace, victim.pod.name, victim.pod.uid, key, *_why(entry, victim))
                for victim in found.victims
            )


def beneficiary(entry: Entry, count: int) -> str:
    """What one is told that wants to borrow again once pods of its quota must leave for another's."""
    due = "owner of min" if entry.owner else "borrower within its guaranteed share"
    leave = "1 pod leave" if count == 1 else f"{count} pods leave"
    return f"; {due} in {entry.quota.name} has {leave} to make room for {entry.key}"


def _why(entry: Entry, victim: Victim) -> tuple[str, str]:
    """Why a pod is evicted, for people and for the metric."""
    if victim.quota is entry.quota:
        return f"{entry.key} of the same quota has a higher priority", "priority"
    due = "its min" if entry.owner else "its guaranteed share"
    borrowed = victim.quota.name if victim.quota is not None else ""
    return (
        f"{borrowed} borrows, and {entry.quota.name} wants {due} back for {entry.key}",
        "min" if entry.owner else "share",
    )
