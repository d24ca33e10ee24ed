"""Who may have to go for others, while a round evicts one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from brain.decide.accounts import Account
from brain.decide.labels import over_quota
from brain.decide.reclaim import Victim
from brain.model.budget import Budget
from brain.model.quota import Quota


class Borrowers:
    """Pods of quotas that have a node and are not on their way out.

    Attributes:
        over: keys of those of them that are over-quota.
        allowed: how many pods each disruption budget lets go.
    """

    def __init__(self, accounts: Iterable[Account], budgets: Sequence[Budget], gpu_memory_gb: int) -> None:
        self._gb = gpu_memory_gb
        self._running: dict[str, Sequence[Victim]] = {}
        self.over: set[str] = set()
        self.allowed = {budget.key: budget.allowed for budget in budgets}
        for known in accounts:
            running: Sequence[Victim] = known.standing
            if budgets:
                running = [replace(v, budgets=tuple(b.key for b in budgets if b.guards(v.pod))) for v in running]
            self._running[known.quota.key] = running
            self.over |= known.over
        self._borrowers = self._sorted()

    def for_(self, quota: Quota) -> list[Victim]:
        """Pods of the quota, and over-quota ones of others."""
        return [*self._running.get(quota.key, ()), *(v for v in self._borrowers if v.quota is not quota)]

    def gone(self, victims: Iterable[Victim]) -> None:
        """Some are evicted; labels of their quotas are found again."""
        keys = {victim.pod.key for victim in victims}
        for victim in victims:
            for budget in victim.budgets:
                self.allowed[budget] -= 1
        for quota in {victim.quota.key: victim.quota for victim in victims if victim.quota is not None}.values():
            left = [victim for victim in self._running[quota.key] if victim.pod.key not in keys]
            self.over -= {victim.pod.key for victim in self._running[quota.key]}
            self.over |= over_quota(quota, [victim.pod for victim in left], self._gb)
            self._running[quota.key] = left
        self._borrowers = self._sorted()

    def _sorted(self) -> list[Victim]:
        borrowers = [victim for each in self._running.values() for victim in each if victim.pod.key in self.over]
        return sorted(borrowers, key=lambda victim: (-victim.pod.created, victim.pod.key))
