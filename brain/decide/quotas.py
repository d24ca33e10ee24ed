"""What quotas say of their namespaces' pods: usage, labels, standing. Enforcement is not decided here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Final

from brain.decide.accounts import Account, accounts, label
from brain.decide.decisions import LabelPod, UpdateQuota
from brain.decide.governed import governance
from brain.decide.gpumemory import GpuMemory
from brain.decide.ledger import Ledger
from brain.model import resources
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import EXCEEDS, RECLAIMING, Condition, Quota, QuotaStatus, Standing, Verdict
from brain.model.snapshot import Snapshot
from n8s import names

MOST_FOLLOWING: Final = 32
"""Statuses written in one round only because of what other quotas use."""


def quota_decisions(
    snapshot: Snapshot, gpu_memory_gb: int, reclaiming: Set[str] = frozenset()
) -> Iterator[LabelPod | UpdateQuota]:
    """Where a quota's status or a pod's capacity label is not what it should be, what to write.

    A pod that does not run, or whose namespace has no active quota, carries no capacity label. ``reclaiming`` are keys
    of pods that others must leave for.
    """
    governed = governance(snapshot.quotas)
    memory = GpuMemory.of(gpu_memory_gb, snapshot.nodes)
    books = accounts(snapshot, memory)
    ordered = sorted(snapshot.quotas, key=lambda quota: quota.key)
    conditions = {quota.key: _conditions(governed.verdicts[quota.key]) for quota in ordered}
    counting = sorted(governed.counting, key=lambda quota: quota.key)
    for name, said in (_reclaims(ordered, reclaiming), _exceeding(counting, snapshot.nodes, memory)):
        for quota in ordered:
            message = said.get(quota.key, "") if quota.key in books else ""
            reason = name if message else f"Not{name}"
            conditions[quota.key].append(Condition(name, bool(message), reason, message))
    yield from _updates(ordered, conditions, books)
    writes = [write for quota in counting for write in books[quota.key].writes]
    writes += [label(pod, None) for pod in snapshot.labelled() if not _bears(pod) or pod.namespace not in governed.of]
    yield from sorted(writes, key=lambda write: (write.namespace, write.name))


def _updates(
    quotas: Sequence[Quota], conditions: Mapping[str, list[Condition]], books: Mapping[str, Account]
) -> Iterator[UpdateQuota]:
    """Where a status is not what it should be, what to write.

    Each pod changes what is left for all quotas. So of the statuses in which nothing else is new, a round writes those
    that are the furthest off; what is written brings the next round.
    """
    ledger = Ledger(quota for quota in quotas if quota.key in books)
    for quota in ledger.quotas.values():
        ledger.charge(quota, books[quota.key].reserved)
    borrowed: Counter[str] = Counter()
    for quota in ledger.quotas.values():
        borrowed.update(ledger.borrowed(quota))
    following: list[tuple[int, UpdateQuota]] = []
    for quota in quotas:
        held = tuple(sorted(conditions[quota.key], key=lambda condition: condition.type))
        status = QuotaStatus(conditions=held, generation=quota.generation)
        if quota.key in books:
            known = books[quota.key]
            left = {name: max(0, value - known.reserved[name]) for name, value in quota.min.items()}
            status = replace(
                status,
                used=known.used,
                reserved=known.reserved,
                borrowed=ledger.borrowed(quota),
                lent={name: min(value, borrowed[name]) for name, value in left.items()},
                guaranteed_over_quota=ledger.share(quota),
                gpu_memory=known.memory.shown() if names.GPU_MEMORY in quota.named else {},
            )
        shown = quota.status
        if status == shown:
            continue
        if replace(status, lent=shown.lent, guaranteed_over_quota=shown.guaranteed_over_quota) != shown:
            yield UpdateQuota(quota, status)
        else:
            following.append((_distance(quota, status), UpdateQuota(quota, status)))
    following.sort(key=lambda each: -each[0])
    yield from (update for _, update in following[:MOST_FOLLOWING])


def _distance(quota: Quota, status: QuotaStatus) -> int:
    """By how much what a status shows of others' doing is off: per mille of ``min``."""
    shown = quota.status
    return max(
        (
            1000 * abs(now.get(name, 0) - before.get(name, 0)) // max(1, least)
            for now, before in ((status.lent, shown.lent), (status.guaranteed_over_quota, shown.guaranteed_over_quota))
            for name, least in quota.min.items()
        ),
        default=0,
    )


def _bears(pod: Pod) -> bool:
    """Whether a pod of a quota carries a capacity label: while it runs, and from when it was let in."""
    return pod.phase == "Running" or (bool(pod.reservation) and not pod.ended)


def _reclaims(quotas: Iterable[Quota], reclaiming: Set[str]) -> tuple[str, dict[str, str]]:
    """The condition that says that room is taken back, with its message by quota key where it holds."""
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(reclaiming):
        waiting[key.partition("/")[0]].append(key)
    pods = {quota.key: [key for namespace in quota.namespaces for key in waiting[namespace]] for quota in quotas}
    said = {
        key: f"{keys[0]} waits for others to leave" + (f", and {len(keys) - 1} more" if len(keys) > 1 else "")
        for key, keys in pods.items()
        if keys
    }
    return RECLAIMING, said


def _exceeding(active: Iterable[Quota], nodes: Sequence[Node], memory: GpuMemory) -> tuple[str, dict[str, str]]:
    """The condition that says that more is guaranteed than there is, with its message by quota key where it holds.

    MIG devices by profile are not judged: how many of them there can be is for the planner to find.
    """
    guaranteed: Counter[str] = Counter()
    whose: defaultdict[str, list[str]] = defaultdict(list)
    for quota in active:
        for name, value in quota.min.items():
            if not name.startswith(names.MIG_PREFIX):
                guaranteed[name] += value
                whose[name].append(quota.key)
    there = dict.fromkeys(guaranteed, 0)
    for node in nodes:
        for name in there:
            there[name] += memory.capacity(node) if name == names.GPU_MEMORY else node.allocatable.get(name, 0)
    said: dict[str, str] = {}
    for name, value in sorted(guaranteed.items()):
        if value > there[name]:
            least, most = (resources.quantity(name, each) for each in (value, there[name]))
            text = f"quotas guarantee {least} {name}, and nodes have {most}"
            said |= {key: f"{said[key]}; {text}" if key in said else text for key in whose[name]}
    return EXCEEDS, said


def _conditions(verdict: Verdict) -> list[Condition]:
    """All three standings as conditions, so that each can be waited for."""
    found = []
    for standing in Standing:
        holds = verdict.standing is standing
        reason = verdict.standing.value if holds or standing is Standing.ACTIVE else f"Not{standing.value}"
        message = verdict.reason if holds or standing is Standing.ACTIVE else ""
        found.append(Condition(standing.value, holds, reason, message))
    return found
