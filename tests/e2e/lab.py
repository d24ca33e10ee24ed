"""What the end-to-end tests do to a cluster and ask of it, in the words of its users."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from deploy.local.chart import Release
from deploy.local.cluster import Cluster
from deploy.local.process import MARKER
from n8s import catalogue, names
from n8s.v1 import gpu_pb2, inventory_pb2, inventory_pb2_grpc
from nodeagent.gpu.simulated import SimulatedNode

NEBULNETES = "nebulnetes"
"""The release's namespace."""
NODES = Path(__file__).with_name("nodes.yaml")
"""What nodes the end-to-end tests have."""
A30 = ("1g.6gb", "2g.12gb", "4g.24gb", "1g.6gb+me", "2g.12gb+me")
"""An A30's profiles: two of them cannot hold all."""


@dataclass(frozen=True)
class Lab:
    """A cluster with the chart installed.

    Attributes:
        cluster: the cluster.
        release: the chart's release in it.
        brain: address of the brain's gRPC server.
        channel: a channel to it.
    """

    cluster: Cluster
    release: Release
    brain: str
    channel: grpc.Channel

    @property
    def inventory(self) -> inventory_pb2_grpc.InventoryServiceStub:
        """The inventory, as any client sees it."""
        return inventory_pb2_grpc.InventoryServiceStub(self.channel)

    # Nodes.

    def enable(self, *nodes: str) -> None:
        """Puts the label on these nodes, takes it off all others, and waits until these are at rest.

        They keep it when the test ends: mostly the next one wants the same, and an agent takes seconds to start.
        """
        labelled = {
            node["metadata"]["name"] for node in self.cluster.api.items("nodes", labels=f"{names.AUTO_MIG_LABEL}=true")
        }
        if missing := {*nodes} - labelled:
            self.cluster.kubectl("label", "node", *sorted(missing), f"{names.AUTO_MIG_LABEL}=true")
        self.disable(*sorted(labelled - {*nodes}))
        self.at_rest(*nodes)

    def at_rest(self, *nodes: str) -> None:
        """Waits until nodes have their agents, no order and no taint."""
        for node in nodes:
            self.until(f"the agent of {node} is connected and {node} at rest", partial(self._rests, node))

    def disable(self, *nodes: str) -> None:
        """Takes the label off and waits until the nodes' agents are gone."""
        if nodes:
            self.cluster.kubectl("label", "node", *nodes, f"{names.AUTO_MIG_LABEL}-")
        for node in nodes:
            self.until(f"the agent of {node} is gone", partial(self._gone, node))

    def node(self, name: str) -> inventory_pb2.Node:
        """A node as the inventory shows it; a brain that was killed often comes back after the kubelet's back-off."""
        return self.inventory.GetNode(inventory_pb2.GetNodeRequest(name=name), timeout=60, wait_for_ready=True)

    def gpus(self, node: str) -> list[gpu_pb2.Gpu]:
        """A node's GPUs as the inventory shows them."""
        return list(self.node(node).gpus)

    def geometry(self, node: str) -> list[list[str]]:
        """What each GPU of a node holds by the hardware itself, as ``profile@start``."""
        held: list[list[str]] = [[] for _ in self.hardware(node).gpus()]
        for device in self.hardware(node).mig_devices():
            held[device.gpu].append(f"{device.profile}@{device.start}")
        return [sorted(each) for each in held]

    def hardware(self, node: str) -> SimulatedNode:
        """The simulated GPUs themselves."""
        found = self.cluster.nodes[node].hardware
        assert found is not None
        return found

    def absent(self, node: str, *profiles: str) -> str:
        """The first of some profiles of which no GPU of a node holds an instance; name too many to be held at once.

        For tests share the node, and what it holds, with those before them, whichever these are.
        """
        held = {placement.partition("@")[0] for gpu in self.geometry(node) for placement in gpu}
        absent = [profile for profile in profiles if profile not in held]
        assert absent, f"{node} holds all of {', '.join(profiles)}: {self.geometry(node)}"
        return absent[0]

    def raw_node(self, name: str) -> dict[str, Any]:
        """The node object."""
        return self.cluster.api.get("nodes", name)

    def open(self, node: str) -> bool:
        """Whether the node carries no taint of ours."""
        return all(
            taint["key"] != names.REPARTITIONING_TAINT for taint in self.raw_node(node)["spec"].get("taints", [])
        )

    # Pods.

    def create(self, namespace: str, *pods: Mapping[str, Any]) -> None:
        """Creates pods made by :func:`pod`, or what makes such pods."""
        for each in pods:
            self.cluster.api.create(each, namespace=namespace)

    def dry_run(self, namespace: str, pod: Mapping[str, Any]) -> dict[str, Any]:
        """The pod as it would be created."""
        return self.cluster.api.create(pod, namespace=namespace, dry_run=True)

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """The pod object."""
        return self.cluster.api.get("pods", name, namespace=namespace)

    def running(self, namespace: str, *pods: str, seconds: int = 40) -> None:
        """Waits until pods are Running."""
        self._wait(f"{', '.join(pods)} run", namespace, pods, _runs, seconds)

    def delete(self, namespace: str, *pods: str) -> None:
        """Deletes pods and waits until they are gone."""
        for name in pods:
            self.cluster.api.delete("pods", name, namespace=namespace)
        self.until(f"{', '.join(pods)} are gone", lambda: not {*pods} & self._pods(namespace).keys())

    def unschedulable(self, namespace: str, *pods: str, seconds: int = 20) -> None:
        """Waits until the scheduler has said that it finds no room for pods."""
        self._wait(f"{', '.join(pods)} are unschedulable", namespace, pods, _refused, seconds)

    def device(self, namespace: str, name: str) -> gpu_pb2.Instance:
        """The instance that a pod holds, by the inventory."""
        found = [
            instance
            for item in self.inventory.ListGpus(inventory_pb2.ListGpusRequest()).gpus
            for instance in item.gpu.instances
            if (instance.holder.namespace, instance.holder.pod) == (namespace, name)
        ]
        assert len(found) == 1, f"{namespace}/{name} holds {found}"
        return found[0]

    def held(self, namespace: str, name: str) -> gpu_pb2.Instance:
        """The instance that a pod holds, once the inventory shows it."""
        self.until(
            f"the inventory shows what {namespace}/{name} holds",
            lambda: any(
                (instance.holder.namespace, instance.holder.pod) == (namespace, name)
                for item in self.inventory.ListGpus(inventory_pb2.ListGpusRequest()).gpus
                for instance in item.gpu.instances
            ),
        )
        return self.device(namespace, name)

    def events(self, namespace: str, name: str) -> dict[str, list[str]]:
        """Messages of an object's events by reason, oldest first."""
        items = self.cluster.api.items("events", namespace=namespace, fields=f"involvedObject.name={name}")
        found: dict[str, list[str]] = {}
        for item in sorted(items, key=lambda item: item["metadata"]["creationTimestamp"]):
            found.setdefault(item["reason"], []).append(item["message"])
        return found

    def event(self, namespace: str, name: str, reason: str, text: str = "") -> str:
        """The message of a pod's event of a reason, once there is one that holds a text."""
        found: list[str] = []

        def told() -> bool:
            found[:] = [told for told in self.events(namespace, name).get(reason, ()) if text in told]
            return bool(found)

        self.until(f"{namespace}/{name} has an event {reason}: {text}", told)
        return found[-1]

    # Processes.

    def kill(self, module: str, *arguments: str) -> None:
        """Kills the processes of this cluster that run a module of ours with such arguments."""
        killed = 0
        for proc in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (proc / "cmdline").read_text().split("\0")
                ours = f"{MARKER}={self.cluster.id}" in (proc / "environ").read_text().split("\0")
                if ours and "-m" in line and line[line.index("-m") + 1] == module and {*arguments} <= {*line}:
                    os.kill(int(proc.name), signal.SIGKILL)
                    killed += 1
        assert killed, f"no process runs {module} {arguments}"

    def ours(self, component: str, node: str = "") -> list[dict[str, Any]]:
        """The release's pods of a component, those on a node if one is named."""
        on_node = f"spec.nodeName={node}" if node else ""
        chosen = f"app.kubernetes.io/component={component}"
        return self.cluster.api.items("pods", namespace=NEBULNETES, labels=chosen, fields=on_node)

    def metric(self, sample: str) -> float:
        """A figure of the brain's metrics, by name and labels as Prometheus writes them; 0 where it is not there."""
        (brain,) = self.ours("brain")
        with urllib.request.urlopen(f"http://{brain['status']['podIP']}:8080/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample), 0.0)

    # Time.

    def until(self, what: str, condition: Callable[[], object], seconds: float = 40.0) -> None:
        """Waits until a condition holds, looking ten times a second; where it does not, says how the cluster is."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                print(f"waited for: {what}")
                print(self._state())
                raise AssertionError(f"not within {seconds:g} s: {what}")
            time.sleep(0.1)

    def _state(self) -> str:
        """The cluster as somebody would look at it who wonders what holds it up."""
        lines = [self.cluster.kubectl("get", "pods", "-A", "-o", "wide", "--show-labels")]
        lines += [self.cluster.kubectl("get", "events", "-A", "--sort-by=.metadata.creationTimestamp")]
        lines += [f"{node}: {self.geometry(node)} open={self.open(node)}" for node in self.cluster.nodes]
        ours = self.cluster.api.items("pods", namespace=NEBULNETES)
        lines += [self.cluster.logs(item["metadata"]["name"], NEBULNETES) for item in ours]
        return "\n".join(lines)

    def _rests(self, node: str) -> bool:
        found = self.node(node)
        return found.agent.connected and not found.ordered and self.open(node)

    def _gone(self, node: str) -> bool:
        return not self.node(node).agent.connected

    def _pods(self, namespace: str) -> dict[str, dict[str, Any]]:
        """A namespace's pods by name."""
        return {item["metadata"]["name"]: item for item in self.cluster.api.items("pods", namespace=namespace)}

    def _wait(
        self, what: str, namespace: str, pods: tuple[str, ...], holds: Callable[[dict[str, Any]], bool], seconds: int
    ) -> None:
        def hold() -> bool:
            found = self._pods(namespace)
            return all(name in found and holds(found[name]) for name in pods)

        self.until(what, hold, seconds)


def _runs(pod: dict[str, Any]) -> bool:
    return bool(pod["status"]["phase"] == "Running")


def _refused(pod: dict[str, Any]) -> bool:
    """Whether the scheduler has found no room for it."""
    conditions = pod["status"].get("conditions", ())
    return any((each["type"], each["status"]) == ("PodScheduled", "False") for each in conditions)


@contextlib.contextmanager
def laboratory(nodes: Path = NODES, **options: Any) -> Iterator[Lab]:
    """A cluster with the chart installed; ``options`` are the cluster's."""
    with Cluster(nodes, **options) as cluster:
        release = Release(cluster)
        release.install()
        with release.connect() as channel:
            yield Lab(cluster, release, release.inventory_address, channel)


@contextlib.contextmanager
def slow(lab: Lab, node: str, seconds: float = 1.0) -> Iterator[None]:
    """A node's GPUs take so many seconds for each step while this lasts."""
    hardware = lab.hardware(node)
    hardware.set_times(create_seconds=seconds, destroy_seconds=seconds)
    try:
        yield
    finally:
        hardware.set_times(create_seconds=0.0, destroy_seconds=0.0)


def advertised(lab: Lab, node: str) -> dict[str, int]:
    """MIG devices that the API server says a node has."""
    allocatable = lab.raw_node(node)["status"]["allocatable"]
    return {name: int(n) for name, n in allocatable.items() if name.startswith(names.MIG_PREFIX) and n != "0"}


def asked(pod: Mapping[str, Any]) -> dict[str, int]:
    """MIG devices that a pod asks for."""
    return {name: int(count) for name, count in pod["spec"]["containers"][0]["resources"]["limits"].items()}


def plain(model: catalogue.GpuModel) -> list[catalogue.GpuProfile]:
    """A GPU model's profiles without their variants."""
    return [profile for profile in model.profiles if "+" not in profile.name and "-" not in profile.name]


def existing(lab: Lab, node: str) -> dict[str, int]:
    """MIG devices that a node's hardware has."""
    return dict(Counter(names.mig_resource(device.profile) for device in lab.hardware(node).mig_devices()))


@contextlib.contextmanager
def fresh_namespace(cluster: Cluster, name: str = "") -> Iterator[str]:
    """A new namespace; its pods and quotas are gone afterwards, however long pods would take to stop."""
    name = name or f"test-{uuid.uuid4().hex[:6]}"
    cluster.create_namespace(name)
    try:
        yield name
    finally:
        cluster.api.delete("pods", namespace=name, grace_seconds=1)
        cluster.api.delete("namespaces", name)  # from now on no controller can make pods there
        cluster.wait_for(f"the pods of {name} are gone", lambda: not cluster.api.items("pods", namespace=name), 60)
        for quotas in ("elasticquotas", "compositeelasticquotas"):  # at once; the namespace's end takes seconds
            cluster.api.delete(quotas, namespace=name)


def pod(
    name: str,
    mig: Mapping[str, int] | None = None,
    *,
    node: str = "",
    request: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A pod that asks for MIG profiles by name, on a node if one is named; it runs until it is deleted."""
    limits = {names.mig_resource(profile): str(count) for profile, count in (mig or {}).items()}
    container = {
        "name": "main",
        "image": "example/work:1",
        "env": [{"name": key, "value": value} for key, value in (environ or {}).items()],
        "resources": {"limits": limits, "requests": dict(request or {})},
    }
    chosen = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **chosen, **spec},
    }


def quota(name: str, minimum: Mapping[str, Any], maximum: Mapping[str, Any] | None = None, **spec: Any) -> str:
    """An ElasticQuota, or a CompositeElasticQuota when it lists namespaces, as JSON."""
    kind = names.COMPOSITE_ELASTIC_QUOTA if "namespaces" in spec else names.ELASTIC_QUOTA
    limits = {"min": dict(minimum)} | ({"max": dict(maximum)} if maximum else {})
    document = {
        "apiVersion": f"{names.GROUP}/{names.VERSION}",
        "kind": kind,
        "metadata": {"name": name},
        "spec": limits | spec,
    }
    return json.dumps(document)
