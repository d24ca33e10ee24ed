"""Installs the project's Helm chart in a cluster, as its users do: with helm, and values.

The values say what is particular here: everything listens on loopback addresses, and the webhook is called by URL, as
no Service has anybody behind it. It refuses to work around the chart: what the chart does not set up is not there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from n8s import client

from .errors import ChartError, CommandError
from .process import free_port
from .workload import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

    from .cluster import Cluster

CHART: Final = REPOSITORY / "deploy" / "helm" / "nebulnetes"
NAMESPACE: Final = "nebulnetes"
NAME: Final = "nebulnetes"
LOG_LINES: Final = 15
"""Lines of each container's log in an error."""
LOOK_SECONDS: Final = 0.1
GONE_SECONDS: Final = 60.0
"""Time for pods to end; twice their usual grace period."""


class Release:
    """The release of the chart in one cluster. Its addresses stay the same through upgrades."""

    def __init__(self, cluster: Cluster, chart: Path = CHART) -> None:
        self._cluster = cluster
        self._chart = chart
        self.inventory_address = f"{cluster.address}:{free_port(cluster.address)}"
        """Where the brain serves gRPC: agents and the inventory."""
        self.webhook_address = f"{cluster.address}:{free_port(cluster.address)}"
        """Where the webhook serves HTTPS."""

    @property
    def values(self) -> dict[str, Any]:
        """The values of this cluster."""
        return {
            "kubernetesApi": {"host": self._cluster.address, "port": self._cluster.control_plane.port},
            "brain": {"grpc": {"listen": self.inventory_address}},
            "agent": {"brainAddress": self.inventory_address, "gpuDriver": "simulated"},
            "webhook": {"listen": self.webhook_address, "url": f"https://{self.webhook_address}"},
        }

    def connect(self) -> grpc.Channel:
        """A channel to the brain, with a viewer's token; to be closed by the caller.

        Raises:
            AccessError: the API server gives no token, as where the release is not installed.
        """
        return client.connect(self.inventory_address, namespace=NAMESPACE, kubeconfig=self._cluster.kubeconfig)

    def install(self, values: Mapping[str, Any] | None = None, timeout: float = 120.0) -> None:
        """Installs the chart, or upgrades it, and waits until all its pods are ready.

        Args:
            values: on top of :attr:`values`.
            timeout: seconds.

        Raises:
            ChartError: helm refused, or the pods are not ready in time.
        """
        deadline = time.monotonic() + timeout
        argv = ["upgrade", "--install", NAME, str(self._chart), "--namespace", NAMESPACE, "--create-namespace"]
        for number, layer in enumerate((self.values, values or {})):
            path = self._cluster.state / f"values-{number}.json"
            path.write_text(json.dumps(layer, indent=1))
            argv += ["--values", str(path)]
        try:
            self._helm(*argv)
        except CommandError as error:
            raise ChartError(error.output, self.describe()) from error
        while waiting := self._not_ready():
            if time.monotonic() > deadline:
                raise ChartError(f"not ready within {timeout:g} s: {', '.join(waiting)}", self.describe())
            time.sleep(LOOK_SECONDS)

    def uninstall(self) -> None:
        """Takes the release away and waits until its pods are gone.

        Raises:
            CommandError: there is none, or helm refused.
            StartError: a pod stays.
        """
        self._helm("uninstall", NAME, "--namespace", NAMESPACE)
        self._cluster.wait_for(
            "the release's pods are gone",
            lambda: not self._cluster.api.items("pods", namespace=NAMESPACE),
            GONE_SECONDS,
        )

    def describe(self) -> str:
        """The release's pods: state, reasons, the ends of their logs, and the namespace's warnings."""
        cluster = self._cluster
        lines = []
        for pod in cluster.api.items("pods", namespace=NAMESPACE):
            name, status = pod["metadata"]["name"], pod["status"]
            lines.append(f"pod {name} on {pod['spec'].get('nodeName', 'no node')}: {status.get('phase')}")
            lines += [
                f"  {condition['type']}={condition['status']}: {condition.get('message', '')}"
                for condition in status.get("conditions", [])
                if condition["status"] != "True"
            ]
            for container in status.get("containerStatuses", []):
                state = json.dumps({"now": container["state"], "before": container.get("lastState", {})})
                lines.append(f"  container {container['name']}: restarts {container['restartCount']}, {state}")
            lines += ["    " + line for line in cluster.logs(name, NAMESPACE).splitlines()[-LOG_LINES:]]
        for event in cluster.api.items("events", namespace=NAMESPACE, fields="type=Warning")[-LOG_LINES:]:
            about = event["involvedObject"]
            lines.append(f"{about['kind']} {about['name']}: {event['reason']}: {event.get('message', '')}")
        return "\n".join(lines) or f"there are no pods in namespace {NAMESPACE}"

    def _helm(self, *args: str) -> str:
        """Runs helm, which keeps its files in the cluster's directory and not in the person's home."""
        homes = {f"HELM_{kind}_HOME": str(self._cluster.state / "helm" / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        return self._cluster.run(str(self._cluster.binaries["helm"]), *args, environ=homes)

    def _not_ready(self) -> list[str]:
        """The workloads whose newest version is not wholly ready."""
        return [
            f"{kind} {item['metadata']['name']}"
            for kind in ("deployments", "daemonsets")
            for item in self._cluster.api.items(kind, namespace=NAMESPACE)
            if not rolled_out(item)
        ]


def rolled_out(workload: Mapping[str, Any]) -> bool:
    """Whether all pods of a Deployment or DaemonSet are of its newest version and ready."""
    status = workload["status"]
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return False
    wanted = workload["spec"].get("replicas")
    if wanted is None:  # a DaemonSet; the items of a list do not say their kind
        wanted = status.get("desiredNumberScheduled", 0)
        counts = [status.get("updatedNumberScheduled", 0), status.get("numberReady", 0)]
    else:
        counts = [status.get("updatedReplicas", 0), status.get("readyReplicas", 0), status.get("replicas", 0)]
    return all(count == wanted for count in counts)
