"""What dies, stops or is taken away in the middle of a repartition; GPUs are simulated, all else is real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from n8s import names
from n8s.v1 import gpu_pb2
from tests.e2e.lab import A30, NEBULNETES, Lab, advertised, existing, fresh_namespace, pod, slow

pytestmark = pytest.mark.e2e


def leaders(lab: Lab) -> list[str]:
    """Pods that the brains' Service leads to, but for those on their way out."""
    pods = lab.cluster.api.items("pods", namespace=NEBULNETES, labels=f"{names.LEADER_LABEL}=true")
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def test_an_agent_killed_in_the_middle_of_an_order(lab: Lab, namespace: str) -> None:
    lab.enable("h100")
    lab.create(namespace, pod("neighbour", {"7g.80gb": 1}, node="h100"))
    lab.running(namespace, "neighbour")
    holds = lab.held(namespace, "neighbour").uuid
    with slow(lab, "h100"):
        profile = lab.absent("h100", "3g.40gb", "2g.20gb", "1g.20gb", "1g.10gb")
        lab.create(namespace, pod("three", {profile: 2}, node="h100"))
        lab.until("an order is under way", lambda: lab.node("h100").ordered)
        time.sleep(1.5)
        lab.kill("nodeagent", "--node-name=h100")
        lab.running(namespace, "three", seconds=60)
    assert lab.held(namespace, "neighbour").uuid == holds
    assert lab.pod(namespace, "neighbour")["status"]["containerStatuses"][0]["restartCount"] == 0
    states = {instance.state for gpu in lab.gpus("h100") for instance in gpu.instances}
    assert gpu_pb2.INSTANCE_STATE_BROKEN not in states
    lab.until("the node is open again", lambda: lab.open("h100"))


def test_a_brain_killed_in_the_middle_of_an_order(lab: Lab, namespace: str) -> None:
    lab.enable("a100")
    with slow(lab, "a100"):
        profile = lab.absent("a100", "1g.5gb", "2g.10gb", "4g.20gb", "7g.40gb")
        lab.create(namespace, pod("one", {profile: 1}, node="a100"))
        lab.until("an order is under way", lambda: lab.node("a100").ordered)
        lab.kill("brain")
        lab.running(namespace, "one", seconds=60)
    lab.until("the node is open again", lambda: lab.open("a100"))
    holds = lab.held(namespace, "one").uuid

    lab.create(namespace, pod("two", {"2g.10gb": 1}, node="a100"))
    lab.running(namespace, "two")
    assert lab.held(namespace, "one").uuid == holds


def test_brain_and_agent_killed_at_once_in_the_middle_of_an_order(lab: Lab, namespace: str) -> None:
    lab.enable("a100")
    with slow(lab, "a100"):
        profile = lab.absent("a100", "1g.5gb", "2g.10gb", "4g.20gb", "7g.40gb")
        lab.create(namespace, pod("one", {profile: 1}, node="a100"))
        lab.until("an order is under way", lambda: lab.node("a100").ordered)
        lab.kill("brain")
        lab.kill("nodeagent", "--node-name=a100")
        lab.running(namespace, "one", seconds=60)
        lab.until("the node is open again", lambda: lab.open("a100"))
        assert advertised(lab, "a100") == existing(lab, "a100")


def test_of_two_brains_one_leads_and_the_other_takes_over_in_the_middle_of_an_order(lab: Lab, namespace: str) -> None:
    lab.release.install({"brain": {"replicas": 2, "settleSeconds": 0.5}})
    try:
        lab.until("one brain leads", lambda: len(leaders(lab)) == 1)
        (first,) = leaders(lab)
        lab.enable("h100")
        with slow(lab, "h100"):
            profile = lab.absent("h100", "7g.80gb", "4g.40gb", "3g.40gb", "2g.20gb", "1g.10gb", "1g.20gb")
            lab.create(namespace, pod("one", {profile: 1}, node="h100"))
            lab.until("an order is under way", lambda: lab.node("h100").ordered)
            lab.cluster.kubectl("delete", "pod", "-n", NEBULNETES, first, "--wait=false")
            lab.running(namespace, "one", seconds=60)
            lab.until("the other leads", lambda: leaders(lab) not in ([], [first]))
            lab.until("the node is open again", lambda: lab.open("h100"))
            assert advertised(lab, "h100") == existing(lab, "h100")
    finally:
        lab.release.install()
    lab.until("one brain leads", lambda: len(leaders(lab)) == 1)
    assert lab.node("h100").name == "h100"


def test_a_label_taken_off_in_the_middle_of_an_order(lab: Lab, namespace: str) -> None:
    """The agent is told to stop then; the node opens when what is advertised is there, and not before."""
    with slow(lab, "h100"):
        lab.enable("h100")
        profile = lab.absent("h100", "7g.80gb", "4g.40gb", "3g.40gb", "2g.20gb", "1g.10gb", "1g.20gb")
        lab.create(namespace, pod("one", {profile: 1}, node="h100"))
        lab.until("an order is under way", lambda: lab.node("h100").ordered)
        lab.disable("h100")
        opened_wrong = []

        def opened() -> bool:
            is_open = lab.open("h100")
            if is_open and advertised(lab, "h100") != existing(lab, "h100"):
                opened_wrong.append((advertised(lab, "h100"), existing(lab, "h100")))
            return is_open

        lab.until("the node is open", opened, seconds=90)
        assert not opened_wrong
    assert "MigApplyFailed" not in lab.events("default", "h100")


def test_a_pod_deleted_by_force_keeps_its_instance_while_its_process_runs(lab: Lab, namespace: str) -> None:
    """The kubelet calls both free at once; only one process has opened its device, the other is seen in /proc alone."""
    slow = {"FAKE_STOP_SECONDS": "99"}  # the kubelet kills them after 2 s
    slower = slow | {"FAKE_KILL_SECONDS": "4", "FAKE_OPEN_SECONDS": "99"}
    lab.enable("a100")
    lab.create(
        namespace,
        pod("opened", {"3g.20gb": 1}, node="a100", environ=slow),
        pod("started", {"3g.20gb": 1}, node="a100", environ=slower),
    )
    lab.running(namespace, "opened", "started")
    device = {name: lab.held(namespace, name).uuid for name in ("opened", "started")}
    process = {name: only(lab.cluster.nodes["a100"].pids(namespace, name)) for name in device}
    for name in device:
        lab.cluster.api.delete("pods", name, namespace=namespace, grace_seconds=0)
    lab.create(namespace, pod("next", {"7g.40gb": 1}, node="a100"))
    seen = set()

    def over() -> bool:
        there = {each.uuid for each in lab.hardware("a100").mig_devices()}
        running = {name for name, pid in process.items() if runs(pid)}  # after the look at the hardware
        assert {device[name] for name in running} <= there
        if running == {"started"}:
            shown = {each.uuid: each.state for gpu in lab.gpus("a100") for each in gpu.instances}
            seen.add(("free", shown.get(device["started"]) == gpu_pb2.INSTANCE_STATE_FREE))
            seen.add(("ordered", bool(lab.node("a100").ordered)))
        return not running

    lab.until("both processes have ended", over)
    assert {("free", True), ("ordered", True)} <= seen, "nobody wanted what was used"
    lab.running(namespace, "next")


def only(pids: list[int]) -> int:
    (pid,) = pids
    return pid


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has no environment."""
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return False


@dataclass(frozen=True)
class Devices:
    """MIG devices of a node: those that the API server says it has, and those of its hardware."""

    advertised: dict[str, int]
    existing: dict[str, int]


def devices(lab: Lab, node: str) -> Devices:
    return Devices(advertised(lab, node), existing(lab, node))


def destroy_one(lab: Lab, node: str) -> None:
    """An instance of a node goes, as in the last moment of an agent's life."""
    hardware = lab.hardware(node)
    hardware.set_times(create_seconds=0.0, destroy_seconds=0.0)
    instance = hardware.gpus()[0].instances[0]
    hardware.destroy_compute_instance(0, instance.id)
    hardware.destroy_gpu_instance(0, instance.id)


@pytest.fixture(scope="module")
def abandoned(lab: Lab) -> Iterator[Future[Devices]]:
    """What a node has when it opens whose agent died in the middle of an order and stays away, as no brain saw.

    An instance has gone by then, and nobody is there to tell the device plugin, which must look again first. The node
    stays closed for about 50 s after the next brain's start; other tests run meanwhile, none that ends a brain.
    """

    def opened() -> Devices:
        lab.until("the node is open", lambda: lab.open("a30"), seconds=120)
        return devices(lab, "a30")

    # So slow that the agent dies before its first step is done: nobody would tell the device plugin of that.
    with slow(lab, "a30", seconds=30), fresh_namespace(lab.cluster) as namespace:
        lab.enable("a30")
        profile = lab.absent("a30", *A30)
        lab.create(namespace, pod("one", {profile: 1}, node="a30"))
        lab.until("an order is under way", lambda: lab.node("a30").ordered)
        scale = ("scale", "deployment/nebulnetes-brain", "-n", NEBULNETES)
        lab.cluster.kubectl(*scale, "--replicas=0")
        lab.cluster.kubectl("label", "node", "a30", f"{names.AUTO_MIG_LABEL}-")
        lab.kill("nodeagent", "--node-name=a30")
        lab.until("agent and brain are gone", lambda: not lab.ours("agent", "a30") and not lab.ours("brain"))
        destroy_one(lab, "a30")
        lab.cluster.kubectl(*scale, "--replicas=1")
        assert not lab.open("a30")
        pool = ThreadPoolExecutor(1)
        yield pool.submit(opened)
        pool.shutdown(wait=False)


@pytest.mark.usefixtures("abandoned")
def test_a_node_without_its_device_plugin_serves_nobody_and_others_do(lab: Lab, namespace: str) -> None:
    """1g.10gb is a profile of both models."""
    lab.enable("a100", "h100")
    lab.create(namespace, pod("before", {"1g.10gb": 1}, node="h100"))
    lab.running(namespace, "before")
    lab.delete(namespace, "before")
    selected = "nvidia.com/gpu.present"  # by the plugin's DaemonSet
    lab.cluster.kubectl("label", "node", "h100", f"{selected}-")
    try:
        lab.until("h100 shows no devices", lambda: not advertised(lab, "h100"))
        lab.create(namespace, pod("one", {"1g.10gb": 1}), pod("stays", {"1g.10gb": 1}, node="h100"))
        lab.running(namespace, "one", seconds=90)
        assert lab.pod(namespace, "one")["spec"]["nodeName"] == "a100"
        missing = "has a device plugin that does not show its MIG devices (h100)"
        lab.event(namespace, "stays", "MigNoRoom", missing)
        lab.create(namespace, pod("plain", node="h100"))
        lab.running(namespace, "plain", seconds=10)
    finally:
        lab.cluster.kubectl("label", "node", "h100", f"{selected}=true")
    lab.running(namespace, "stays", seconds=60)


def test_an_agent_that_stays_away_does_not_keep_its_node_closed(abandoned: Future[Devices]) -> None:
    seen = abandoned.result()
    assert seen.existing
    assert seen.advertised == seen.existing
