"""The books of the quotas: what each has used, who may pass, who may take back how much.

A resource counts for a pod where the pod asks for it and its own quota names it. Sums over quotas run over those whose
``min`` names the resource; one that only ``max`` names limits its own quota and plays no other part. A quota counts
once, however many namespaces it has. Who is let in and who is evicted is not decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from brain.model.quota import Quota
from brain.model.resources import Resources


class Refusal(NamedTuple):
    """Why a quota does not let a request pass.

    Attributes:
        resource: of which there is too little.
        rule: ``max`` of the pod's own quota, or ``sum_min``: nothing is left to borrow.
        used: what is used by that rule.
        limit: what may be.
        asked: what the pod asks for.
    """

    resource: str
    rule: str
    used: int
    limit: int
    asked: int

    @property
    def short(self) -> int:
        """How much must go before the request passes."""
        return self.used + self.asked - self.limit


class Ledger:
    """Sums of what the pods of quotas use, by resource.

    Attributes:
        used: by quota key.
    """

    def __init__(self, quotas: Iterable[Quota]) -> None:
        """The quotas that count, with nothing used."""
        self.quotas = {quota.key: quota for quota in quotas}
        self.used: dict[str, Counter[str]] = {key: Counter() for key in self.quotas}
        self._min: Counter[str] = Counter()
        self._summed: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        for quota in self.quotas.values():
            for name, value in quota.min.items():
                self._min[name] += value
                self._left[name] += value

    def charge(self, quota: Quota, request: Resources, *, summed: bool = True) -> None:
        """Count a request. One that is not ``summed`` counts in its own quota only: it keeps nobody from borrowing."""
        self._add(quota, request, 1, summed=summed)

    def discharge(self, quota: Quota, request: Resources, *, summed: bool = True) -> None:
        """Undo :meth:`charge`."""
        self._add(quota, request, -1, summed=summed)

    def _add(self, quota: Quota, request: Resources, sign: int, *, summed: bool) -> None:
        used = self.used[quota.key]
        for name, value in request.items():
            before = used[name]
            used[name] += sign * value
            least = quota.min.get(name)
            if least is None:
                continue
            self._left[name] += max(0, least - used[name]) - max(0, least - before)
            if summed:
                self._summed[name] += sign * value

    def allows(self, quota: Quota, request: Resources) -> bool:
        """Whether a request may pass: whether there are no :meth:`refusals`, found faster."""
        used, least, most = self.used[quota.key], quota.min, quota.max
        for name, value in request.items():
            if value > 0 and (
                (name in most and used[name] + value > most[name])
                or (name in least and self._summed[name] + value > self._min[name])
            ):
                return False
        return True

    def refusals(self, quota: Quota, request: Resources) -> list[Refusal]:
        """Why a request may not pass, by resource; empty when it may."""
        used = self.used[quota.key]
        found = []
        for name, value in sorted(enforced(quota, request)):
            most = quota.max.get(name)
            if most is not None and used[name] + value > most:
                found.append(Refusal(name, "max", used[name], most, value))
            if name in quota.min and self._summed[name] + value > self._min[name]:
                found.append(Refusal(name, "sum_min", self._summed[name], self._min[name], value))
        return found

    def owns(self, quota: Quota, request: Resources) -> bool:
        """Whether the quota stays within its ``min`` with the request."""
        used, least = self.used[quota.key], quota.min
        for name, value in request.items():
            if value > 0 and name in least and used[name] + value > least[name]:
                return False
        return True

    def shares(self, quota: Quota, request: Resources) -> bool:
        """Whether the quota stays within its ``min`` and its guaranteed share with the request."""
        used, least = self.used[quota.key], quota.min
        for name, value in request.items():
            if value > 0 and name in least and used[name] + value > least[name] + self._share(name, least[name]):
                return False
        return True

    def over_min(self, quota: Quota) -> frozenset[str]:
        """The resources of which the quota uses more than its ``min``."""
        used = self.used[quota.key]
        return frozenset(name for name, value in quota.min.items() if used[name] > value)

    def over_share(self, quota: Quota) -> frozenset[str]:
        """The resources of which the quota uses more than its ``min`` and its guaranteed share."""
        used = self.used[quota.key]
        over = [(name, least) for name, least in quota.min.items() if used[name] > least]
        return frozenset(name for name, least in over if used[name] > least + self._share(name, least))

    def borrowed(self, quota: Quota) -> dict[str, int]:
        """What the quota uses beyond its ``min``, of each resource that this names."""
        used = self.used[quota.key]
        return {name: max(0, used[name] - value) for name, value in quota.min.items()}

    def share(self, quota: Quota) -> dict[str, int]:
        """What is guaranteed to the quota, beyond its ``min``, of what can be borrowed; rounded down."""
        return {name: self._share(name, least) for name, least in quota.min.items()}

    def _share(self, name: str, least: int) -> int:
        return least * self._left[name] // self._min[name] if least else 0

    def lendable(self, resource: str) -> int:
        """What quotas leave of their ``min`` of a resource."""
        return self._left[resource]


class Books:
    """The two ledgers of one round.

    Attributes:
        now: what is used now.
        later: what will be once pods on their way out have gone.
    """

    def __init__(self, quotas: Iterable[Quota]) -> None:
        """The quotas that count, with nothing used."""
        self.now = Ledger(quotas)
        self.later = Ledger(self.now.quotas.values())

    def charge(self, quota: Quota, request: Resources, *, summed: bool = True) -> None:
        """Count a request, now and later."""
        for ledger in (self.now, self.later):
            ledger.charge(quota, request, summed=summed)

    def discharge(self, quota: Quota, request: Resources, *, summed: bool = True) -> None:
        """Undo :meth:`charge`."""
        for ledger in (self.now, self.later):
            ledger.discharge(quota, request, summed=summed)


def enforced(quota: Quota, request: Resources) -> Iterator[tuple[str, int]]:
    """What counts of a request: what the quota names and the pod asks for."""
    for name, value in request.items():
        if value > 0 and (name in quota.min or name in quota.max):
            yield name, value


def by_namespace(quotas: Iterable[Quota]) -> Mapping[str, Quota]:
    """The quota that governs each namespace, of quotas that count."""
    return {namespace: quota for quota in quotas for namespace in quota.namespaces}
