"""Pods that wait for MIG devices get them, on a real control plane and real kubelets; GPUs are simulated."""

from __future__ import annotations

import pytest

from n8s import names
from tests.e2e.lab import A30, Lab, pod

pytestmark = pytest.mark.e2e


def test_a_waiting_pod_gets_its_instance_and_neighbours_stay(lab: Lab, namespace: str) -> None:
    lab.enable("h100")
    lab.create(namespace, pod("neighbour", {"7g.80gb": 1}, node="h100"))
    lab.running(namespace, "neighbour")
    before = lab.pod(namespace, "neighbour")
    holds = lab.held(namespace, "neighbour").uuid

    profile = lab.absent("h100", "1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb")
    lab.create(namespace, pod("small", {profile: 1}, node="h100"))
    lab.running(namespace, "small")

    after = lab.pod(namespace, "neighbour")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]
    assert lab.held(namespace, "neighbour").uuid == holds
    known = {device.uuid: device.profile for device in lab.hardware("h100").mig_devices()}
    assert known[lab.held(namespace, "small").uuid] == profile
    lab.event(namespace, "small", "MigRepartitioning", f"{profile} at slot")
    lab.until("the node is open again", lambda: lab.open("h100"))

    def shown(kind: str) -> set[str]:
        """What annotations say of GPUs, without their index."""
        prefix = f"{names.GROUP}/{kind}-gpu-"
        annotations = lab.raw_node("h100")["metadata"]["annotations"]
        return {key.removeprefix(prefix).split("-", 1)[1] for key in annotations if key.startswith(prefix)}

    used = {f"{profile}-used", "7g.80gb-used"}
    lab.until(
        "annotations show what is used", lambda: {each for each in shown("status") if each.endswith("used")} == used
    )
    lab.until("annotations show what is wanted", lambda: {profile, "7g.80gb"} <= shown("spec"))


def test_seven_small_ones_then_a_big_one_then_around_what_runs(lab: Lab, namespace: str) -> None:
    lab.enable("a100")
    small = [f"small-{number}" for number in range(7)]
    lab.create(namespace, *(pod(name, {"1g.5gb": 1}, node="a100") for name in small))
    lab.running(namespace, *small)
    assert lab.geometry("a100") == [[f"1g.5gb@{slot}" for slot in range(7)]]

    lab.delete(namespace, *small)
    lab.create(namespace, pod("big", {"7g.40gb": 1}, node="a100"))
    lab.running(namespace, "big")
    assert lab.geometry("a100") == [["7g.40gb@0"]]

    lab.delete(namespace, "big")
    lab.create(namespace, *(pod(name, {"1g.5gb": 1}, node="a100") for name in small))
    lab.running(namespace, *small)
    at_four = next(name for name in small if lab.held(namespace, name).start == 4)
    stays = lab.held(namespace, at_four).uuid
    lab.delete(namespace, *(name for name in small if name != at_four))
    lab.create(namespace, pod("three", {"3g.20gb": 1}, node="a100"))
    lab.running(namespace, "three")
    assert lab.held(namespace, "three").start == 0
    assert lab.held(namespace, at_four).uuid == stays


def test_a_node_is_ours_only_while_it_is_labelled(lab: Lab, namespace: str) -> None:
    lab.enable()
    untouched = lab.geometry("a30"), lab.raw_node("a30")["metadata"].get("annotations", {})
    lab.create(namespace, pod("waits", {lab.absent("a30", *A30): 1}, node="a30"))
    selector = "does not match the pod's node selector (a100, h100)"
    unlabelled = "is not labelled n8s.nebuly.ai/auto-mig-enabled=true (a30)"
    lab.event(namespace, "waits", "MigNoRoom", f"{selector}; {unlabelled}")
    assert (lab.geometry("a30"), lab.raw_node("a30")["metadata"].get("annotations", {})) == untouched
    assert lab.open("a30")

    lab.enable("a30")
    lab.running(namespace, "waits")
    lab.until("the node is open again", lambda: lab.open("a30"))
    lab.disable("a30")
    left = lab.geometry("a30")
    lab.create(namespace, pod("late", {lab.absent("a30", *A30): 1}, node="a30"))
    lab.event(namespace, "late", "MigNoRoom")
    assert lab.geometry("a30") == left
    assert lab.open("a30")
    assert lab.pod(namespace, "late")["status"]["phase"] == "Pending"


def test_pods_that_can_never_fit_are_told_and_do_not_stop_others(lab: Lab, namespace: str) -> None:
    lab.enable("h100")
    lab.create(
        namespace,
        pod("no-profile", {"9g.99gb": 1}),
        pod("no-node", {"1g.10gb": 1}, nodeSelector={"zone": "nowhere"}),
        pod("too-big", {"1g.10gb": 1}, request={"cpu": "900"}),
        pod("fits", {"2g.20gb": 1}, node="h100"),
    )
    lab.running(namespace, "fits")
    unlabelled = "is not labelled n8s.nebuly.ai/auto-mig-enabled=true (a100, a30)"
    expected = {
        "no-profile": f"has no GPU that can hold nvidia.com/mig-9g.99gb (h100); {unlabelled}",
        "no-node": "does not match the pod's node selector (a100, a30, h100)",
        "too-big": "has too little cpu (a100, a30, h100)",
    }
    for name, reason in expected.items():
        assert lab.event(namespace, name, "MigNoRoom", reason).endswith(": " + reason)


def test_a_pod_that_lacks_something_else_does_not_keep_an_instance_from_others(lab: Lab, namespace: str) -> None:
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "nowhere"}}
    lab.enable("a100")
    lab.create(namespace, pod("before", {"7g.40gb": 1}, node="a100"))
    lab.running(namespace, "before")
    lab.delete(namespace, "before")
    lab.create(namespace, pod("stuck", {"7g.40gb": 1}, node="a100", volumes=[volume]))
    lab.unschedulable(namespace, "stuck")
    lab.create(namespace, pod("small", {"1g.5gb": 1}, node="a100"))
    lab.running(namespace, "small")
    message = lab.event(namespace, "stuck", "MigSufficient", 'persistentvolumeclaim "nowhere" not found')
    assert message.startswith("fits on node a100 as it is, but is not bound to it: ")


def test_one_pod_with_instances_on_both_gpus(lab: Lab, namespace: str) -> None:
    lab.enable("h100")
    lab.create(namespace, pod("wide", {"4g.40gb": 2}, node="h100"))
    lab.running(namespace, "wide")
    assert all("4g.40gb@0" in held for held in lab.geometry("h100")), lab.geometry("h100")
