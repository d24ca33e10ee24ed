"""Which namespaces carry the label by which new pods get the scheduling gate. Who is let in is not decided here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from brain.decide.decisions import LabelNamespace
from brain.decide.ledger import by_namespace
from brain.model.quota import active
from brain.model.snapshot import Snapshot
from n8s import names

SYSTEM_NAMESPACE: Final = "kube-system"
GOVERNED: Final = "true"


def namespace_labels(snapshot: Snapshot, release_namespace: str) -> Iterator[LabelNamespace]:
    """What to write where a namespace's label does not say whether an active quota governs it, by name.

    Args:
        snapshot: the cluster.
        release_namespace: where Nebulnetes itself runs. It and kube-system are never touched, whatever quotas say:
            pods held back there could keep the brain from letting anybody in.
    """
    governed = by_namespace(active(snapshot.quotas))
    for name in sorted(snapshot.namespaces.keys() - {SYSTEM_NAMESPACE, release_namespace}):
        wanted = GOVERNED if name in governed else None
        if snapshot.namespaces[name].get(names.QUOTA_LABEL) != wanted:
            yield LabelNamespace(name, wanted)
