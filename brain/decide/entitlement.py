"""What a pod is entitled to: whether its quota lets it pass, and which pods may be evicted for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from brain.decide.ledger import Ledger
from brain.decide.reclaim import Victim
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources


def passes(ledger: Ledger, quota: Quota | None, pod: Pod, request: Resources) -> bool:
    """Whether a pod may be let in as far as quotas go. A protected one may not borrow: nobody could take it back."""
    if quota is None:
        return True
    return ledger.allows(quota, request) and (not pod.protected or ledger.owns(quota, request))


class Borrowing:
    """Over-quota pods of one quota; protected ones, which borrow nothing, are left out.

    Attributes:
        victims: the pods.
        keys: their keys.
    """

    def __init__(self, victims: Iterable[Victim]) -> None:
        self.victims = [victim for victim in victims if not victim.pod.protected]
        self.keys = frozenset(victim.pod.key for victim in self.victims)
        self._using: dict[frozenset[str], Sequence[Victim]] = {}

    def using(self, resources: frozenset[str]) -> Sequence[Victim]:
        """Those that use some of the resources."""
        found = self._using.get(resources)
        if found is None:
            found = self._using[resources] = [
                victim for victim in self.victims if any(victim.request.get(name, 0) > 0 for name in resources)
            ]
        return found


def victims_for(
    ledger: Ledger,
    quota: Quota | None,
    pod: Pod,
    request: Resources,
    *,
    own: Iterable[Victim],
    borrowers: Mapping[str, Borrowing],
) -> list[Victim]:
    """Who may be evicted for a pod that finds no room.

    An owner takes back from over-quota pods of other quotas that are above their ``min``, a borrower within its
    guaranteed share from those of quotas above theirs, and any borrower from its own quota's pods of strictly lower
    priority. Never from an in-quota pod of another quota, from a protected one, or across the border of quotas.

    Over-quota may be a pod, too, that uses nothing of what its quota has too much of: older ones do. It comes back as
    an owner. So it goes only for one of a quota that is within its ``min`` in everything: nobody of that may be evicted
    in turn, and this cannot go on for ever.

    Args:
        ledger: what quotas use; pods on their way out count as gone.
        quota: the pod's; None outside quotas, where lower priority alone counts, as kube-scheduler has it.
        pod: the pod.
        request: what it asks for, as quotas count it.
        own: pods of its quota that run or will; those outside quotas for one outside.
        borrowers: over-quota pods of quotas that run or will, by :attr:`Quota.key`; quotas without may be left out.
    """
    if quota is not None and ledger.owns(quota, request):
        return list(_beyond(ledger, quota, borrowers, ledger.over_min, every=not ledger.over_min(quota)))
    if quota is not None and pod.protected:
        return []
    lower = [v for v in own if v.pod.priority < pod.priority and not v.pod.protected]
    if quota is None or not ledger.shares(quota, request):
        return lower
    return [*lower, *_beyond(ledger, quota, borrowers, ledger.over_share, every=False)]


def _beyond(
    ledger: Ledger,
    quota: Quota,
    borrowers: Mapping[str, Borrowing],
    exceeded: Callable[[Quota], frozenset[str]],
    *,
    every: bool,
) -> Iterator[Victim]:
    """Over-quota pods of other quotas that have too much of something: ``every`` one, or whoever uses some of that."""
    for key, borrowing in borrowers.items():
        other = ledger.quotas[key]
        much = exceeded(other) if other is not quota else frozenset[str]()
        if much:
            yield from borrowing.victims if every else borrowing.using(much)
