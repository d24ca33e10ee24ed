"""The metrics of quotas and nodes: what Prometheus reads of a snapshot."""

from __future__ import annotations

from dataclasses import replace

from brain.metrics import Metrics
from brain.model.quota import Condition, Kind, Quota, QuotaStatus
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import gpu, node, pod


def test_quotas_that_count_show_what_they_use_and_who_waits() -> None:
    metrics = Metrics()
    status = QuotaStatus({"cpu": 1500}, (Condition("Active", status=True, reason="Active"),), borrowed={"cpu": 500})
    counts = Quota(Kind.SINGLE, "a", "q", ("a",), {"cpu": 1000}, {"nvidia.com/gpu": 4}, status=status)
    waits = pod("p", namespace="a", gates=(names.QUOTA_GATE,))
    metrics.quotas.snapshot = Snapshot(quotas=(counts, Quota(Kind.SINGLE, "b", "other", ("b",))), pods=(waits,))
    whose = {"kind": "ElasticQuota", "namespace": "a", "quota": "q"}

    def shown(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"n8s_brain_quota_{name}", whose | labels)

    assert shown("used", resource="cpu") == 1.5
    assert shown("min", resource="cpu") == 1.0
    assert shown("max", resource="nvidia.com/gpu") == 4
    assert shown("borrowed", resource="cpu") == 0.5
    assert shown("waiting_pods") == 1
    assert [len(family.samples) for family in metrics.quotas.collect()] == [1] * 5
    metrics.quotas.snapshot = Snapshot()
    assert shown("used", resource="cpu") is None


def test_problems_of_nodes_show_while_they_last() -> None:
    metrics = Metrics()
    wrong = [replace(gpu(0), problem="lost", problem_code="gpu-lost"), replace(gpu(1), problem="off")]
    metrics.nodes.snapshot = Snapshot(nodes=(node("n1", wrong), node("n2", [gpu(0)])))

    def shown(name: str, reason: str) -> float | None:
        return metrics.registry.get_sample_value("n8s_brain_node_problems", {"node": name, "reason": reason})

    assert (shown("n1", "MigGpuProblem"), shown("n2", "MigGpuProblem")) == (1, None)
    metrics.nodes.snapshot = Snapshot(nodes=(node("n1", [gpu(0)]),))
    assert shown("n1", "MigGpuProblem") is None
