"""What follows from each quota and its own pods alone; worked out once a round, and kept for the next one.

Most quotas and their pods are the same objects from one round to the next, and so is then what follows from them. No
result depends on which round came before. What one quota's use means for others is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from brain.decide.decisions import LabelPod
from brain.decide.entitlement import Borrowing
from brain.decide.governed import governance
from brain.decide.gpumemory import GpuMemory
from brain.decide.labels import capacity_labels, over_quota
from brain.decide.reclaim import Victim
from brain.model import resources
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources
from brain.model.snapshot import Snapshot
from n8s import names

Members = tuple[tuple[Pod, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """What follows from a quota and its own pods alone. Requests are as quotas count them, GPU memory in GB included.

    Attributes:
        quota: the quota.
        members: its pods that decisions count, by namespace in its order, then its running ones.
        memory: what whole GPUs count for.
        used: what its running pods use of what it names.
        reserved: what those use of it that decisions count: with a node or let in, and not ended.
        now: what its pods with a node use.
        later: what those of them use that are not on their way out.
        standing: the latter.
        over: keys of those of them that are over-quota.
        borrowing: the latter.
        writes: where running pods do not carry the capacity label that they should, what to write; by pod key.
    """

    quota: Quota
    members: Members
    memory: GpuMemory
    used: Resources
    reserved: Resources
    now: Resources
    later: Resources
    standing: tuple[Victim, ...]
    over: frozenset[str]
    borrowing: Borrowing
    writes: tuple[LabelPod, ...]

    def of(self, quota: Quota, members: Members, memory: GpuMemory) -> bool:
        """Whether it is that of some objects."""
        same = all(one is other for one, other in zip(self.members, members, strict=False))
        return self.quota is quota and self.memory is memory and same


def accounts(snapshot: Snapshot, memory: GpuMemory) -> Mapping[str, Account]:
    """The accounts of the quotas that count, by :attr:`Quota.key`, in the order of the snapshot."""
    counting = governance(snapshot.quotas).counting
    asked = snapshot.pods, counting, memory
    if all(one is other for one, other in zip(asked, _Last.asked, strict=False)):
        return _Last.accounts
    counted, running = snapshot.counted(), snapshot.running()
    found: dict[str, Account] = {}
    for quota in counting:
        members = tuple(of.get(namespace, ()) for of in (counted, running) for namespace in quota.namespaces)
        known = _Last.accounts.get(quota.key)
        if known is None or not known.of(quota, members, memory):
            known = _made(quota, members, memory)
        found[quota.key] = known
    _Last.asked, _Last.accounts = asked, found
    return found


class _Last:
    """The accounts found last and what they were asked for; no more is kept than one snapshot shows."""

    asked: tuple[object, ...] = (None,)
    accounts: Mapping[str, Account] = {}


def _made(quota: Quota, members: Members, memory: GpuMemory) -> Account:
    half = len(quota.namespaces)
    counted, running = ([pod for group in part for pod in group] for part in (members[:half], members[half:]))
    there = [Victim(pod, memory.request(pod), quota) for pod in counted if pod.node]
    standing = tuple(victim for victim in there if not victim.pod.terminating)
    over = over_quota(quota, [victim.pod for victim in standing], memory)
    labels = capacity_labels(quota, running, memory)
    wrong = [pod for pod in running if pod.labels.get(names.CAPACITY_LABEL) != labels[pod.key]]
    return Account(
        quota,
        members,
        memory,
        used=_usage(quota, running, memory),
        reserved=_usage(quota, counted, memory),
        now=resources.total(victim.request for victim in there),
        later=resources.total(victim.request for victim in standing),
        standing=standing,
        over=over,
        borrowing=Borrowing(victim for victim in standing if victim.pod.key in over),
        writes=tuple(label(pod, labels[pod.key]) for pod in sorted(wrong, key=attrgetter("key"))),
    )


def label(pod: Pod, value: str | None) -> LabelPod:
    """Set a pod's capacity label, or take it away."""
    return LabelPod(pod.namespace, pod.name, pod.uid, names.CAPACITY_LABEL, value)


def _usage(quota: Quota, pods: Sequence[Pod], memory: GpuMemory) -> dict[str, int]:
    """What pods ask for of each resource that the quota names."""
    used = resources.total(memory.request(pod) for pod in pods)
    return {name: used.get(name, 0) for name in sorted(quota.named)}
