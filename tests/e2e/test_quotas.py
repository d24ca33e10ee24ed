"""Quotas through kubectl: what is refused and how it reads, what the brain writes into them and onto pods."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from deploy.local.errors import CommandError
from n8s import names
from tests.e2e.lab import Lab, fresh_namespace, pod, quota

pytestmark = pytest.mark.e2e


@pytest.fixture
def second(lab: Lab, namespace: str) -> Iterator[str]:
    """Another namespace beside the first."""
    with fresh_namespace(lab.cluster, f"{namespace}-b") as name:
        yield name


def refusal(lab: Lab, namespace: str, document: str) -> str:
    """What kubectl says when it applies what is refused."""
    with pytest.raises(CommandError) as caught:
        lab.cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=document)
    return str(caught.value)


def apply(lab: Lab, namespace: str, document: str) -> None:
    lab.cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=document)


def test_what_is_refused_says_why(lab: Lab, namespace: str, second: str) -> None:
    apply(lab, namespace, quota("first", {"cpu": "4"}))
    assert f"ElasticQuota {namespace}/first" in refusal(lab, namespace, quota("second", {"cpu": "1"}))
    apply(lab, namespace, quota("first", {"cpu": "5"}))

    apply(lab, second, quota("both", {"cpu": "4"}, namespaces=[second]))
    message = refusal(lab, second, quota("other", {"cpu": "4"}, namespaces=[second, namespace]))
    assert f"CompositeElasticQuota {second}/both" in message
    assert f"CompositeElasticQuota {second}/both" in refusal(lab, second, quota("single", {"cpu": "1"}))
    lab.cluster.kubectl("delete", "ceq", "both", "-n", second)

    too_much = refusal(lab, second, quota("q", {"nvidia.com/gpu": "4"}, {"nvidia.com/gpu": "2"}))
    assert "nvidia.com/gpu" in too_much or "min" in too_much
    assert "max" in too_much
    assert "negative" in refusal(lab, second, quota("q", {"nvidia.com/gpu": "-1"}))
    assert "whole" in refusal(lab, second, quota("q", {names.GPU_MEMORY: "1500m"}))
    for kind in ("elasticquotas", "compositeelasticquotas"):
        assert lab.cluster.api.items(kind, namespace=second) == []


def test_the_table_shows_min_max_and_used(lab: Lab, namespace: str) -> None:
    apply(lab, namespace, quota("team", {"cpu": "4", names.GPU_MEMORY: 20}, {"cpu": "8"}))
    lab.cluster.kubectl("wait", "eq/team", "-n", namespace, "--for=condition=Active", "--timeout=20s")
    table = lab.cluster.kubectl("get", "eq", "-A")
    heading, *rows = table.splitlines()
    assert {"NAMESPACE", "NAME", "MIN", "MAX", "USED"} <= set(heading.split())
    row = next(row for row in rows if row.startswith(namespace))
    assert '"cpu":"8"' in row


def test_used_and_labels_follow_pods(lab: Lab, namespace: str, second: str) -> None:
    apply(lab, namespace, quota("team", {names.GPU_MEMORY: 5, "cpu": "1"}, {names.GPU_MEMORY: 20}))
    apply(lab, second, quota("lends", {names.GPU_MEMORY: 5}))
    lab.enable("a100")
    lab.create(namespace, pod("first", {"1g.5gb": 1}, node="a100", request={"cpu": "100m"}))
    lab.running(namespace, "first")
    lab.until("it is labelled", lambda: label(lab, namespace, "first") == "in-quota")
    lab.until("it is counted", lambda: used(lab, namespace) == {"cpu": "100m", names.GPU_MEMORY: "5"})
    lab.create(namespace, pod("second", {"1g.5gb": 1}, node="a100", request={"cpu": "100m"}))
    lab.running(namespace, "second")
    lab.until("it is labelled", lambda: label(lab, namespace, "second") == "over-quota")
    assert label(lab, namespace, "first") == "in-quota"
    lab.until("both are counted", lambda: used(lab, namespace) == {"cpu": "200m", names.GPU_MEMORY: "10"})
    lab.delete(namespace, "first")
    lab.until("the other is in quota now", lambda: label(lab, namespace, "second") == "in-quota")
    lab.until("one is counted", lambda: used(lab, namespace) == {"cpu": "100m", names.GPU_MEMORY: "5"})


def test_a_composite_supersedes_and_gives_back(lab: Lab, namespace: str, second: str) -> None:
    apply(lab, namespace, quota("single", {"cpu": "4"}))
    apply(lab, second, quota("both", {"cpu": "9"}, namespaces=[namespace, second]))
    lab.cluster.kubectl("wait", "eq/single", "-n", namespace, "--for=condition=Superseded", "--timeout=20s")
    lab.cluster.kubectl("delete", "ceq", "both", "-n", second)
    lab.cluster.kubectl("wait", "eq/single", "-n", namespace, "--for=condition=Active", "--timeout=20s")


def test_a_whole_gpu_counts_its_product_s_memory(lab: Lab, namespace: str) -> None:
    """On a node that is an object only: no kubelet here has whole GPUs."""
    labels = {names.GPU_PRODUCT_LABEL: "NVIDIA-H100-NVL", names.GPU_MEMORY_LABEL: "95830"}
    amounts = {"cpu": "8", "pods": "10", names.GPU: "4"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "object", "labels": labels}}
    lab.cluster.apply(json.dumps(node))
    try:
        ready = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
        status = json.dumps({"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}})
        lab.cluster.kubectl("patch", "node", "object", "--subresource=status", f"--patch={status}")
        apply(lab, namespace, quota("team", {names.GPU_MEMORY: 100}))
        counts = {"NVIDIA-H100-NVL": "94", "default": "32"}
        lab.until("the product is shown", lambda: counts.items() <= shown(lab, namespace, "gpuMemory").items())
        whole = pod("whole", nodeSelector={names.GPU_PRODUCT_LABEL: "NVIDIA-H100-NVL"})
        whole["spec"]["containers"][0]["resources"]["limits"] = {names.GPU: "1"}
        lab.create(namespace, whole)
        lab.until("it is counted", lambda: shown(lab, namespace, "reserved") == {names.GPU_MEMORY: "94"})
    finally:
        lab.cluster.api.delete("pods", namespace=namespace, grace_seconds=0)
        lab.cluster.kubectl("delete", "node", "object")


def label(lab: Lab, namespace: str, name: str) -> str | None:
    labels = lab.pod(namespace, name)["metadata"].get("labels", {})
    value = labels.get(names.CAPACITY_LABEL)
    return None if value is None else str(value)


def used(lab: Lab, namespace: str) -> dict[str, str]:
    return shown(lab, namespace, "used")


def shown(lab: Lab, namespace: str, field: str) -> dict[str, str]:
    """A field of the status of the namespace's quota."""
    quota = lab.cluster.api.get("elasticquotas", "team", namespace=namespace)
    found: dict[str, str] = quota.get("status", {}).get(field, {})
    return found
