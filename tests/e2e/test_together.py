"""Pods that other pods matter to, judged by the real scheduler; GPUs are simulated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.lab import Lab, pod

pytestmark = pytest.mark.e2e

HOST = "kubernetes.io/hostname"


def job(name: str, profile: str, parallelism: int, node: str) -> dict[str, Any]:
    """A Job whose pods each ask for one instance."""
    template = pod(name, {profile: 1}, node=node)
    spec = {**template["spec"], "restartPolicy": "Never"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"parallelism": parallelism, "completions": parallelism, "template": {"spec": spec}},
    }


def names_of(lab: Lab, namespace: str, name: str) -> list[str]:
    """Pods of a Job."""
    pods = lab.cluster.api.items("pods", namespace=namespace, labels=f"batch.kubernetes.io/job-name={name}")
    return sorted(each["metadata"]["name"] for each in pods)


def test_a_job_gets_room_for_all_its_pods_or_for_none(lab: Lab, namespace: str) -> None:
    lab.enable("h100")
    fit = {"3g.40gb": 4, "4g.40gb": 2, "7g.80gb": 2, "2g.20gb": 6}  # of which two GPUs cannot hold one each
    profile = lab.absent("h100", *fit)
    room = fit[profile]
    before = lab.geometry("h100")
    lab.create(namespace, job("large", profile, room + 1, "h100"))
    lab.until("its pods are there", lambda: len(names_of(lab, namespace, "large")) == room + 1)
    assert lab.geometry("h100") == before
    for name in names_of(lab, namespace, "large"):
        together = f"no room for {room + 1} pods of its group together"
        lab.event(namespace, name, "MigNoRoom", together)
    assert lab.geometry("h100") == before
    lab.cluster.kubectl("delete", "job", "-n", namespace, "large", "--wait=true")

    lab.create(namespace, job("fits", profile, room, "h100"))
    lab.until("its pods are there", lambda: len(names_of(lab, namespace, "fits")) == room)
    lab.running(namespace, *names_of(lab, namespace, "fits"))
    lab.cluster.kubectl("delete", "job", "-n", namespace, "fits", "--wait=true")


def test_pods_that_keep_apart_get_instances_on_different_nodes(lab: Lab, namespace: str) -> None:
    """1g.10gb is a profile of both models."""
    selector = {"matchLabels": {"app": "apart"}}
    terms = [{"topologyKey": HOST, "labelSelector": selector}]
    apart: dict[str, Any] = {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
    pods = [pod(f"apart-{number}", {"1g.10gb": 1}, **apart) for number in range(3)]
    for each in pods:
        each["metadata"]["labels"] = {"app": "apart"}
    lab.enable("a100", "h100")
    lab.create(namespace, *pods[:2])
    lab.running(namespace, "apart-0", "apart-1")
    assert {lab.pod(namespace, f"apart-{number}")["spec"]["nodeName"] for number in range(2)} == {"a100", "h100"}
    lab.create(namespace, pods[2])
    refused = "does not satisfy the pod's anti-affinity to other pods (a100, h100)"
    lab.event(namespace, "apart-2", "MigNoRoom", refused)
    lab.delete(namespace, "apart-0")
    lab.running(namespace, "apart-2")
