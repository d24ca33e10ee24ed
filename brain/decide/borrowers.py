"""Who may have to go for others, while a round evicts one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from brain.decide.accounts import Account
from brain.decide.entitlement import Borrowing
from brain.decide.gpumemory import GpuMemory
from brain.decide.labels import over_quota
from brain.decide.reclaim import Victim
from brain.model.budget import Budget
from brain.model.quota import Quota


class Borrowers:
    """Pods of quotas that have a node and are not on their way out.

    Attributes:
        allowed: how many pods each disruption budget lets go.
    """

    def __init__(self, accounts: Iterable[Account], budgets: Sequence[Budget], memory: GpuMemory) -> None:
        self._memory = memory
        self._running: dict[str, Sequence[Victim]] = {}
        self._over: dict[str, Borrowing] = {}
        self.allowed = {budget.key: budget.allowed for budget in budgets}
        for known in accounts:
            running, borrowing = known.standing, known.borrowing
            if budgets:
                running = tuple(_guarded(victim, budgets) for victim in running)
                borrowing = Borrowing(victim for victim in running if victim.pod.key in known.over)
            self._running[known.quota.key] = running
            if known.over:
                self._over[known.quota.key] = borrowing

    @property
    def over(self) -> Mapping[str, Borrowing]:
        """Over-quota pods by :attr:`Quota.key`; quotas without any may be left out."""
        return self._over

    def of(self, quota: Quota) -> Sequence[Victim]:
        """Pods of a quota."""
        return self._running.get(quota.key, ())

    def gone(self, victims: Iterable[Victim]) -> None:
        """Some are evicted; labels of their quotas are found again."""
        keys = {victim.pod.key for victim in victims}
        for victim in victims:
            for budget in victim.budgets:
                self.allowed[budget] -= 1
        for quota in {victim.quota.key: victim.quota for victim in victims if victim.quota is not None}.values():
            left = tuple(victim for victim in self._running[quota.key] if victim.pod.key not in keys)
            over = over_quota(quota, [victim.pod for victim in left], self._memory)
            self._running[quota.key] = left
            self._over[quota.key] = Borrowing(victim for victim in left if victim.pod.key in over)


def _guarded(victim: Victim, budgets: Iterable[Budget]) -> Victim:
    return replace(victim, budgets=tuple(budget.key for budget in budgets if budget.guards(victim.pod)))
