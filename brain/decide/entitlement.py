"""What a pod is entitled to: whether its quota lets it pass, and which pods may be evicted for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from brain.decide.ledger import Ledger
from brain.decide.reclaim import Victim
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources


def passes(ledger: Ledger, quota: Quota | None, pod: Pod, request: Resources) -> bool:
    """Whether a pod may be let in as far as quotas go. A protected one may not borrow: nobody could take it back."""
    if quota is None:
        return True
    return not ledger.refusals(quota, request) and (not pod.protected or ledger.owns(quota, request))


def victims_for(
    ledger: Ledger, quota: Quota | None, pod: Pod, request: Resources, *, running: Sequence[Victim], over: Iterable[str]
) -> list[Victim]:
    """Who may be evicted for a pod that finds no room.

    An owner takes back from over-quota pods of other quotas that use what these have above their ``min``; a borrower
    within its guaranteed share from those that use what these have above theirs, and any borrower from its own quota's
    pods of strictly lower priority. Never from an in-quota pod of another quota, from a protected one, or across the
    border of quotas.

    Args:
        ledger: what quotas use; pods on their way out count as gone.
        quota: the pod's; None outside quotas, where lower priority alone counts, as kube-scheduler has it.
        pod: the pod.
        request: what it asks for, as quotas count it.
        running: pods that run or will.
        over: keys of those of them that are over-quota.
    """
    free = [victim for victim in running if not victim.pod.protected]
    lower = [v for v in free if v.quota is quota and v.pod.priority < pod.priority]
    if quota is None:
        return lower
    over = frozenset(over)
    others = [v for v in free if v.quota is not None and v.quota is not quota and v.pod.key in over]
    if ledger.owns(quota, request):
        return _beyond(others, {key: ledger.over_min(other) for key, other in ledger.quotas.items()})
    if pod.protected:
        return []
    if not ledger.shares(quota, request):
        return lower
    return [*lower, *_beyond(others, {key: ledger.over_share(other) for key, other in ledger.quotas.items()})]


def _beyond(victims: Iterable[Victim], exceeded: Mapping[str, Set[str]]) -> list[Victim]:
    """Those that use something of what their quota has too much of; the others borrow nothing, and would come back."""
    return [
        victim
        for victim in victims
        if victim.quota is not None and any(victim.request.get(name, 0) > 0 for name in exceeded[victim.quota.key])
    ]
