"""Elastic quotas: what they say, what makes one invalid, and which of several counts.

The webhook refuses what breaks the rules; :func:`standings` says which object counts where two were written at
once and break them all the same.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, cast

from brain.model import resources
from brain.model.resources import Resources
from n8s import names


class Kind(enum.Enum):
    """The two kinds of quota."""

    SINGLE = names.ELASTIC_QUOTA
    COMPOSITE = names.COMPOSITE_ELASTIC_QUOTA


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in a quota's status, as Kubernetes means it.

    Attributes:
        type: its type.
        status: whether it holds.
        reason: why, in one word.
        message: why, for people.
        since: when the status last changed (RFC 3339); empty where that is not known. Plays no part in comparisons.
    """

    type: str
    status: bool
    reason: str
    message: str = ""
    since: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """What a quota's status says.

    Attributes:
        used: what its Running pods ask for, of each resource that the quota names.
        conditions: by type, sorted.
        generation: the generation of the spec that this was worked out from.
        reserved: what decisions count, of the same: pods that are bound or were let in and have not ended.
        borrowed: what of ``reserved`` is beyond ``min``, of each resource that ``min`` names.
        lent: what of its ``min`` others may have now: what it leaves, but no more than is borrowed in all.
        guaranteed_over_quota: its guaranteed share, beyond its ``min``, of what can be borrowed.
        gpu_memory: GB that one whole GPU counts for, by GPU product and by default; of a quota that names GPU memory.
    """

    used: Resources = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    generation: int = 0
    reserved: Resources = field(default_factory=dict)
    borrowed: Resources = field(default_factory=dict)
    lent: Resources = field(default_factory=dict)
    guaranteed_over_quota: Resources = field(default_factory=dict)
    gpu_memory: Resources = field(default_factory=dict)


AMOUNTS: Final = ("used", "reserved", "borrowed", "lent", "guaranteed_over_quota", "gpu_memory")
"""The attributes of :class:`QuotaStatus` that are amounts by resource, or by GPU product."""


@dataclass(frozen=True, slots=True)
class Quota:
    """An ElasticQuota or a CompositeElasticQuota.

    Attributes:
        kind: which of the two.
        namespace: the namespace the object lives in.
        name: its name.
        namespaces: the namespaces it governs; for an ElasticQuota its own.
        min: what is guaranteed; a resource it does not name is not guaranteed and not lent.
        max: the most that may be used; a resource it does not name has no limit.
        created: seconds since the epoch.
        uid: its uid.
        generation: ``metadata.generation``.
        problems: what in its spec cannot be read; such a quota counts for nothing.
        status: what its status says now.
        key: ``Kind namespace/name``, as messages name it.
    """

    kind: Kind
    namespace: str
    name: str
    namespaces: tuple[str, ...]
    min: Resources = field(default_factory=dict)
    max: Resources = field(default_factory=dict)
    created: int = 0
    uid: str = ""
    generation: int = 0
    problems: tuple[str, ...] = ()
    status: QuotaStatus = QuotaStatus()
    key: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.kind.value} {self.namespace}/{self.name}")

    @property
    def named(self) -> frozenset[str]:
        """The resources that it names, in min or max."""
        return frozenset(self.min) | frozenset(self.max)


RECLAIMING: Final = "Reclaiming"
"""Condition: pods are evicted for one of the quota's, or it waits for the room of pods on their way out."""
EXCEEDS: Final = "MinExceedsCapacity"
"""Condition: of a resource that the quota's ``min`` names, quotas guarantee more than there is; MIG profiles aside."""


class Standing(enum.Enum):
    """Whether a quota counts."""

    ACTIVE = "Active"
    SUPERSEDED = "Superseded"
    """A composite governs its namespace."""
    CONFLICT = "Conflict"
    """An older quota governs its namespace, or its spec cannot be read."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a quota stands, and why in words that name the other object (empty when it is active)."""

    standing: Standing
    reason: str = ""


def standings(quotas: Iterable[Quota]) -> dict[str, Verdict]:
    """How each quota stands, by :attr:`Quota.key`.

    Among objects that break the rules together, the oldest counts, then the first by namespace and name. Composites
    are judged first; an ElasticQuota in a namespace that an active composite lists is superseded.
    """
    ordered = sorted(quotas, key=lambda quota: (quota.created, quota.namespace, quota.name))
    verdicts: dict[str, Verdict] = {}
    owners: dict[Kind, dict[str, Quota]] = {kind: {} for kind in Kind}
    for kind in (Kind.COMPOSITE, Kind.SINGLE):
        for quota in ordered:
            if quota.kind is kind:
                verdict = _judge(quota, owners)
                verdicts[quota.key] = verdict
                if verdict.standing is Standing.ACTIVE:
                    owners[kind].update(dict.fromkeys(quota.namespaces, quota))
    return verdicts


def active(quotas: Iterable[Quota]) -> list[Quota]:
    """Those that count, in the order given."""
    listed = list(quotas)
    verdicts = standings(listed)
    return [quota for quota in listed if verdicts[quota.key].standing is Standing.ACTIVE]


def _judge(quota: Quota, owners: Mapping[Kind, Mapping[str, Quota]]) -> Verdict:
    if quota.problems:
        return Verdict(Standing.CONFLICT, "; ".join(quota.problems))
    if quota.kind is Kind.SINGLE:
        composite = owners[Kind.COMPOSITE].get(quota.namespace)
        if composite is not None:
            return Verdict(Standing.SUPERSEDED, f"{composite.key} governs namespace {quota.namespace}")
    for namespace in quota.namespaces:
        other = owners[quota.kind].get(namespace)
        if other is not None:
            return Verdict(Standing.CONFLICT, f"{other.key} is older and governs namespace {namespace}")
    return Verdict(Standing.ACTIVE)


def spec_problems(spec: Mapping[str, object]) -> list[str]:
    """What is wrong with a quota's ``min`` and ``max``, one sentence each, with the path of the field.

    Names must be such as resources have that pods can ask for. Quantities must be readable and not negative, GPU memory
    and devices whole, GPU memory in GB and not in bytes, and min at most max for each resource that both name.
    """
    problems: list[str] = []
    exact: dict[tuple[str, str], Decimal] = {}
    for side in ("min", "max"):
        listed = spec.get(side) or {}
        if not isinstance(listed, Mapping):
            problems.append(f"spec.{side}: expected resource names with quantities")
            continue
        for name, text in listed.items():
            if not resources.is_name(name):
                problems.append(f"spec.{side}: {name!r} cannot name a resource, as cpu and nvidia.com/gpu do")
                continue
            path = f"spec.{side}[{name}]"
            if not resources.is_requestable(name):
                problems.append(f"{path}: no pod can ask for it; devices have a domain, e.g. {names.GPU}")
                continue
            try:
                value = resources.exact(text)
            except resources.QuantityError as error:
                problems.append(f"{path}: {error}")
                continue
            exact[side, name] = value
            if value < 0:
                problems.append(f"{path}: {text} is negative")
            if "/" in name and value != int(value):
                problems.append(f"{path}: {text} must be a whole number")
            if name == names.GPU_MEMORY and value > resources.MOST_GPU_MEMORY_GB:
                problems.append(f"{path}: {text} is too much: it is in GB, without a suffix, so write 80, not 80Gi")
    if not spec.get("min"):
        problems.append("spec.min: name at least one resource")
    for (side, name), value in exact.items():
        limit = exact.get(("max", name))
        if side == "min" and limit is not None and value > limit:
            least, most = (cast("Mapping[str, object]", spec[each])[name] for each in ("min", "max"))
            problems.append(f"spec.min[{name}]: {least} is more than spec.max[{name}], which is {most}")
    return problems
