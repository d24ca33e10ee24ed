"""Whether a quota may be written beside others, as the API server and the webhook have it; for ``n8s quota decide``.

Who writes it is not looked at: a file does not say what they may do.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from brain.model import resources
from brain.model.quota import Kind, Quota, Standing, spec_problems, standings
from brain.offline.question import Question, StatedQuota, titles
from webhook import rules

_NAMESPACE: Final = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MOST: Final = {"min": 32, "max": 32, "namespaces": 256}
"""How many entries the schema lets a list have."""


def answer(question: Question, written: StatedQuota) -> dict[str, Any]:
    """Whether a quota may be written or deleted, and what becomes of the others."""
    operation = question.operation.upper()
    listed = [
        (title, stated, _quota(stated, age))
        for age, (title, stated) in enumerate(zip(titles(question.quotas), question.quotas, strict=True))
    ]
    before = [entry for entry in listed if entry[1].is_of(written)]
    others = listed if operation == "CREATE" else [entry for entry in listed if entry not in before]
    kept = [quota for _, _, quota in others]
    if operation != "DELETE":
        new = _quota(written, before[0][2].created if before else len(listed))
        problems: list[str] = []
        if operation == "CREATE":
            problems += [f"{quota.key} exists already" for _, _, quota in before]
        if not _harmless(question.old_object or (before[0][1] if before else None), written, operation):
            problems += rules.judge(new, kept, exists=operation == "UPDATE").problems
        if problems:
            return {"allowed": False, "message": "; ".join(problems)}
        kept.append(new)
    verdicts = standings(kept)
    stand = {
        standing: sorted(title for title, _, quota in others if verdicts[quota.key].standing is standing)
        for standing in Standing
    }
    return {"allowed": True, "kept_quotas": stand[Standing.ACTIVE], "superseded": stand[Standing.SUPERSEDED]}


def _harmless(old: StatedQuota | None, new: StatedQuota, operation: str) -> bool:
    """Whether a write passes without a look, as with the webhook: it changes nothing, or the object goes away."""
    if new.deletion_timestamp is not None:
        return True
    unchanged = old is not None and (old.namespaces, old.min, old.max) == (new.namespaces, new.min, new.max)
    return operation == "UPDATE" and unchanged


def _quota(stated: StatedQuota, age: int) -> Quota:
    """A quota with what is wrong with it, by the rules of the webhook and those of the schema."""
    spec = {"min": _quantities(stated.min), "max": _quantities(stated.max)}
    problems = spec_problems(spec)
    problems += [
        f"spec.{side}[{name}]: {value}: a number must be whole; write a fraction as a text, such as '500m'"
        for side, listed in spec.items()
        if isinstance(listed, dict)
        for name, value in listed.items()
        if isinstance(value, float) and "/" not in name
    ]
    namespaces = stated.namespaces
    if stated.kind is Kind.SINGLE and len(namespaces) != 1:
        problems.append("an ElasticQuota governs its own namespace only; one for several is a CompositeElasticQuota")
    elif not namespaces:
        problems.append("spec.namespaces: name at least one namespace")
    problems += [f"spec.namespaces: {name!r} is no namespace" for name in namespaces if not _NAMESPACE.fullmatch(name)]
    problems += [f"spec.namespaces: {name} is named twice" for name, count in Counter(namespaces).items() if count > 1]
    problems += [
        f"spec.{field}: {len(listed)} are too many, {_MOST[field]} at most"
        for field, listed in {**spec, "namespaces": namespaces}.items()
        if isinstance(listed, dict | list) and len(listed) > _MOST[field]
    ]
    return stated.quota(age, problems)


def _quantities(stated: Any) -> Any:
    """Amounts of a document as Kubernetes has them, where they are any: whole numbers of CPU are milli there."""
    if not isinstance(stated, dict):
        return stated
    return {
        name: f"{value}m" if name == resources.CPU and type(value) is int else value for name, value in stated.items()
    }
