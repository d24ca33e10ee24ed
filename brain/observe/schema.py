"""The fields of Kubernetes objects that the brain reads, and no others: what is not named here is never decoded.

Field names are those of the API, in snake case. Quantities stay text here; :mod:`brain.observe.convert` reads them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

Quantities = dict[str, str | int]


class _Struct(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Objects of the API: camel case on the wire; never part of a cycle, so not tracked by the collector."""


class OwnerReference(_Struct, frozen=True):
    """What an object belongs to."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Metadata(_Struct, frozen=True):
    """``metadata`` of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []


class Condition(_Struct, frozen=True):
    """A condition of a node, a pod or a quota."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class Taint(_Struct, frozen=True):
    """A node's taint."""

    key: str
    value: str = ""
    effect: str = ""


class Namespace(_Struct, frozen=True):
    """A namespace."""

    metadata: Metadata


class JobSpec(_Struct, frozen=True):
    """``spec`` of a Job."""

    parallelism: int = 1
    completions: int | None = None


class JobStatus(_Struct, frozen=True):
    """``status`` of a Job."""

    succeeded: int = 0


class Job(_Struct, frozen=True):
    """A Job."""

    metadata: Metadata
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class NodeSpec(_Struct, frozen=True):
    """``spec`` of a node."""

    taints: list[Taint] = []
    unschedulable: bool = False


class NodeStatus(_Struct, frozen=True):
    """``status`` of a node."""

    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: list[Condition] = []


class Node(_Struct, frozen=True):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ResourceRequirements(_Struct, frozen=True):
    """``resources`` of a container or a pod."""

    requests: Quantities = {}
    limits: Quantities = {}


class Port(_Struct, frozen=True):
    """A container's port."""

    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")
    protocol: str = "TCP"


class Container(_Struct, frozen=True):
    """A container or init container."""

    name: str = ""
    resources: ResourceRequirements = ResourceRequirements()
    restart_policy: str = ""
    ports: list[Port] = []


class Requirement(_Struct, frozen=True):
    """A term of a node selector."""

    key: str
    operator: str
    values: list[str] = []


class NodeSelectorTerm(_Struct, frozen=True):
    """A node selector term."""

    match_expressions: list[Requirement] = []
    match_fields: list[Requirement] = []


class NodeSelector(_Struct, frozen=True):
    """Required node affinity."""

    node_selector_terms: list[NodeSelectorTerm] = []


class NodeAffinity(_Struct, frozen=True):
    """Node affinity; what is only preferred is not read."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None


class LabelRequirement(_Struct, frozen=True):
    """A term of a label selector; an operator that is not known here would be misjudged, so it is refused."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class LabelSelector(_Struct, frozen=True):
    """A selector of objects by their labels."""

    match_labels: dict[str, str] = {}
    match_expressions: list[LabelRequirement] = []


class PodAffinityTerm(_Struct, frozen=True):
    """A required term of affinity or anti-affinity to other pods."""

    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: list[str] = []
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] = []
    mismatch_label_keys: list[str] = []


class PodAffinity(_Struct, frozen=True):
    """Affinity or anti-affinity to other pods; what is only preferred is not read."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] = []


class Affinity(_Struct, frozen=True):
    """Affinity of a pod."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class TopologySpreadConstraint(_Struct, frozen=True):
    """A topology spread constraint."""

    max_skew: int
    topology_key: str
    when_unsatisfiable: str
    label_selector: LabelSelector | None = None
    match_label_keys: list[str] = []
    min_domains: int | None = None
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    node_taints_policy: Literal["Honor", "Ignore"] | None = None


class Toleration(_Struct, frozen=True):
    """A pod's toleration."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class SchedulingGate(_Struct, frozen=True):
    """A gate that keeps a pod from being scheduled."""

    name: str = ""


class PodSpec(_Struct, frozen=True):
    """``spec`` of a pod."""

    containers: list[Container] = []
    init_containers: list[Container] = []
    overhead: Quantities = {}
    resources: ResourceRequirements | None = None
    node_name: str = ""
    priority: int | None = None
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: list[Toleration] = []
    scheduling_gates: list[SchedulingGate] = []
    preemption_policy: str = ""
    topology_spread_constraints: list[TopologySpreadConstraint] = []


class PodStatus(_Struct, frozen=True):
    """``status`` of a pod."""

    phase: str = "Pending"
    nominated_node_name: str = ""
    conditions: list[Condition] = []


class Pod(_Struct, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class BudgetSpec(_Struct, frozen=True):
    """``spec`` of a PodDisruptionBudget."""

    selector: LabelSelector | None = None


class BudgetStatus(_Struct, frozen=True):
    """``status`` of a PodDisruptionBudget."""

    disruptions_allowed: int = 0
    observed_generation: int = 0


class Budget(_Struct, frozen=True):
    """A PodDisruptionBudget."""

    metadata: Metadata
    spec: BudgetSpec = BudgetSpec()
    status: BudgetStatus = BudgetStatus()


class QuotaStatus(_Struct, frozen=True):
    """``status`` of a quota; only the brain writes it."""

    used: Quantities = {}
    reserved: Quantities = {}
    borrowed: Quantities = {}
    lent: Quantities = {}
    guaranteed_over_quota: Quantities = {}
    gpu_memory: Quantities = {}
    conditions: list[Condition] = []
    observed_generation: int = 0


class Quota(_Struct, frozen=True):
    """A quota of either kind. Its spec is people's, so it is read with care: nothing is assumed of it."""

    metadata: Metadata
    spec: dict[str, Any] = {}
    status: QuotaStatus = QuotaStatus()
