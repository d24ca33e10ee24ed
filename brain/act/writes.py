"""What each decision writes to the API server: the request, as a value. Pure.

Objects that exist are patched only, so that fields this brain does not know stay as they are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from brain.decide.decisions import (
    AnnotateNode,
    EmitEvent,
    Evict,
    LabelNamespace,
    LabelPod,
    LetIn,
    Nominate,
    OpenGate,
    PublishDevices,
    ReplacePlugin,
    UpdateQuota,
)
from brain.model import resources
from brain.model.quota import AMOUNTS, Condition, Kind
from brain.model.resources import Resources
from n8s import names

MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
"""Merges lists such as a pod's gates by their key: the others' entries stay, whatever they are by now."""
JSON: Final = "application/json"

COMPONENT: Final = "nebulnetes"
"""Who the events are from."""
_EVENT_NAME: Final = 200
"""Longest part of an event's name that is taken from its object; names are at most 253 characters long."""

Written = (
    PublishDevices
    | ReplacePlugin
    | AnnotateNode
    | LabelPod
    | LetIn
    | OpenGate
    | Nominate
    | Evict
    | LabelNamespace
    | UpdateQuota
)
"""Decisions that are one request each, whatever the object holds by now."""


class _Metadata(msgspec.Struct, rename="camel", frozen=True):
    name: str
    resource_version: str


class _NodeSpec(msgspec.Struct, frozen=True):
    taints: list[dict[str, Any]] = []


class _Node(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _NodeSpec = _NodeSpec()


@dataclass(frozen=True, slots=True)
class Write:
    """One request.

    Attributes:
        method: the HTTP method.
        path: at the API server.
        body: sent as JSON.
        content_type: says which kind of patch the body is.
    """

    method: str
    path: str
    body: object
    content_type: str = MERGE


def write(decision: Written, now: datetime) -> Write:
    """The request that carries a decision out. ``now`` is in UTC."""
    match decision:
        case PublishDevices(node, devices):
            counts = {name: str(count) for name, count in sorted(devices.items())}
            return Write("PATCH", f"{node_path(node)}/status", {"status": {"capacity": counts, "allocatable": counts}})
        case AnnotateNode(node, annotations):
            return Write("PATCH", node_path(node), {"metadata": {"annotations": dict(annotations)}})
        case LabelPod(namespace, name, uid, label, value):
            metadata = {"uid": uid, "labels": {label: value}}
            return Write("PATCH", _pod_path(namespace, name), {"metadata": metadata})
        case LetIn(namespace, name, uid, label, reservation, version=version):
            annotations = {names.RESERVATION_ANNOTATION: reservation}
            metadata = {"uid": uid, "labels": {names.CAPACITY_LABEL: label}, "annotations": annotations}
            return _gate_off(namespace, name, metadata | ({"resourceVersion": version} if version else {}))
        case OpenGate(namespace, name, uid):
            return _gate_off(namespace, name, {"uid": uid})
        case Nominate(namespace, name, uid, node):
            body = {"metadata": {"uid": uid}, "status": {"nominatedNodeName": node}}
            return Write("PATCH", f"{_pod_path(namespace, name)}/status", body)
        case Evict(namespace, name, uid):
            return _eviction(namespace, name, uid)
        case ReplacePlugin(_, namespace, name, uid):
            return _eviction(namespace, name, uid)
        case LabelNamespace(name, value):
            return Write("PATCH", f"/api/v1/namespaces/{name}", {"metadata": {"labels": {names.QUOTA_LABEL: value}}})
        case UpdateQuota():
            return _quota_status(decision, now)


def taint(node: bytes, *, wanted: bool) -> Write | None:
    """The request that puts our taint on a node, or takes it off; None where the node is as wanted.

    The API server replaces a node's list of taints as a whole, by every kind of patch (``NodeSpec.taints`` is
    atomic). So the list is taken from the node as read, and written only if the node is still the same.

    Args:
        node: the node as the API server gave it.
        wanted: whether the node should carry the taint.

    Raises:
        msgspec.DecodeError: that is no node.
    """
    read = msgspec.json.decode(node, type=_Node)
    present = any(held.get("key") == names.REPARTITIONING_TAINT for held in read.spec.taints)
    if present == wanted:
        return None
    taints = [held for held in read.spec.taints if held.get("key") != names.REPARTITIONING_TAINT]
    if wanted:
        taints.append({"key": names.REPARTITIONING_TAINT, "effect": "NoSchedule"})
    body = {"metadata": {"resourceVersion": read.metadata.resource_version}, "spec": {"taints": taints or None}}
    return Write("PATCH", node_path(read.metadata.name), body)


def event(told: EmitEvent, now: datetime) -> Write:
    """The Event that tells something. Its name follows from what it is about, so that the same is told once only."""
    namespace = told.namespace or "default"
    digest = hashlib.sha256("\0".join((told.uid, told.reason, told.about or told.message)).encode()).hexdigest()[:16]
    when = _rfc3339(now)
    involved = {
        "apiVersion": "v1",
        "kind": told.kind,
        "namespace": told.namespace,
        "name": told.name,
        "uid": told.uid,
    }
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{told.name[:_EVENT_NAME]}.{digest}", "namespace": namespace},
        "involvedObject": {key: value for key, value in involved.items() if value},
        "reason": told.reason,
        "message": told.message[:1024],
        "type": "Warning" if told.warning else "Normal",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
    return Write("POST", f"/api/v1/namespaces/{namespace}/events", body, JSON)


def node_path(name: str) -> str:
    """The path of a node."""
    return f"/api/v1/nodes/{name}"


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _gate_off(namespace: str, name: str, metadata: dict[str, Any]) -> Write:
    gates = [{"$patch": "delete", "name": names.QUOTA_GATE}]
    body = {"metadata": metadata, "spec": {"schedulingGates": gates}}
    return Write("PATCH", _pod_path(namespace, name), body, STRATEGIC)


def _eviction(namespace: str, name: str, uid: str) -> Write:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": namespace, "name": name},
        "deleteOptions": {"preconditions": {"uid": uid}},
    }
    return Write("POST", f"{_pod_path(namespace, name)}/eviction", body, JSON)


def _quota_status(decision: UpdateQuota, now: datetime) -> Write:
    quota, status = decision.quota, decision.status
    plural = names.ELASTIC_QUOTAS if quota.kind is Kind.SINGLE else names.COMPOSITE_ELASTIC_QUOTAS
    path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{quota.namespace}/{plural}/{quota.name}/status"
    before = {condition.type: condition for condition in quota.status.conditions}
    amounts = {_camel(field): _changed(getattr(quota.status, field), getattr(status, field)) for field in AMOUNTS}
    conditions = [
        {
            "type": condition.type,
            "status": "True" if condition.status else "False",
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": status.generation,
            "lastTransitionTime": _since(condition, before.get(condition.type)) or _rfc3339(now),
        }
        for condition in status.conditions
    ]
    body = {**amounts, "conditions": conditions, "observedGeneration": status.generation}
    return Write("PATCH", path, {"metadata": {"uid": quota.uid}, "status": body})


def _changed(before: Resources, now: Resources) -> dict[str, str | None]:
    """What a patch says of amounts by resource; those that are there no more are taken away."""
    gone: dict[str, str | None] = dict.fromkeys(sorted(before.keys() - now.keys()))
    return gone | {name: resources.quantity(name, value) for name, value in sorted(now.items())}


def _camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(map(str.capitalize, rest))


def _since(condition: Condition, before: Condition | None) -> str:
    """When a condition took its status, where that was before now; empty where it takes it now."""
    return before.since if before is not None and before.status == condition.status else ""


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
