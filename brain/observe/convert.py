"""From the API's objects, as raw JSON, to the model's values. Pure.

Each function takes one object's bytes and raises :class:`ConvertError` where they cannot be understood; the
caller leaves that object out and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeVar, cast

import msgspec

from brain.errors import BrainError
from brain.model import resources
from brain.model.affinity import AffinityTerm, LabelSelector, Requirement, SpreadConstraint
from brain.model.budget import Budget
from brain.model.node import Node, Taint
from brain.model.pod import Daemon, NodeSelectorTerm, Pod, Toleration
from brain.model.quota import Condition, Kind, Quota, QuotaStatus, spec_problems
from brain.model.request import Container, pod_request
from brain.observe import schema
from n8s import names

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - compared, not listened on

_NO_LABELS: Final[Mapping[str, str]] = {}

_metadata = msgspec.json.Decoder(schema.Metadata)
_budget = msgspec.json.Decoder(schema.Budget)
_job = msgspec.json.Decoder(schema.Job)
_namespace = msgspec.json.Decoder(schema.Namespace)
_node = msgspec.json.Decoder(schema.Node)
_pod = msgspec.json.Decoder(schema.Pod)
_quota = msgspec.json.Decoder(schema.Quota)


class ConvertError(BrainError):
    """An object that cannot be understood; the text says which field and why."""


def namespace(raw: bytes | msgspec.Raw) -> Mapping[str, str]:
    """The labels of a namespace.

    Raises:
        ConvertError: it cannot be understood.
    """
    return _decode(_namespace, raw).metadata.labels


def job(raw: bytes | msgspec.Raw) -> tuple[str, int]:
    """The group of a Job's pods, and how many of them it wants at once from now on.

    Raises:
        ConvertError: it cannot be understood.
    """
    decoded = _decode(_job, raw)
    wanted = decoded.spec.parallelism
    if decoded.spec.completions is not None:
        wanted = min(wanted, decoded.spec.completions - decoded.status.succeeded)
    return _job_group(decoded.metadata.namespace, decoded.metadata.uid), max(0, wanted)


def node(raw: bytes | msgspec.Raw) -> Node:
    """A node, without what its agent says.

    Raises:
        ConvertError: it cannot be understood.
    """
    decoded = _decode(_node, raw)
    own = f"{names.GROUP}/"
    return Node(
        name=decoded.metadata.name,
        uid=decoded.metadata.uid,
        labels=decoded.metadata.labels,
        annotations={key: value for key, value in decoded.metadata.annotations.items() if key.startswith(own)},
        taints=tuple(Taint(taint.key, taint.value, taint.effect) for taint in decoded.spec.taints),
        unschedulable=decoded.spec.unschedulable,
        ready=_ready(decoded.status.conditions),
        capacity=_amounts(decoded.status.capacity, "status.capacity"),
        allocatable=_amounts(decoded.status.allocatable, "status.allocatable"),
    )


def pod(raw: bytes | msgspec.Raw) -> Pod:
    """A pod.

    Raises:
        ConvertError: it cannot be understood.
    """
    decoded = _decode(_pod, raw)
    spec = decoded.spec
    refusal = next((held for held in decoded.status.conditions if held.type == "PodScheduled"), None)
    unschedulable = refusal is not None and refusal.status == "False" and refusal.reason == "Unschedulable"
    others = spec.affinity or schema.Affinity()
    group, group_min = _group(decoded.metadata)
    daemon = _daemon(decoded)
    gates = tuple(gate.name for gate in spec.scheduling_gates)
    return Pod(
        namespace=decoded.metadata.namespace,
        name=decoded.metadata.name,
        uid=decoded.metadata.uid,
        created=_seconds(decoded.metadata.creation_timestamp),
        request=pod_request(
            _containers(spec.containers, "spec.containers"),
            _containers(spec.init_containers, "spec.initContainers"),
            _amounts(spec.overhead, "spec.overhead"),
            _asked(spec.resources, "spec") if spec.resources else None,
        ),
        labels=decoded.metadata.labels,
        phase=decoded.status.phase,
        node=spec.node_name,
        nominated=decoded.status.nominated_node_name,
        terminating=decoded.metadata.deletion_timestamp is not None,
        gates=_shared(gates),
        unschedulable=unschedulable,
        scheduler_message=refusal.message if refusal is not None and unschedulable else "",
        priority=spec.priority or 0,
        never_preempts=spec.preemption_policy == "Never",
        reservation=decoded.metadata.annotations.get(names.RESERVATION_ANNOTATION, ""),
        node_selector=spec.node_selector,
        node_affinity=_affinity(spec.affinity),
        tolerations=_shared(tuple(Toleration(t.key, t.operator, t.value, t.effect) for t in spec.tolerations)),
        host_ports=_host_ports(spec),
        affinity=_terms(others.pod_affinity, decoded.metadata),
        anti_affinity=_terms(others.pod_anti_affinity, decoded.metadata),
        spread=_spread(spec.topology_spread_constraints, decoded.metadata.labels),
        group=group,
        group_min=group_min,
        daemon=daemon,
        ready=daemon is not None and _ready(decoded.status.conditions),
        version=decoded.metadata.resource_version if names.QUOTA_GATE in gates else "",
    )


def budget(raw: bytes | msgspec.Raw) -> Budget:
    """A PodDisruptionBudget.

    Raises:
        ConvertError: it cannot be understood.
    """
    decoded = _decode(_budget, raw)
    metadata, status = decoded.metadata, decoded.status
    current = status.observed_generation >= metadata.generation
    return Budget(
        metadata.namespace,
        metadata.name,
        _selector(decoded.spec.selector),
        max(0, status.disruptions_allowed) if current else 0,
    )


def elastic_quota(raw: bytes | msgspec.Raw) -> Quota:
    """An ElasticQuota.

    Raises:
        ConvertError: it cannot be understood.
    """
    return _any_quota(Kind.SINGLE, raw)


def composite_elastic_quota(raw: bytes | msgspec.Raw) -> Quota:
    """A CompositeElasticQuota.

    Raises:
        ConvertError: it cannot be understood.
    """
    return _any_quota(Kind.COMPOSITE, raw)


def key(metadata: schema.Metadata) -> str:
    """``namespace/name``, or the name alone where there is no namespace."""
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name


def _any_quota(kind: Kind, raw: bytes | msgspec.Raw) -> Quota:
    decoded = _decode(_quota, raw)
    problems = spec_problems(decoded.spec)
    namespaces: tuple[str, ...] = (decoded.metadata.namespace,)
    if kind is Kind.COMPOSITE:
        listed = decoded.spec.get("namespaces")
        if isinstance(listed, list) and listed and all(isinstance(name, str) for name in listed):
            namespaces = tuple(dict.fromkeys(listed))
        else:
            namespaces = ()
            problems.append("spec.namespaces: name at least one namespace")
    status = decoded.status
    return Quota(
        kind=kind,
        namespace=decoded.metadata.namespace,
        name=decoded.metadata.name,
        namespaces=namespaces,
        min={} if problems else resources.parse(decoded.spec["min"]),
        max={} if problems else resources.parse(decoded.spec.get("max") or {}),
        created=_seconds(decoded.metadata.creation_timestamp),
        uid=decoded.metadata.uid,
        generation=decoded.metadata.generation,
        problems=tuple(problems),
        status=QuotaStatus(
            used=_amounts(status.used, "status.used"),
            reserved=_amounts(status.reserved, "status.reserved"),
            borrowed=_amounts(status.borrowed, "status.borrowed"),
            lent=_amounts(status.lent, "status.lent"),
            guaranteed_over_quota=_amounts(status.guaranteed_over_quota, "status.guaranteedOverQuota"),
            gpu_memory=_amounts(status.gpu_memory, "status.gpuMemory"),
            conditions=tuple(
                Condition(held.type, held.status == "True", held.reason, held.message, held.last_transition_time or "")
                for held in sorted(status.conditions, key=lambda held: held.type)
            ),
            generation=status.observed_generation,
        ),
    )


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ConvertError(str(error)) from error


def _amounts(quantities: Mapping[str, str | int], path: str) -> dict[str, int]:
    try:
        return resources.parse(quantities)
    except resources.QuantityError as error:
        name = next(name for name, text in quantities.items() if text == error.text)
        raise ConvertError(f"{error} - at `$.{path}[{name}]`") from error


def _seconds(moment: datetime | None) -> int:
    return int(moment.timestamp()) if moment is not None else 0


def _containers(listed: Sequence[schema.Container], path: str) -> Iterator[Container]:
    for position, container in enumerate(listed):
        always = container.restart_policy == "Always"
        yield _asked(container.resources, f"{path}[{position}]", always=always)


def _asked(asked: schema.ResourceRequirements, path: str, *, always: bool = False) -> Container:
    requests = _amounts(asked.requests, f"{path}.resources.requests")
    return Container(requests, _amounts(asked.limits, f"{path}.resources.limits"), always)


def _affinity(affinity: schema.Affinity | None) -> tuple[NodeSelectorTerm, ...] | None:
    node_affinity = affinity.node_affinity if affinity else None
    required = node_affinity.required_during_scheduling_ignored_during_execution if node_affinity else None
    if required is None:
        return None
    return _shared(
        tuple(
            NodeSelectorTerm(_requirements(term.match_expressions), _requirements(term.match_fields))
            for term in required.node_selector_terms
        )
    )


def _requirements(listed: Iterable[schema.Requirement | schema.LabelRequirement]) -> tuple[Requirement, ...]:
    return tuple(Requirement(entry.key, entry.operator, tuple(entry.values)) for entry in listed)


def _terms(affinity: schema.PodAffinity | None, metadata: schema.Metadata) -> tuple[AffinityTerm, ...]:
    if affinity is None:
        return ()
    return _shared(
        tuple(
            AffinityTerm(
                term.topology_key,
                _selector(term.label_selector, metadata.labels, term.match_label_keys, term.mismatch_label_keys),
                frozenset(
                    [metadata.namespace] if not term.namespaces and term.namespace_selector is None else term.namespaces
                ),
                _selector(term.namespace_selector),
            )
            for term in affinity.required_during_scheduling_ignored_during_execution
        )
    )


def _spread(
    constraints: Sequence[schema.TopologySpreadConstraint], labels: Mapping[str, str]
) -> tuple[SpreadConstraint, ...]:
    return _shared(
        tuple(
            SpreadConstraint(
                constraint.topology_key,
                constraint.max_skew,
                _selector(constraint.label_selector, labels, constraint.match_label_keys),
                1 if constraint.min_domains is None else constraint.min_domains,
                constraint.node_affinity_policy != "Ignore",
                constraint.node_taints_policy == "Honor",
            )
            for constraint in constraints
            if constraint.when_unsatisfiable == "DoNotSchedule"
        )
    )


def _selector(
    selector: schema.LabelSelector | None,
    labels: Mapping[str, str] = _NO_LABELS,
    same: Iterable[str] = (),
    other: Iterable[str] = (),
) -> LabelSelector | None:
    """A selector, with ``matchLabelKeys`` and ``mismatchLabelKeys`` in it as the API server merges them at creation.

    The API allows no such key in the selector itself, so one that is there has been merged already.
    """
    if selector is None:
        return None
    held = [Requirement(key, "In", (value,)) for key, value in selector.match_labels.items()]
    held += _requirements(selector.match_expressions)
    merged = {requirement.key for requirement in held}
    for keys, operator in ((same, "In"), (other, "NotIn")):
        held += [Requirement(key, operator, (labels[key],)) for key in keys if key in labels and key not in merged]
    return LabelSelector(tuple(sorted(held, key=lambda requirement: (requirement.key, requirement.operator))))


def _group(metadata: schema.Metadata) -> tuple[str, int]:
    """The group of a pod and how many of it are of use only together (0: all); the label goes before the Job."""
    label = metadata.labels.get(names.POD_GROUP_LABEL)
    if label:
        told = metadata.annotations.get(names.POD_GROUP_MIN_ANNOTATION, "")
        return f"group/{metadata.namespace}/{label}", int(told) if _NUMBER.fullmatch(told) else 0
    for owner in metadata.owner_references:
        if owner.controller and owner.kind == "Job" and owner.api_version.startswith("batch/"):
            return _job_group(metadata.namespace, owner.uid), 0
    return "", 0


def _ready(conditions: Iterable[schema.Condition]) -> bool:
    return any(held.type == "Ready" and held.status == "True" for held in conditions)


def _daemon(pod: schema.Pod) -> Daemon | None:
    for owner in pod.metadata.owner_references:
        if owner.controller and owner.kind == "DaemonSet" and owner.api_version.startswith("apps/"):
            return _shared(Daemon(owner.name, tuple(container.name for container in pod.spec.containers)))
    return None


def _job_group(namespace: str, uid: str) -> str:
    return f"job/{namespace}/{uid}"


def _shared(value: H) -> H:
    """An equal value that other pods hold already, where there is one: pods of one workload take the memory once."""
    return cast(H, _first(value))


@lru_cache(maxsize=16_384)
def _first(value: Hashable) -> Hashable:
    return value


def _host_ports(spec: schema.PodSpec) -> frozenset[tuple[str, str, int]]:
    """Ports of all that runs on, sidecars included; the scheduler looks at no other init container's."""
    lasting = [*spec.containers, *(c for c in spec.init_containers if c.restart_policy == "Always")]
    return frozenset(
        (port.protocol, port.host_ip or _ANY_ADDRESS, port.host_port)
        for container in lasting
        for port in container.ports
        if port.host_port
    )


Convert = Callable[[bytes | msgspec.Raw], T]
"""From one object's JSON to a value."""


def metadata_of(raw: bytes | msgspec.Raw) -> schema.Metadata:
    """The metadata of an object of any kind.

    Raises:
        ConvertError: it has none that can be read.
    """
    return _decode(_headed, raw).metadata


class _Headed(msgspec.Struct, frozen=True, gc=False):
    metadata: schema.Metadata


_headed = msgspec.json.Decoder(_Headed)
