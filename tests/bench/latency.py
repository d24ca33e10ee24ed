"""Time from the creation of a pod to Running when a repartition is needed, with its parts.

On the local cluster, driver times zero, kubelets at their default status interval of 10 s. Seen from outside: watches
on the pod and its node, the simulated hardware and the kubelet's PodResources. What it does not show: the driver's own
time (0.1 to 0.4 s an instance on real parts) and the start of NVIDIA's device plugin (about a second).
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config

from n8s import names
from tests.e2e.lab import Lab, laboratory, pod

ROUNDS: Final = 10
NAMESPACE: Final = "latency"
NODE: Final = "n1"
PARTS: Final = ("unschedulable", "decide", "settle and apply", "plugin", "status", "untaint", "bind", "run", "total")


class Marks:
    """When things were seen first, by the machine's monotonic clock."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._changed = threading.Condition()

    def set(self, name: str) -> None:
        with self._changed:
            self.at.setdefault(name, time.monotonic())
            self._changed.notify_all()

    def wait(self, name: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: name in self.at, 60):
                raise TimeoutError(f"{name} was not seen within 60 s; seen: {self.at}")


def main() -> None:
    """Runs the rounds and prints minimum, median and maximum of each part."""
    with laboratory(Path(__file__).with_name("storm.yaml")) as lab:
        lab.cluster.create_namespace(NAMESPACE)
        lab.enable(NODE)
        rounds = [_round(lab, number) for number in range(ROUNDS)]
    print(f"{ROUNDS} rounds, kubelet status interval 10 s, driver times 0; seconds, minimum / median / maximum")
    for part in PARTS:
        values = [each[part] for each in rounds]
        print(f"  {part:18} {min(values):6.3f} {statistics.median(values):6.3f} {max(values):6.3f}")


def _round(lab: Lab, number: int) -> dict[str, float]:
    """One pod whose profile is not there: 1g and 7g by turns, each in the place of the other."""
    profile = ("1g.5gb", "7g.40gb")[number % 2]
    resource, name = names.mig_resource(profile), f"p{number}"
    marks = Marks()
    api: client.ApiClient = config.new_client_from_config(str(lab.cluster.kubeconfig))
    stop = threading.Event()
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    watchers = [
        threading.Thread(target=_watch, args=(api, pods, name, stop, _pod_marks(marks))),
        threading.Thread(target=_watch, args=(api, "/api/v1/nodes", NODE, stop, _node_marks(marks, resource))),
        threading.Thread(target=_hardware, args=(lab, profile, stop, marks)),
    ]
    for each in watchers:
        each.start()
    body = pod(name, {profile: 1}, node=NODE)
    marks.set("created")
    lab.create(NAMESPACE, body)
    try:
        marks.wait("running")
        marks.wait("untainted")
    finally:
        stop.set()
        lab.delete(NAMESPACE, name)
        for each in watchers:
            each.join()
    at = marks.at
    lab.until("the device is free", lambda: not any(i.holder.pod for gpu in lab.gpus(NODE) for i in gpu.instances))
    return {
        "unschedulable": at["unschedulable"] - at["created"],
        "decide": at["tainted"] - at["unschedulable"],
        "settle and apply": at["made"] - at["tainted"],
        "plugin": at["shown"] - at["made"],
        "status": at["allocatable"] - at["shown"],
        "untaint": at["untainted"] - at["allocatable"],
        "bind": at["bound"] - at["untainted"],
        "run": at["running"] - at["bound"],
        "total": at["running"] - at["created"],
    }


def _watch(
    api: client.ApiClient, path: str, name: str, stop: threading.Event, see: Callable[[dict[str, Any]], None]
) -> None:
    for item in _objects(api, path, name):
        see(item)
        if stop.is_set():
            return


def _objects(api: client.ApiClient, path: str, name: str) -> Iterator[dict[str, Any]]:
    """One object's states as they come; ends after 30 s or when the API server closes the watch."""
    url = f"{api.configuration.host}{path}?watch=true&timeoutSeconds=30&fieldSelector=metadata.name%3D{name}"
    answer = api.rest_client.pool_manager.request("GET", url, preload_content=False)
    buffer = b""
    for chunk in answer.stream():
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)["object"]


def _pod_marks(marks: Marks) -> Callable[[dict[str, Any]], None]:
    def see(item: dict[str, Any]) -> None:
        conditions = {each["type"]: each["status"] for each in item["status"].get("conditions", [])}
        if conditions.get("PodScheduled") == "False":
            marks.set("unschedulable")
        if item["spec"].get("nodeName"):
            marks.set("bound")
        if item["status"]["phase"] == "Running":
            marks.set("running")

    return see


def _node_marks(marks: Marks, resource: str) -> Callable[[dict[str, Any]], None]:
    def see(item: dict[str, Any]) -> None:
        tainted = any(taint["key"] == names.REPARTITIONING_TAINT for taint in item["spec"].get("taints", []))
        if tainted:
            marks.set("tainted")
        if "made" in marks.at and item["status"]["allocatable"].get(resource, "0") != "0":
            marks.set("allocatable")
        if "tainted" in marks.at and not tainted:
            marks.set("untainted")

    return see


def _hardware(lab: Lab, profile: str, stop: threading.Event, marks: Marks) -> None:
    """Looks every 5 ms at the simulated GPUs, then every 20 ms at what the kubelet, which limits calls, can give."""
    wanted: set[str] = set()
    while not wanted and not stop.is_set():
        wanted = {device.uuid for device in lab.hardware(NODE).mig_devices() if device.profile == profile}
        time.sleep(0.005)
    marks.set("made")
    while not stop.is_set():
        if wanted <= lab.cluster.nodes[NODE].device_ids():
            marks.set("shown")
            return
        time.sleep(0.02)
