"""Which quotas count, and which namespaces they govern; found once a round. Who is let in is not decided here.

Governed namespaces carry the label by which new pods get the scheduling gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from brain.decide.decisions import LabelNamespace
from brain.decide.ledger import by_namespace
from brain.model.quota import Quota, Standing, Verdict, standings
from brain.model.snapshot import Snapshot
from n8s import names

SYSTEM_NAMESPACE: Final = "kube-system"
GOVERNED: Final = "true"


@dataclass(frozen=True, slots=True)
class Governance:
    """What some quotas mean together.

    Attributes:
        quotas: all of them.
        verdicts: how each stands, by :attr:`Quota.key`.
        counting: those that count, in the order given.
        of: by namespace, the one of those that governs it.
    """

    quotas: tuple[Quota, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    counting: tuple[Quota, ...] = ()
    of: Mapping[str, Quota] = field(default_factory=dict)


def left_alone(quotas: tuple[Quota, ...], release_namespace: str) -> tuple[Quota, ...]:
    """Quotas without the namespaces that are never touched, whatever quotas say: see :func:`namespace_labels`."""
    spared = {SYSTEM_NAMESPACE, release_namespace}
    if all(spared.isdisjoint(quota.namespaces) for quota in quotas):
        return quotas
    return tuple(
        quota
        if spared.isdisjoint(quota.namespaces)
        else replace(quota, namespaces=tuple(name for name in quota.namespaces if name not in spared))
        for quota in quotas
    )


def governance(quotas: tuple[Quota, ...]) -> Governance:
    """What quotas mean together; not worked out again for the same tuple."""
    if _Last.governance.quotas is not quotas:
        verdicts = standings(quotas)
        counting = tuple(quota for quota in quotas if verdicts[quota.key].standing is Standing.ACTIVE)
        _Last.governance = Governance(quotas, verdicts, counting, by_namespace(counting))
    return _Last.governance


class _Last:
    """What was asked for last; no more is kept than one snapshot shows."""

    governance = Governance()


def namespace_labels(snapshot: Snapshot, release_namespace: str) -> Iterator[LabelNamespace]:
    """What to write where a namespace's label does not say whether an active quota governs it, by name.

    Args:
        snapshot: the cluster.
        release_namespace: where Nebulnetes itself runs. It and kube-system are never touched, whatever quotas say:
            pods held back there could keep the brain from letting anybody in.
    """
    governed = governance(snapshot.quotas).of
    for name in sorted(snapshot.namespaces.keys() - {SYSTEM_NAMESPACE, release_namespace}):
        wanted = GOVERNED if name in governed else None
        if snapshot.namespaces[name].get(names.QUOTA_LABEL) != wanted:
            yield LabelNamespace(name, wanted)
