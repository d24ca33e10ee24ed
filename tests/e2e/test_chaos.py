"""Power cuts, lost GPUs, plugins that stay away, and everything killed at random; GPUs are simulated, all else is real.

``python -m tests.bench chaos`` goes on killing for longer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.e2e.chaos import Chaos, in_order
from tests.e2e.lab import A30, NEBULNETES, Lab, advertised, existing, fresh_namespace, pod, slow

pytestmark = pytest.mark.e2e

NODES: Final = ("a100", "a30", "h100")
SECONDS: Final = 10.0
"""For how long processes are killed at random."""
SELECTED: Final = "nvidia.com/gpu.present"
"""Label of nodes that the device plugin's DaemonSet selects."""
LEAST: Final = 3
"""Repartitions without which nothing was shown."""


def switch_on(lab: Lab, node: str) -> None:
    """A node comes back after a power cut."""
    lab.cluster.nodes[node].start_runtime()
    lab.cluster.nodes[node].start_kubelet()


def replicas(name: str, profile: str, node: str) -> dict[str, Any]:
    """A ReplicaSet of one pod that asks for an instance."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod(name, {profile: 1}, node=node)["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": spec}


def test_a_power_cut_in_the_middle_of_an_order(lab: Lab, namespace: str) -> None:
    """The kubelet fails pods that had devices (their own are gone); what is wanted is made anew for all others."""
    lab.enable(*NODES)
    lab.create(namespace, pod("had", {"4g.40gb": 1}, node="h100"), pod("elsewhere", {"1g.5gb": 1}, node="a100"))
    lab.create(namespace, replicas("set", "3g.40gb", "h100"))
    lab.running(namespace, "had", "elsewhere")
    lab.until("the set's pod runs", lambda: "Running" in phases(lab, namespace, "set"))
    holds, boot = lab.held(namespace, "elsewhere").uuid, lab.hardware("h100").boot_id
    with slow(lab, "h100"):
        profile = lab.absent("h100", "2g.20gb", "1g.10gb", "1g.20gb", "1g.10gb+me")
        lab.create(namespace, pod("waits", {profile: 1}, node="h100"))
        lab.until("an order is under way", lambda: lab.node("h100").ordered)
        lab.cluster.nodes["h100"].cut_power()
    assert existing(lab, "h100") == {}
    assert lab.hardware("h100").boot_id != boot
    switch_on(lab, "h100")
    lab.running(namespace, "waits", seconds=60)
    # For about 10 s the kubelet leaves pods that it has refused as Running at the API server.
    lab.until("the kubelet has refused the pod", lambda: "reason" in lab.pod(namespace, "had")["status"])
    assert lab.pod(namespace, "had")["status"]["reason"] == "UnexpectedAdmissionError"
    lab.until("the set's pod runs again", lambda: {"Failed", "Running"} <= {*phases(lab, namespace, "set")})
    lab.until("h100 is in order", lambda: in_order(lab, "h100"))
    assert lab.held(namespace, "elsewhere").uuid == holds
    print(f"power cut: pods of the set {dict(Counter(phases(lab, namespace, 'set')))}")


def phases(lab: Lab, namespace: str, app: str) -> list[str]:
    """Phases of the pods with a label."""
    return [each["status"]["phase"] for each in lab.cluster.api.items("pods", namespace=namespace, labels=f"app={app}")]


@dataclass(frozen=True)
class Left:
    """A node that a plugin has left in the middle of an order, once it is open again, and its pod that waits."""

    namespace: str
    failures: list[str]
    advertised: dict[str, int]


def brain_is_not_on(lab: Lab, node: str) -> None:
    """Sends the brain away from a node."""

    def elsewhere() -> bool:
        return all(pod["spec"].get("nodeName", node) != node for pod in lab.ours("brain"))

    lab.cluster.kubectl("cordon", node)
    for each in lab.ours("brain", node):
        lab.cluster.api.delete("pods", each["metadata"]["name"], namespace=NEBULNETES)
    lab.until(f"the brain is not on {node}", elsewhere)
    lab.cluster.kubectl("uncordon", node)


@pytest.fixture(scope="module")
def left(lab: Lab) -> Iterator[Future[Left]]:
    """The device plugin of a30 goes in the middle of an order and stays away; that is given up after half a minute."""

    def opened() -> Left:
        lab.until("a30 is open", lambda: lab.open("a30") and not lab.node("a30").ordered, seconds=90)
        return Left(namespace, lab.events("default", "a30").get("MigApplyFailed", []), advertised(lab, "a30"))

    brain_is_not_on(lab, "h100")  # whose power is cut meanwhile: another brain would order it anew, and wait as long
    lab.enable(*NODES)
    with fresh_namespace(lab.cluster) as namespace, ThreadPoolExecutor(1) as pool:
        lab.create(namespace, pod("holder", {"4g.24gb": 1}, node="a30"))
        lab.running(namespace, "holder")
        profile = lab.absent("a30", *A30)
        with slow(lab, "a30"):
            lab.create(namespace, pod("one", {profile: 1}, node="a30"))
            lab.until("an order is under way", lambda: lab.node("a30").ordered)
            lab.cluster.kubectl("label", "node", "a30", f"{SELECTED}-")
            lab.until("a30 shows no devices", lambda: not lab.cluster.nodes["a30"].device_ids())
        yield pool.submit(opened)


@pytest.mark.usefixtures("left")
def test_a_lost_gpu_is_left_alone_with_its_node_and_a_power_cut_brings_it_back(lab: Lab, namespace: str) -> None:
    """1g.10gb is a profile of a100, too."""
    lab.create(namespace, *(pod(name, {"7g.80gb": 1}, node="h100") for name in ("one", "two")))
    lab.running(namespace, "one", "two")
    index = {name: gpu_of(lab, namespace, name) for name in ("one", "two")}
    holds = lab.held(namespace, "two").uuid
    lab.hardware("h100").lose(index["one"])
    lab.event("default", "h100", "MigGpuProblem", f"GPU {index['one']} cannot be partitioned: GPU is lost; reset")

    lab.create(namespace, pod("goes", {"1g.10gb": 1}), pod("stays", {"1g.10gb": 1}, node="h100"))
    lab.running(namespace, "goes")
    assert lab.pod(namespace, "goes")["spec"]["nodeName"] == "a100"
    lab.event(namespace, "stays", "MigNoRoom", "has a lost GPU, beside which none is repartitioned (h100)")
    lab.until("the kubelet's status leaves the lost GPU out", lambda: advertised(lab, "h100") == existing(lab, "h100"))
    assert lab.open("h100")
    assert {lab.pod(namespace, name)["status"]["phase"] for name in index} == {"Running"}
    assert lab.held(namespace, "two").uuid == holds

    lab.cluster.nodes["h100"].cut_power()
    switch_on(lab, "h100")
    lab.running(namespace, "stays", seconds=60)
    lab.until("h100 is in order", lambda: in_order(lab, "h100"))


def gpu_of(lab: Lab, namespace: str, name: str) -> int:
    """The GPU on which a pod holds its instance."""
    uuid = lab.held(namespace, name).uuid
    return next(gpu.index for gpu in lab.gpus("h100") for instance in gpu.instances if instance.uuid == uuid)


def test_a_plugin_that_never_comes_back_leaves_its_node_open_and_named(lab: Lab, left: Future[Left]) -> None:
    seen = left.result()
    assert seen.advertised == {}
    assert any("Repartitioning ended with plugin-late" in failure for failure in seen.failures), seen.failures
    missing = "has a device plugin that does not show its MIG devices (a30)"
    lab.event(seen.namespace, "one", "MigNoRoom", missing)
    assert lab.pod(seen.namespace, "holder")["status"]["phase"] == "Running"
    lab.create(seen.namespace, pod("plain", node="a30"))
    lab.running(seen.namespace, "plain", seconds=10)

    lab.cluster.kubectl("label", "node", "a30", f"{SELECTED}=true")
    lab.running(seen.namespace, "one")
    lab.delete(seen.namespace, "holder", "one", "plain")


def test_brain_agents_and_plugins_killed_at_random_under_load(lab: Lab, namespace: str) -> None:
    lab.enable(*NODES)
    figures = Chaos(lab, namespace, random.SystemRandom().randrange(10**6)).run(SECONDS)
    print(figures)
    assert figures.failed == []
    assert figures.wrong == []
    assert all(figures.waits)
    assert figures.repartitions >= LEAST
