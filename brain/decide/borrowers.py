"""Who may have to go for others, while a round evicts one after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from brain.decide.accounts import Account
from brain.decide.entitlement import Borrowing
from brain.decide.gpumemory import GpuMemory
from brain.decide.labels import over_quota
from brain.decide.reclaim import Unit, Victim
from brain.model.budget import Budget
from brain.model.pod import Pod
from brain.model.quota import Quota


class Borrowers:
    """Pods of quotas that have a node and are not on their way out.

    Attributes:
        allowed: how many pods each disruption budget lets go.
    """

    def __init__(
        self,
        accounts: Iterable[Account],
        budgets: Sequence[Budget],
        spares: Mapping[str, int],
        memory: GpuMemory,
    ) -> None:
        """``spares``: see :func:`brain.decide.groups.spares`."""
        self._memory = memory
        self._spares = dict(spares)
        self._running: dict[str, Sequence[Victim]] = {}
        self._over: dict[str, Borrowing] = {}
        self.allowed = {budget.key: budget.allowed for budget in budgets}
        near: defaultdict[str, list[Budget]] = defaultdict(list)
        for budget in budgets:
            near[budget.namespace].append(budget)
        for known in accounts:
            running, borrowing = known.standing, known.borrowing
            if not near.keys().isdisjoint(known.quota.namespaces):
                running = tuple(_guarded(victim, near.get(victim.pod.namespace, ())) for victim in running)
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

    def units(self, victims: Iterable[Victim], pod: Pod) -> dict[str, Unit]:
        """Of the victims that a pod may have, which go together with which others of their groups.

        Where some of a group may not go for the pod, in-quota or protected as they are, the others are no unit: what
        their quota borrows is taken back one by one.
        """
        found: dict[str, Unit] = {}
        if not self._spares:
            return found
        for group, quota in {v.pod.group: v.quota for v in victims if v.pod.group in self._spares}.items():
            if quota is None:
                continue
            members = [victim for victim in self.of(quota) if victim.pod.group == group]
            if pod.namespace in quota.namespaces:
                able = all(not v.pod.protected and v.pod.priority < pod.priority for v in members)
            else:
                able = self._over[quota.key].keys.issuperset(victim.pod.key for victim in members)
            if able and len(members) > 1:
                found[group] = Unit(members, self._spares[group])
        return found

    def gone(self, victims: Iterable[Victim]) -> None:
        """Some are evicted; labels of their quotas are found again."""
        keys = {victim.pod.key for victim in victims}
        for victim in victims:
            if victim.pod.group in self._spares:
                self._spares[victim.pod.group] = max(0, self._spares[victim.pod.group] - 1)
            for budget in victim.budgets:
                self.allowed[budget] -= 1
        for quota in {victim.quota.key: victim.quota for victim in victims if victim.quota is not None}.values():
            left = tuple(victim for victim in self._running[quota.key] if victim.pod.key not in keys)
            over = over_quota(quota, [victim.pod for victim in left], self._memory)
            self._running[quota.key] = left
            self._over[quota.key] = Borrowing(victim for victim in left if victim.pod.key in over)


def _guarded(victim: Victim, budgets: Iterable[Budget]) -> Victim:
    covering = tuple(budget.key for budget in budgets if budget.guards(victim.pod))
    return replace(victim, budgets=covering) if covering else victim
