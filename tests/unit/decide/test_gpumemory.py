"""GB that a whole GPU counts for: by the product that a pod has or will have, else the default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brain.decide import quotas
from brain.decide.admission import admit
from brain.decide.decisions import Evict, LetIn, UpdateQuota
from brain.decide.gpumemory import GpuMemory
from brain.model.affinity import Requirement
from brain.model.node import Node, Taint
from brain.model.pod import NodeSelectorTerm, Pod, Toleration
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names

PRODUCT, MEMORY = names.GPU_PRODUCT_LABEL, names.GPU_MEMORY_LABEL
ONE = {names.GPU: 1}


def node(name: str, product: str = "", memory: str = "", gpus: int = 8, **changes: Any) -> Node:
    """A node with whole GPUs, as GPU feature discovery labels it."""
    labels = {key: value for key, value in ((PRODUCT, product), (MEMORY, memory)) if value}
    amounts = {"cpu": 64_000, "pods": 110, names.GPU: gpus}
    labels["kubernetes.io/hostname"] = name
    return Node(name, labels=labels | changes.pop("labels", {}), capacity=amounts, allocatable=amounts, **changes)


def pod(name: str = "p", count: int = 1, **changes: Any) -> Pod:
    return Pod("team", name, f"uid-{name}", request={names.GPU: count}, **changes)


def on(product: str) -> dict[str, Any]:
    """Required node affinity to a product."""
    return {"node_affinity": (NodeSelectorTerm((Requirement(PRODUCT, "In", (product,)),)),)}


H100 = node("h", "NVIDIA-H100-80GB-HBM3", "81559")
A100 = node("a", "NVIDIA-A100-SXM4-40GB", "40536")
T4 = node("t", "Tesla-T4", "15360")
SHARED = node("s", "Tesla-T4-SHARED", "15360", labels={"pool": "shared"})
SLICED = node("m", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "4864")
BARE = node("b")
UNSAID = node("u", "NVIDIA-H200")
NONSENSE = node("n", "NVIDIA-New", "lots")
MIXED = node("mig", "NVIDIA-A30", "24576", gpus=0)
TAINTED = replace(H100, taints=(Taint("pool", "h100"),))
CORDONED = replace(H100, unschedulable=True, ready=False, taints=(Taint("node.kubernetes.io/unschedulable"),))

SIZES = [
    ("no node says anything", [], pod(), 32),
    ("the only product", [H100], pod(), 80),
    ("each GPU", [H100], pod(count=3), 240),
    ("as MIG profiles of the same GPU are named", [A100], pod(), 40),
    ("two products", [H100, A100], pod(), 32),
    ("two products of one size", [T4, SHARED], pod(), 15),
    ("a selector of a product", [H100, A100], pod(node_selector={PRODUCT: "NVIDIA-H100-80GB-HBM3"}), 80),
    ("a selector of a node", [H100, A100], pod(node_selector={"kubernetes.io/hostname": "a"}), 40),
    ("any other label", [H100, SHARED], pod(node_selector={"pool": "shared"}), 15),
    ("affinity", [H100, A100], pod(**on("NVIDIA-A100-SXM4-40GB")), 40),
    ("a taint keeps it away", [TAINTED, A100], pod(), 40),
    ("it tolerates the taint", [TAINTED, A100], pod(tolerations=(Toleration("pool", "Exists"),)), 32),
    ("a node that is away for a while", [CORDONED, A100], pod(), 32),
    ("bound", [H100, A100], pod(node="a"), 40),
    ("bound to a node that nobody knows any more", [H100, A100], pod(node="gone"), 32),
    ("bound to a node that says nothing", [H100, BARE], pod(node="b"), 32),
    ("it may go to a node that says nothing", [H100, BARE], pod(), 32),
    ("the catalogue knows a product that says no memory", [UNSAID], pod(), 141),
    ("a label that is no number", [NONSENSE], pod(), 32),
    ("whole GPUs elsewhere only", [MIXED, A100], pod(), 40),
    ("a selector of a product that no node has", [A100], pod(node_selector={PRODUCT: "NVIDIA-H200"}), 141),
    ("a selector of a product that nobody knows", [A100], pod(node_selector={PRODUCT: "NVIDIA-New"}), 32),
    ("MIG devices that are shown as GPUs", [SLICED], pod(), 5),
    ("let in when it was not known", [H100], pod(reservation="in-quota/none/gpu-memory=32"), 32),
    ("and bound since", [H100], pod(node="h", reservation="in-quota/free/h/gpu-memory=32"), 32),
    ("let in when it was known", [H100], pod(node="h", reservation="in-quota/free/h"), 80),
]


@pytest.mark.parametrize(("nodes", "asking", "expected"), [row[1:] for row in SIZES], ids=[row[0] for row in SIZES])
def test_what_a_pod_counts_for(nodes: list[Node], asking: Pod, expected: int) -> None:
    assert GpuMemory(32, nodes).request(asking)[names.GPU_MEMORY] == expected


def test_mig_devices_count_what_their_names_say() -> None:
    asking = replace(pod(), request={names.mig_resource("3g.20gb"): 2})
    memory = GpuMemory(32, [H100])
    assert memory.request(asking)[names.GPU_MEMORY] == 40
    assert memory.promise(asking) == ""


def test_what_is_shown() -> None:
    assert GpuMemory(32).shown() == {"default": 32}
    expected = {"NVIDIA-A100-SXM4-40GB": 40, "NVIDIA-A30": 24, "Tesla-T4": 15, "default": 24}
    assert GpuMemory(24, [T4, A100, MIXED, BARE]).shown() == expected


def test_it_stays_the_same_while_nothing_that_matters_changes() -> None:
    first = GpuMemory.of(32, (A100, MIXED))
    annotated = replace(MIXED, annotations={"n8s.nebuly.ai/a": "1"}, taints=(Taint(names.REPARTITIONING_TAINT),))
    assert GpuMemory.of(32, (A100, annotated)) is first
    assert GpuMemory.of(32, (H100, annotated)) is not first
    assert GpuMemory.of(16, (H100, annotated)).request(pod("p", node="elsewhere"))[names.GPU_MEMORY] == 16


# In decisions.


def team(name: str, least: int, **limits: int) -> Quota:
    most = {names.GPU_MEMORY: limits["max"]} if limits else {}
    return Quota(Kind.SINGLE, name, "q", (name,), {names.GPU_MEMORY: least}, most)


def waiting(name: str, **changes: Any) -> Pod:
    return pod(name, gates=(names.QUOTA_GATE,), never_preempts=True, **changes)


def let_in(snapshot: Snapshot) -> dict[str, str]:
    return {d.name: d.reservation for d in admit(snapshot, 32).decisions if isinstance(d, LetIn)}


def test_max_holds_for_the_product() -> None:
    pods = tuple(waiting(f"p{number}") for number in range(3))
    assert let_in(Snapshot((H100,), pods, (team("team", 160, max=160),))).keys() == {"p0", "p1"}
    assert len(let_in(Snapshot((T4,), pods, (team("team", 160, max=160),)))) == 3


def test_what_is_let_in_by_the_default_keeps_it() -> None:
    pods = waiting("any"), waiting("t", node_selector={PRODUCT: "Tesla-T4"})
    found = let_in(Snapshot((T4, H100), pods, (team("team", 60),)))
    assert found == {"any": "in-quota/free/gpu-memory=32", "t": "in-quota/free"}


def test_nobody_becomes_over_quota_by_where_the_scheduler_puts_it() -> None:
    """Else it would be evicted, come back counting the default, evict in turn, and so on."""
    there = pod("there", node="h", phase="Running", reservation="in-quota/free/gpu-memory=32", created=1)
    by_hand = pod("by-hand", node="h", phase="Running", created=1)
    full = replace(H100, allocatable={**H100.allocatable, names.GPU: 1})
    other = replace(waiting("owner", created=2), namespace="other", node_selector={"kubernetes.io/hostname": "h"})
    quotas = (team("team", 40), team("other", 80))
    for running, evicted in ((there, []), (by_hand, ["by-hand"])):
        result = admit(Snapshot((full, T4), (running, replace(other, gates=(), unschedulable=True)), quotas), 32)
        assert [d.name for d in result.decisions if isinstance(d, Evict)] == []
        nominated = replace(other, gates=(), unschedulable=True, nominated="h", reservation="in-quota/reclaim/h")
        result = admit(Snapshot((full, T4), (running, nominated), quotas), 32)
        assert [d.name for d in result.decisions if isinstance(d, Evict)] == evicted


def test_the_status_says_what_counts() -> None:
    plain = Quota(Kind.SINGLE, "plain", "q", ("plain",), {"cpu": 1})
    running = pod("p", node="h", phase="Running")
    updates = quotas.quota_decisions(Snapshot((H100, T4), (running,), (team("team", 60), plain)), 32)
    found = {d.quota.namespace: d.status for d in updates if isinstance(d, UpdateQuota)}
    assert found["team"].used == {names.GPU_MEMORY: 80}
    assert found["team"].gpu_memory == {"NVIDIA-H100-80GB-HBM3": 80, "Tesla-T4": 15, "default": 32}
    assert found["plain"].gpu_memory == {}
