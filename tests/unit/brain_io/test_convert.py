"""From the API's JSON to the model's values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from brain.model.affinity import AffinityTerm, LabelSelector, Requirement, SpreadConstraint
from brain.model.budget import Budget
from brain.model.node import Taint
from brain.model.pod import Daemon, NodeSelectorTerm, Pod, Toleration
from brain.model.quota import Condition, Kind
from brain.observe import convert
from brain.observe.convert import ConvertError
from n8s import names


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


META = {"name": "p", "namespace": "a", "uid": "u", "creationTimestamp": "2026-11-24T12:00:00Z", "managedFields": [{}]}


def pod(spec: Any = None, status: Any = None, **metadata: Any) -> Pod:
    return convert.pod(raw({"metadata": META | metadata, "spec": spec or {}, "status": status or {}}))


def test_node() -> None:
    node = convert.node(
        raw(
            {
                "metadata": {
                    "name": "n1",
                    "uid": "u",
                    "labels": {names.AUTO_MIG_LABEL: "true"},
                    "annotations": {"other": "x", "n8s.nebuly.ai/status-gpu-0-1g.5gb-free": "1"},
                },
                "spec": {"unschedulable": True, "taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]},
                "status": {
                    "capacity": {"cpu": "2", "memory": "1Ki"},
                    "allocatable": {"cpu": "1500m", "nvidia.com/mig-1g.5gb": "7"},
                    "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
                },
            }
        )
    )
    assert (node.name, node.uid, node.enabled, node.unschedulable, node.ready) == ("n1", "u", True, True, True)
    assert node.annotations == {"n8s.nebuly.ai/status-gpu-0-1g.5gb-free": "1"}
    assert node.taints == (Taint("k", "v", "NoExecute"),)
    assert node.capacity == {"cpu": 2000, "memory": 1024}
    assert node.allocatable == {"cpu": 1500, "nvidia.com/mig-1g.5gb": 7}


@pytest.mark.parametrize("conditions", [[], [{"type": "Ready", "status": "Unknown"}]])
def test_a_node_that_does_not_say_it_is_ready_is_not(conditions: list[Any]) -> None:
    assert not convert.node(raw({"metadata": {"name": "n"}, "status": {"conditions": conditions}})).ready


def test_pod() -> None:
    found = pod(
        {
            "containers": [
                {
                    "name": "c",
                    "resources": {"limits": {"nvidia.com/mig-1g.5gb": 1, "cpu": "1"}, "requests": {"cpu": "250m"}},
                    "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2}],
                }
            ],
            "initContainers": [
                {
                    "restartPolicy": "Always",
                    "resources": {"requests": {"cpu": "1"}},
                    "ports": [{"hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"}],
                },
                {"ports": [{"hostPort": 99}]},
            ],
            "overhead": {"cpu": "50m"},
            "nodeName": "n1",
            "priority": 7,
            "nodeSelector": {"k": "v"},
            "tolerations": [{"key": "t", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}],
            "schedulingGates": [{"name": "g"}, {"name": names.QUOTA_GATE}],
            "preemptionPolicy": "Never",
            "affinity": {
                "podAntiAffinity": {},
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [{"key": "z", "operator": "In", "values": ["a", "b"]}],
                                "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}],
                            }
                        ]
                    }
                },
            },
        },
        {"phase": "Running", "nominatedNodeName": "n2"},
        labels={"l": "1"},
        annotations={names.RESERVATION_ANNOTATION: "{}", "other": "x"},
        deletionTimestamp="2026-11-24T13:00:00Z",
    )
    assert found == Pod(
        namespace="a",
        name="p",
        uid="u",
        created=1795521600,
        request={"cpu": 1300, "nvidia.com/mig-1g.5gb": 1},
        labels={"l": "1"},
        phase="Running",
        node="n1",
        nominated="n2",
        terminating=True,
        gates=("g", names.QUOTA_GATE),
        priority=7,
        never_preempts=True,
        reservation="{}",
        node_selector={"k": "v"},
        node_affinity=(
            NodeSelectorTerm((Requirement("z", "In", ("a", "b")),), (Requirement("metadata.name", "In", ("n1",)),)),
        ),
        tolerations=(Toleration("t", "Exists", "", "NoSchedule"),),
        host_ports=frozenset({("TCP", "0.0.0.0", 80), ("UDP", "10.0.0.1", 53)}),
    )


APP = {"matchLabels": {"app": "x"}}
IN_APP = Requirement("app", "In", ("x",))


# (term as written, as understood; the pod is in namespace a and has labels app=x, hash=1)
TERMS: list[tuple[dict[str, Any], AffinityTerm]] = [
    ({}, AffinityTerm("zone", None, frozenset("a"))),
    ({"labelSelector": {}}, AffinityTerm("zone", LabelSelector(), frozenset("a"))),
    ({"labelSelector": APP, "namespaces": ["c", "b"]}, AffinityTerm("zone", LabelSelector((IN_APP,)), frozenset("bc"))),
    (
        {"labelSelector": APP, "namespaceSelector": {}},
        AffinityTerm("zone", LabelSelector((IN_APP,)), frozenset(), LabelSelector()),
    ),
    (
        {"namespaces": ["b"], "namespaceSelector": {"matchExpressions": [{"key": "k", "operator": "DoesNotExist"}]}},
        AffinityTerm("zone", None, frozenset("b"), LabelSelector((Requirement("k", "DoesNotExist"),))),
    ),
    (
        {"labelSelector": APP, "matchLabelKeys": ["hash", "absent"]},
        AffinityTerm("zone", LabelSelector((IN_APP, Requirement("hash", "In", ("1",)))), frozenset("a")),
    ),
    (
        {"labelSelector": APP, "mismatchLabelKeys": ["hash"]},
        AffinityTerm("zone", LabelSelector((IN_APP, Requirement("hash", "NotIn", ("1",)))), frozenset("a")),
    ),
    (
        {
            "labelSelector": {"matchExpressions": [{"key": "hash", "operator": "In", "values": ["0"]}]},
            "matchLabelKeys": ["hash"],
        },
        AffinityTerm("zone", LabelSelector((Requirement("hash", "In", ("0",)),)), frozenset("a")),
    ),
    ({"matchLabelKeys": ["hash"]}, AffinityTerm("zone", None, frozenset("a"))),
]


@pytest.mark.parametrize(("written", "understood"), TERMS)
def test_affinity_to_other_pods(written: dict[str, Any], understood: AffinityTerm) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", **written}]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {}}]}
    labels = {"app": "x", "hash": "1"}
    with_it = pod({"affinity": {"podAffinity": required, "podAntiAffinity": preferred}}, labels=labels)
    assert (with_it.affinity, with_it.anti_affinity) == ((understood,), ())
    against = pod({"affinity": {"podAffinity": preferred, "podAntiAffinity": required}}, labels=labels)
    assert (against.affinity, against.anti_affinity) == ((), (understood,))
    assert against.anti_affinity is pod({"affinity": {"podAntiAffinity": required}}, labels=labels).anti_affinity


def test_topology_spread() -> None:
    plain = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    full = {
        "labelSelector": APP,
        "matchLabelKeys": ["hash"],
        "minDomains": 3,
        "nodeAffinityPolicy": "Ignore",
        "nodeTaintsPolicy": "Honor",
    }
    listed = [plain, plain | full, plain | {"whenUnsatisfiable": "ScheduleAnyway"}]
    assert pod({"topologySpreadConstraints": listed}, labels={"hash": "1"}).spread == (
        SpreadConstraint("zone", 2, None),
        SpreadConstraint(
            "zone",
            2,
            LabelSelector((IN_APP, Requirement("hash", "In", ("1",)))),
            min_domains=3,
            honor_affinity=False,
            honor_taints=True,
        ),
    )


JOB = {"apiVersion": "batch/v1", "kind": "Job", "uid": "j", "controller": True}
GROUP = {names.POD_GROUP_LABEL: "g"}


def test_a_daemon_sets_pod_is_known_by_its_containers_and_its_readiness_counts() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "plugin", "uid": "d", "controller": True}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}

    def read(owner: dict[str, Any], status: dict[str, Any]) -> tuple[Daemon | None, bool]:
        found = pod({"containers": [{"name": "main"}, {"name": "sidecar"}]}, status, ownerReferences=[owner])
        return found.daemon, found.ready

    assert read(owner, ready) == (Daemon("plugin", ("main", "sidecar")), True)
    assert read(owner, {}) == (Daemon("plugin", ("main", "sidecar")), False)
    assert read(owner | {"kind": "ReplicaSet"}, ready) == (None, False)
    assert read(owner | {"controller": False}, ready) == (None, False)


@pytest.mark.parametrize(
    ("metadata", "group", "group_min"),
    [
        ({}, "", 0),
        ({"ownerReferences": [JOB]}, "job/a/j", 0),
        ({"ownerReferences": [JOB | {"controller": False}]}, "", 0),
        ({"ownerReferences": [JOB | {"kind": "ReplicaSet", "apiVersion": "apps/v1"}]}, "", 0),
        ({"ownerReferences": [JOB | {"apiVersion": "batch.example.com/v1"}]}, "", 0),
        ({"labels": GROUP, "ownerReferences": [JOB]}, "group/a/g", 0),
        ({"labels": GROUP, "annotations": {names.POD_GROUP_MIN_ANNOTATION: "4"}}, "group/a/g", 4),
        ({"labels": GROUP, "annotations": {names.POD_GROUP_MIN_ANNOTATION: "-4"}}, "group/a/g", 0),
        ({"labels": GROUP, "annotations": {names.POD_GROUP_MIN_ANNOTATION: "many"}}, "group/a/g", 0),
        ({"labels": {names.POD_GROUP_LABEL: ""}}, "", 0),
        ({"annotations": {names.POD_GROUP_MIN_ANNOTATION: "4"}}, "", 0),
    ],
)
def test_groups(metadata: dict[str, Any], group: str, group_min: int) -> None:
    found = pod(**metadata)
    assert (found.group, found.group_min) == (group, group_min)


@pytest.mark.parametrize(
    ("spec", "succeeded", "wanted"),
    [
        ({}, 0, 1),
        ({"parallelism": 4}, 0, 4),
        ({"parallelism": 4, "completions": 3}, 0, 3),
        ({"parallelism": 4, "completions": 9}, 2, 4),
        ({"parallelism": 4, "completions": 9}, 7, 2),
        ({"parallelism": 4, "completions": 9}, 10, 0),
        ({"parallelism": 0, "completions": 9}, 0, 0),
    ],
)
def test_how_many_pods_a_job_wants_at_once(spec: dict[str, int], succeeded: int, wanted: int) -> None:
    metadata = {"name": "n", "namespace": "a", "uid": "j"}
    assert convert.job(raw({"metadata": metadata, "spec": spec, "status": {"succeeded": succeeded}})) == (
        "job/a/j",
        wanted,
    )


BUDGET = {"name": "b", "namespace": "a", "generation": 2}
SELECTOR = LabelSelector((Requirement("app", "In", ("x",)),))


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        (APP, {"disruptionsAllowed": 3, "observedGeneration": 2}, (SELECTOR, 3)),
        (APP, {"disruptionsAllowed": 3, "observedGeneration": 1}, (SELECTOR, 0)),
        (APP, {"disruptionsAllowed": -1, "observedGeneration": 2}, (SELECTOR, 0)),
        (APP, {}, (SELECTOR, 0)),
        ({}, {"disruptionsAllowed": 1, "observedGeneration": 2}, (LabelSelector(), 1)),
        (None, {"disruptionsAllowed": 1, "observedGeneration": 2}, (None, 1)),
    ],
)
def test_budget(spec: Any, status: Any, expected: tuple[LabelSelector | None, int]) -> None:
    found = convert.budget(raw({"metadata": BUDGET, "spec": {"minAvailable": 1, "selector": spec}, "status": status}))
    assert found == Budget("a", "b", *expected)


def test_a_budget_without_selector_and_status() -> None:
    assert convert.budget(raw({"metadata": BUDGET, "spec": {}})) == Budget("a", "b", None, 0)


def test_namespace() -> None:
    assert convert.namespace(raw({"metadata": {"name": "a", "labels": {"k": "v"}}})) == {"k": "v"}
    assert convert.namespace(raw({"metadata": {"name": "a"}})) == {}
    with pytest.raises(ConvertError):
        convert.namespace(b"{}")


@pytest.mark.parametrize(
    ("condition", "unschedulable", "message"),
    [
        (None, False, ""),
        ({"status": "True"}, False, ""),
        ({"status": "False", "reason": "Unschedulable", "message": "why"}, True, "why"),
        ({"status": "False", "reason": "SchedulingGated", "message": "gated"}, False, ""),
    ],
)
def test_what_the_scheduler_said(condition: dict[str, str] | None, unschedulable: bool, message: str) -> None:
    conditions = [{"type": "Ready", "status": "False"}] + ([{"type": "PodScheduled", **condition}] if condition else [])
    found = pod(status={"conditions": conditions})
    assert (found.unschedulable, found.scheduler_message) == (unschedulable, message)


def test_a_pod_s_own_resources() -> None:
    found = pod({"containers": [{"resources": {"requests": {"cpu": "1"}}}], "resources": {"requests": {"cpu": "3"}}})
    assert found.request == {"cpu": 3000}


def test_elastic_quota() -> None:
    quota = convert.elastic_quota(
        raw(
            {
                "metadata": META | {"generation": 4},
                "spec": {"min": {"cpu": "1500m", "nvidia.com/gpu": 2}, "max": {"cpu": 3}},
                "status": {
                    "used": {"cpu": "500m"},
                    "guaranteedOverQuota": {"cpu": "1"},
                    "gpuMemory": {"NVIDIA-A30": "24", "default": "32"},
                    "observedGeneration": 3,
                    "conditions": [
                        {"type": "B", "status": "False", "reason": "r", "message": "m", "lastTransitionTime": "t"},
                        {"type": "A", "status": "True", "reason": "r"},
                    ],
                },
            }
        )
    )
    assert (quota.kind, quota.namespace, quota.namespaces, quota.generation) == (Kind.SINGLE, "a", ("a",), 4)
    assert (quota.min, quota.max, quota.problems) == ({"cpu": 1500, "nvidia.com/gpu": 2}, {"cpu": 3000}, ())
    assert (quota.status.used, quota.status.generation) == ({"cpu": 500}, 3)
    assert (quota.status.reserved, quota.status.guaranteed_over_quota) == ({}, {"cpu": 1000})
    assert quota.status.gpu_memory == {"NVIDIA-A30": 24, "default": 32}
    assert quota.status.conditions == (
        Condition("A", status=True, reason="r"),
        Condition("B", status=False, reason="r", message="m"),
    )
    assert quota.status.conditions[1].since == "t"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "spec.min"),
        ({"min": {"cpu": "much"}}, "spec.min[cpu]"),
        ({"min": {"cpu": -1}}, "negative"),
        ({"min": {"cpu": 3}, "max": {"cpu": 2}}, "more than spec.max[cpu]"),
        ({"min": "x"}, "spec.min"),
    ],
)
def test_a_quota_that_cannot_be_read_counts_for_nothing(spec: Any, problem: str) -> None:
    quota = convert.elastic_quota(raw({"metadata": META, "spec": spec}))
    assert problem in "; ".join(quota.problems)
    assert (quota.min, quota.max) == ({}, {})


@pytest.mark.parametrize(
    ("namespaces", "found", "problems"),
    [
        (["a", "b", "a"], ("a", "b"), 0),
        ([], (), 1),
        (None, (), 1),
        ("a", (), 1),
        ([1], (), 1),
    ],
)
def test_composite_elastic_quota(namespaces: Any, found: tuple[str, ...], problems: int) -> None:
    spec = {"min": {"cpu": 1}, "namespaces": namespaces}
    quota = convert.composite_elastic_quota(raw({"metadata": META, "spec": spec}))
    assert (quota.kind, quota.namespaces, len(quota.problems)) == (Kind.COMPOSITE, found, problems)


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        raw({"spec": {}}),
        raw({"metadata": META, "spec": {"containers": 3}}),
        raw({"metadata": META, "spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z"}]}}),
        raw(
            {
                "metadata": META,
                "spec": {
                    "affinity": {
                        "podAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": [
                                {
                                    "topologyKey": "z",
                                    "labelSelector": {"matchExpressions": [{"key": "k", "operator": "Gt"}]},
                                }
                            ]
                        }
                    }
                },
            }
        ),
        raw({"metadata": META, "spec": {"containers": [{"resources": {"requests": {"cpu": "x"}}}]}}),
    ],
)
def test_what_cannot_be_understood_is_an_error_of_ours(broken: bytes) -> None:
    with pytest.raises(ConvertError):
        convert.pod(broken)
