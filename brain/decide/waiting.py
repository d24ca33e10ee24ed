"""Pods of quotas that wait, and when their turn is: owners first, then those within their share, then priority, age.

Whether their quota lets them pass, and whether they have room, is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from brain.decide.gpumemory import GpuMemory
from brain.decide.groups import gated_needs
from brain.decide.holds import Holds
from brain.decide.ledger import Ledger
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources
from brain.model.snapshot import Snapshot
from n8s import names

OWNER: Final = 0
"""First of all: who stays within ``min``, and pods outside quotas."""
SHARER: Final = 1
"""Then those within their guaranteed share: they may evict those beyond it, who therefore must not come before them."""
BORROWER: Final = 2
"""Last: who borrows more."""


@dataclass(slots=True)
class Entry:
    """A pod of a quota that waits, gated or let in.

    Attributes:
        pod: the pod.
        quota: its quota.
        request: what it asks for, as quotas count it.
        owner: whether its quota stays within ``min`` with it.
        tier: in which tier its turn is.
        wait: what its quota keeps it waiting for; empty where it passes.
        about: the same without the figures that change with every pod; empty where it holds none.
        held: whether others went for it, or are on their way out: what they leave is nobody else's.
        key: the pod's key.
    """

    pod: Pod
    quota: Quota
    request: Resources
    owner: bool = False
    tier: int = OWNER
    wait: str = ""
    about: str = ""
    held: bool = False
    key: str = field(init=False)
    _order: tuple[int, int, str] = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.pod.key
        self._order = -self.pod.priority, self.pod.created, self.key

    @property
    def label(self) -> str:
        """The capacity label that it is let in with."""
        return names.IN_QUOTA if self.owner else names.OVER_QUOTA

    @property
    def turn(self) -> tuple[int, bool, int]:
        """When its turn is: the lowest first; of equals the oldest."""
        return self.tier, not self.held, -self.pod.priority

    @property
    def rank(self) -> tuple[int, bool, tuple[int, int, str]]:
        """When its turn is, among equals, too."""
        return self.tier, not self.held, self._order

    @property
    def summed(self) -> bool:
        """Whether it keeps others from borrowing once it was let in: unless it has, and will have, no room."""
        return not self.pod.unschedulable or bool(self.pod.nominated)

    @property
    def firm(self) -> bool:
        """Whether it keeps those from borrowing, too, whose turn is before it: the brain cannot give its room back."""
        return self.summed and not (self.pod.unschedulable and self.pod.reservation)


RANK: Final = attrgetter("rank")


class Ahead:
    """By quota and tier, the highest priority of those that pass: nobody of less comes in an earlier tier."""

    def __init__(self, highest: Mapping[str, Mapping[int, int]] = MappingProxyType({})) -> None:
        self._highest = {quota: dict(tiers) for quota, tiers in highest.items()}

    def copy(self) -> Ahead:
        """The same, apart from this."""
        return Ahead(self._highest)

    def note(self, entry: Entry, tier: int) -> None:
        """One passes in a tier."""
        tiers = self._highest.setdefault(entry.quota.key, {})
        tiers[tier] = max(tiers.get(tier, entry.pod.priority), entry.pod.priority)

    def tier(self, entry: Entry, natural: int) -> int:
        """The tier in which one's turn is."""
        tiers = self._highest.get(entry.quota.key)
        if not tiers:
            return natural
        return max([natural, *(tier for tier, priority in tiers.items() if priority > entry.pod.priority)])


def natural(entry: Entry, ledger: Ledger) -> int:
    """The tier of a pod by itself."""
    if ledger.owns(entry.quota, entry.request):
        return OWNER
    return SHARER if ledger.shares(entry.quota, entry.request) else BORROWER


class Waiting:
    """Those of one snapshot.

    Attributes:
        gated: behind our gate and no other: those first that others have gone for, then by priority, age, key.
        inside: without a gate and without a node, by rank.
        needs: by group of the gated, how many must be let in together; two or more.
        ahead: those of ``inside`` that others of their quota may not overtake.
        others: why those wait that others' gates hold back, by key.
    """

    def __init__(self, snapshot: Snapshot, of: Mapping[str, Quota], memory: GpuMemory, holds: Holds) -> None:
        """``of``: the quota that governs each namespace."""
        self.gated: list[Entry] = []
        self.inside: list[Entry] = []
        self.others: dict[str, str] = {}
        last, _Last.requests = _Last.requests, {}
        for pod in snapshot.unbound():
            quota = of.get(pod.namespace)
            if quota is None or pod.ended or pod.terminating:
                continue
            known = last.get(pod.key)
            if known is None or known[0] is not pod or known[1] is not memory:
                known = pod, memory, memory.request(pod)
            _Last.requests[pod.key] = known
            entry = Entry(pod, quota, known[2], held=holds.stands(pod))
            if not pod.gates:
                entry.owner = pod.reservation.partition("/")[0] != names.OVER_QUOTA
                self.inside.append(entry)
            elif pod.gates == (names.QUOTA_GATE,):
                self.gated.append(entry)
            else:
                gates = ", ".join(gate for gate in pod.gates if gate != names.QUOTA_GATE)
                self.others[pod.key] = f"waits: other scheduling gates come first: {gates}"
        self.gated.sort(key=RANK)
        self.ahead = Ahead()
        for entry in self.inside:
            if entry.pod.unschedulable and not entry.owner:
                self.ahead.note(entry, SHARER)
        for entry in self.inside:
            entry.tier = self.ahead.tier(entry, OWNER if entry.owner else SHARER)
        self.inside.sort(key=RANK)
        self.needs = gated_needs(snapshot.grouped(), [entry.pod for entry in self.gated], snapshot.jobs)

    def together(self, entries: Sequence[Entry]) -> Iterable[tuple[Entry, Sequence[Entry]]]:
        """Entries in their order: one that stands alone with none beside it, the first of a group with all of it."""
        return self._together(entries) if self.needs else zip(entries, repeat(()))

    def _together(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Sequence[Entry]]]:
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.pod.gated and entry.pod.group in self.needs:
                groups.setdefault(entry.pod.group, []).append(entry)
        for entry in entries:
            if not (entry.pod.gated and entry.pod.group in self.needs):
                yield entry, ()
            elif groups[entry.pod.group][0] is entry:
                yield entry, groups[entry.pod.group]


class _Last:
    """What the waiting pods of the last round ask for, by key; no more is kept than one snapshot shows."""

    requests: dict[str, tuple[Pod, GpuMemory, Resources]] = {}  # noqa: RUF012 - replaced as a whole
