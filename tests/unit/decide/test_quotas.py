"""Usage, labels and standing of quotas; the worked numbers of tests/data/quota_cases.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brain.decide import quotas
from brain.decide.decisions import LabelPod, UpdateQuota
from brain.decide.gpumemory import GpuMemory
from brain.decide.labels import capacity_labels
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import AMOUNTS, Kind, Quota, QuotaStatus, Standing, standings
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import bound, gpu, node, pod

CASES = json.loads((Path(__file__).parents[2] / "data" / "quota_cases.json").read_text())["cases"]
LABELLED = [case for case in CASES if "labels" in case["expected"]]


def quota(
    name: str = "q", namespaces: tuple[str, ...] = ("team",), *, kind: Kind = Kind.SINGLE, **changes: Any
) -> Quota:
    return Quota(kind, namespaces[0], name, namespaces, **changes)


def test_there_are_labelled_cases() -> None:
    assert len(LABELLED) >= 3


@pytest.mark.parametrize("case", LABELLED, ids=[case["name"] for case in LABELLED])
def test_labels_of_the_worked_cases(case: dict[str, Any]) -> None:
    memory = GpuMemory(case.get("gpu_memory_gb", 16))
    labels: dict[str, str] = {}
    for stated in case["quotas"]:
        governed = quota(stated["name"], tuple(stated["namespaces"]), min=stated["min"] or {}, max=stated["max"] or {})
        pods = [
            Pod(
                p["ns"],
                p["name"],
                p["name"],
                p["created"],
                p["request"],
                p.get("labels", {}),
                "Running",
                priority=p["priority"],
            )
            for p in case["running"]
            if p["ns"] in governed.namespaces
        ]
        labels |= capacity_labels(governed, pods, memory)
    assert labels == labels | case["expected"]["labels"]


def test_protected_pods_come_first() -> None:
    governed = quota(min={"nvidia.com/gpu": 1})
    old = bound("old", "n1", request={"nvidia.com/gpu": 1}, created=1)
    protected = bound(
        "protected", "n1", request={"nvidia.com/gpu": 1}, created=2, labels={names.PREEMPTIBLE_LABEL: "false"}
    )
    labels = capacity_labels(governed, [old, protected], GpuMemory(32))
    assert labels == {"team/old": "over-quota", "team/protected": "in-quota"}


def test_of_two_alike_the_smaller_comes_first_also_where_it_does_not_ask_for_the_first_resource() -> None:
    governed = quota(min={"memory": 10})
    big = bound("big", "n1", request={"cpu": 4000, "memory": 10})
    small = bound("small", "n1", request={"memory": 1})
    labels = capacity_labels(governed, [big, small], GpuMemory(32))
    assert labels == {"team/small": "in-quota", "team/big": "over-quota"}


def test_used_counts_running_pods_and_labels_follow() -> None:
    governed = quota(min={"cpu": 1000, names.GPU_MEMORY: 10}, max={"nvidia.com/gpu": 4})
    pods = (
        bound("a", "n1", {"1g.5gb": 1}, request={"cpu": 600}, created=1),
        bound("b", "n1", {"1g.5gb": 1}, request={"cpu": 600}, created=2, labels={names.CAPACITY_LABEL: "in-quota"}),
        pod("waiting", {"1g.5gb": 1}),
        bound("ended", "n1", {"1g.5gb": 1}, phase="Succeeded", labels={names.CAPACITY_LABEL: "in-quota"}),
        bound("elsewhere", "n1", namespace="free", labels={names.CAPACITY_LABEL: "in-quota"}),
    )
    decisions = list(quotas.quota_decisions(Snapshot(pods=pods, quotas=(governed,)), 32))
    updates = [d for d in decisions if isinstance(d, UpdateQuota)]
    assert [dict(d.status.used) for d in updates] == [{"cpu": 1200, names.GPU_MEMORY: 10, "nvidia.com/gpu": 0}]
    assert {(c.type, c.status) for c in updates[0].status.conditions} == {
        ("Active", True),
        ("Conflict", False),
        ("Superseded", False),
        ("Reclaiming", False),
        ("MinExceedsCapacity", True),
    }
    labels = {(d.name, d.value) for d in decisions if isinstance(d, LabelPod)}
    assert labels == {("a", "in-quota"), ("b", "over-quota"), ("elsewhere", None), ("ended", None)}


def test_a_settled_world_needs_nothing() -> None:
    governed = quota(min={"cpu": 1000})
    first = next(d for d in quotas.quota_decisions(Snapshot(quotas=(governed,)), 32) if isinstance(d, UpdateQuota))
    settled = quota(min={"cpu": 1000}, status=first.status)
    assert list(quotas.quota_decisions(Snapshot(quotas=(settled,)), 32)) == []


def test_a_composite_supersedes_and_counts_once() -> None:
    single = quota("eq", ("a",), min={"cpu": 1000})
    both = quota("ceq", ("a", "b"), kind=Kind.COMPOSITE, min={"cpu": 5000})
    pods = tuple(bound(f"p-{ns}", "n1", namespace=ns, request={"cpu": 700}) for ns in "ab")
    updates = {
        d.quota.name: d.status
        for d in quotas.quota_decisions(Snapshot(pods=pods, quotas=(single, both)), 32)
        if isinstance(d, UpdateQuota)
    }
    assert dict(updates["ceq"].used) == {"cpu": 1400}
    assert dict(updates["eq"].used) == {}
    superseded = {c.type: c for c in updates["eq"].conditions}["Superseded"]
    assert superseded.status
    assert superseded.message == "CompositeElasticQuota a/ceq governs namespace a"


# (what it shows, quotas, standing by name)
STANDINGS: list[tuple[str, list[Quota], dict[str, str]]] = [
    ("the oldest of two counts", [quota("b", created=1), quota("a", created=2)], {"b": "Active", "a": "Conflict"}),
    ("then the first by name", [quota("b"), quota("a")], {"b": "Conflict", "a": "Active"}),
    (
        "a composite supersedes an older single",
        [quota("eq", ("a",), created=1), quota("ceq", ("a",), kind=Kind.COMPOSITE, created=2)],
        {"eq": "Superseded", "ceq": "Active"},
    ),
    (
        "a composite in conflict supersedes nothing",
        [
            quota("eq", ("c",)),
            quota("old", ("a", "b"), kind=Kind.COMPOSITE, created=1),
            quota("new", ("b", "c"), kind=Kind.COMPOSITE, created=2),
        ],
        {"eq": "Active", "old": "Active", "new": "Conflict"},
    ),
    (
        "a spec that cannot be read counts for nothing",
        [quota("bad", problems=("spec.min: x",)), quota("good", created=9)],
        {"bad": "Conflict", "good": "Active"},
    ),
]


@pytest.mark.parametrize(("stated", "expected"), [row[1:] for row in STANDINGS], ids=[row[0] for row in STANDINGS])
def test_standings(stated: list[Quota], expected: dict[str, str]) -> None:
    verdicts = standings(stated)
    assert {q.name: verdicts[q.key].standing.value for q in stated} == expected
    assert all(verdicts[q.key].reason or verdicts[q.key].standing is Standing.ACTIVE for q in stated)


def statuses(pods: tuple[Pod, ...], *stated: Quota) -> dict[str, QuotaStatus]:
    decisions = quotas.quota_decisions(Snapshot(pods=pods, quotas=stated), 32)
    return {d.quota.name: d.status for d in decisions if isinstance(d, UpdateQuota)}


LENDER, BORROWER = quota("lender", ("a",), min={"cpu": 6000}), quota("borrower", ("b",), min={"cpu": 2000})


def test_what_is_reserved_borrowed_lent_and_guaranteed() -> None:
    pods = (
        bound("runs", "n1", namespace="b", request={"cpu": 1500}),
        bound("starts", "n1", namespace="b", request={"cpu": 1000}, phase="Pending"),
        pod("let-in", namespace="b", request={"cpu": 700}),
        pod("waits", namespace="b", request={"cpu": 100}, gates=(names.QUOTA_GATE,)),
        bound("ended", "n1", namespace="b", request={"cpu": 100}, phase="Succeeded"),
        bound("own", "n1", namespace="a", request={"cpu": 500}),
    )
    found = statuses(pods, LENDER, BORROWER)
    assert [dict(getattr(found["borrower"], field)) for field in AMOUNTS] == [
        {"cpu": 1500},
        {"cpu": 3200},
        {"cpu": 1200},
        {"cpu": 0},
        {"cpu": 1375},
        {},
    ]
    assert [dict(getattr(found["lender"], field)) for field in AMOUNTS] == [
        {"cpu": 500},
        {"cpu": 500},
        {"cpu": 0},
        {"cpu": 1200},
        {"cpu": 4125},
        {},
    ]


def test_a_quota_that_does_not_count_shows_no_amounts() -> None:
    found = statuses((bound("p", "n1", request={"cpu": 1}),), quota("a", min={"cpu": 1}), quota("b", min={"cpu": 1}))
    assert all(not getattr(found["b"], field) for field in AMOUNTS)


def test_what_only_others_changed_is_written_a_few_at_a_time_until_all_is_right() -> None:
    stated = {f"q{i:03}": quota(f"q{i:03}", (f"n{i:03}",), min={"cpu": 1000}) for i in range(100)}
    assert len(settled(stated, ())) == 1
    pods = (bound("p", "n1", namespace="n000", request={"cpu": 1000}),)
    rounds = settled(stated, pods)
    assert [len(written) for written in rounds] == [33, 32, 32, 3]
    assert "q000" in rounds[0]


def settled(stated: dict[str, Quota], pods: tuple[Pod, ...]) -> list[list[str]]:
    """Writes until nothing is left to write; whose statuses each round wrote."""
    rounds = []
    while updates := statuses(pods, *stated.values()):
        rounds.append(list(updates))
        stated |= {name: replace(stated[name], status=status) for name, status in updates.items()}
    return rounds


def holding(name: str, world: Snapshot, reclaiming: frozenset[str] = frozenset()) -> dict[str, str]:
    """The message of a condition of each quota of which it holds."""
    updates = [d for d in quotas.quota_decisions(world, 32, reclaiming) if isinstance(d, UpdateQuota)]
    return {d.quota.name: c.message for d in updates for c in d.status.conditions if c.type == name and c.status}


def test_a_quota_that_takes_room_back_says_so() -> None:
    world = Snapshot(quotas=(LENDER, BORROWER))
    assert holding("Reclaiming", world, frozenset({"a/q", "a/p", "c/p"})) == {
        "lender": "a/p waits for others to leave, and 1 more"
    }


def test_quotas_that_guarantee_more_than_there_is_say_so() -> None:
    nodes = tuple(Node(name, allocatable={"cpu": 3900, "nvidia.com/gpu": 8}) for name in ("n1", "n2"))
    other = quota("other", ("c",), min={"nvidia.com/gpu": 16, "nvidia.com/mig-1g.5gb": 99, names.GPU_MEMORY: 512})
    said = holding("MinExceedsCapacity", Snapshot(nodes=nodes, quotas=(LENDER, BORROWER, other)))
    assert said == dict.fromkeys(("lender", "borrower"), "quotas guarantee 8 cpu, and nodes have 7800m")


def test_gpu_memory_that_is_guaranteed_is_held_against_all_gpus() -> None:
    whole = {names.GPU: 2, "cpu": 1000}
    nodes = (
        node("split", [gpu(0, "3g.20gb@0u"), replace(gpu(1), memory_mib=81559)]),  # 40 by the catalogue, 80 as reported
        node("both", [replace(gpu(0), profiles=(), memory_mib=40960), gpu(1)], allocatable={names.GPU: 1}),  # 32 and 40
        Node("t4", labels={names.GPU_PRODUCT_LABEL: "T4", names.GPU_MEMORY_LABEL: "15360"}, allocatable=whole),  # 30
        Node("unknown", allocatable=whole),  # 64
        Node("others", allocatable={"nvidia.com/mig-3g.20gb": 2}),  # 40
    )
    for least, text in ((326, ""), (327, "quotas guarantee 327 n8s.nebuly.ai/gpu-memory, and nodes have 326")):
        memory = quota("memory", ("c",), min={names.GPU_MEMORY: least})
        assert holding("MinExceedsCapacity", Snapshot(nodes=nodes, quotas=(memory,))).get("memory", "") == text
