"""What makes a quota unacceptable beside those that exist, as pure functions over the model's quotas.

The sentences name the other object and say what to do, for a person reads them in ``kubectl``'s output. It refuses to
judge who may do what: that is the API server's authority.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from brain.model.quota import Kind, Quota, Standing, standings


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of a quota.

    Attributes:
        problems: why it is refused, one sentence each; none means that it may be written.
        warnings: what its writer should know, if it may.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def judge(quota: Quota, existing: Iterable[Quota], *, exists: bool) -> Judgement:
    """Whether a quota may be written.

    Args:
        quota: as it shall be; :attr:`Quota.problems` holds what its spec says wrong by itself.
        existing: the quotas in the cluster. Its own old version may be among them and does not stand in its way.
        exists: it is an update. Then quotas that count for nothing by themselves (condition Conflict) do not stand in
            its way either: else of two quotas that were written at once neither could be put right.
    """
    known = list(existing)
    verdicts = standings(known)
    others = [
        other
        for other in sorted(known, key=lambda other: (other.created, other.namespace, other.name))
        if other.key != quota.key and not (exists and verdicts[other.key].standing is Standing.CONFLICT)
    ]
    problems = (*quota.problems, *_overlaps(quota, others))
    return Judgement(problems, () if problems else tuple(_superseded(quota, others)))


def _overlaps(quota: Quota, others: Iterable[Quota]) -> Iterator[str]:
    for other in others:
        shared = sorted(set(quota.namespaces) & set(other.namespaces))
        if not shared:
            continue
        where = f"namespace{'s' if len(shared) > 1 else ''} {', '.join(shared)}"
        if quota.kind is Kind.SINGLE and other.kind is Kind.SINGLE:
            yield f"{where} already has {other.key}; change that one, as a namespace has one ElasticQuota at most"
        elif quota.kind is Kind.SINGLE:
            yield f"{where} is governed by {other.key}; change that one, or take the namespace out of it"
        elif other.kind is Kind.COMPOSITE:
            governed = "are governed" if len(shared) > 1 else "is governed"
            yield f"{where} {governed} by {other.key}; a namespace is in one CompositeElasticQuota at most"


def _superseded(quota: Quota, others: Iterable[Quota]) -> Iterator[str]:
    if quota.kind is Kind.COMPOSITE:
        for other in others:
            if other.kind is Kind.SINGLE and other.namespace in quota.namespaces:
                yield f"{other.key} is superseded: it counts for nothing while {quota.key} lists its namespace"
