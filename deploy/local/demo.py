"""The demo: a cluster on this machine whose GPUs are repartitioned while one looks on.

It brings up the local cluster with the chart, labels the nodes, applies three quotas and pods that need other instances
than the GPUs have, and draws what each GPU holds, which pods wait and why, and how the quotas stand, until every pod
that can run does. It only looks at what any user can see: the inventory over gRPC and objects over the API.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from brain.offline import drawing
from brain.offline.drawing import Piece
from deploy.local import config
from deploy.local.chart import NAMESPACE, Release
from deploy.local.cluster import Cluster
from deploy.local.errors import LocalError
from n8s import names
from n8s.v1 import gpu_pb2, inventory_pb2, inventory_pb2_grpc

OBJECTS: Final = Path(__file__).with_name("demo.yaml")
NARROW_BAR_COLUMNS: Final = 48
"""Width of a GPU's bar on a terminal of less than :data:`WIDE_COLUMNS`."""
WIDE_COLUMNS: Final = 100
PLAIN_COLUMNS: Final = 140
"""Width of what goes to a file or a pipe."""
LOOK_SECONDS: Final = 0.3
LIMIT_SECONDS: Final = 120.0
"""After so long the demo ends even if a pod still waits."""
QUIET_SECONDS: Final = 8.0
"""After so long without a change, what waits still will go on waiting."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What the demo shows of a pod."""

    key: str
    wants: str
    phase: str
    node: str
    capacity: str
    reason: str


@dataclass(slots=True)
class Watch:
    """What was seen so far: when each pod appeared and ran, by the machine's clock."""

    created: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)

    def note(self, pods: Sequence[Pod]) -> None:
        """Remembers what is new."""
        now = time.monotonic()
        for pod in pods:
            self.created.setdefault(pod.key, now)
            if pod.phase == "Running":
                self.running.setdefault(pod.key, now)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; the exit code is 1 where the cluster could not be made."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.demo", description=__doc__.split("\n\n")[0])
    nodes_help = "YAML file with the nodes (default: three with A100, H100 and A30)"
    parser.add_argument("--nodes", type=Path, default=config.DEFAULT, help=nodes_help)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up afterwards, until Ctrl-C")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_COLUMNS)
    try:
        with Cluster(arguments.nodes, say=console.print) as cluster:
            release = Release(cluster)
            release.install()
            _show(cluster, release, console)
            if arguments.keep:
                own = Path(sys.executable).parent  # where n8s is
                programs = [cluster.binaries[name].parent for name in ("kubectl", "helm", "grpcurl")]
                folders = dict.fromkeys(map(str, [own, *programs]))
                console.print("\nThe cluster stays up until Ctrl-C. In another shell:")
                for line in (
                    f"export PATH={':'.join(folders)}:$PATH",
                    f"export KUBECONFIG={cluster.kubeconfig}",
                    f"export BRAIN={release.inventory_address}",
                    f"n={NAMESPACE} CA={cluster.state / 'brain-ca.crt'}",
                    f"kubectl get configmap {names.BRAIN_CA} -n $n -o jsonpath='{{.data.ca\\.crt}}' > $CA",
                    f"TOKEN=$(kubectl create token {names.VIEWER_ACCOUNT} -n $n --audience {names.BRAIN_AUDIENCE})",
                    'grpcurl -cacert $CA -H "authorization: Bearer $TOKEN" $BRAIN n8s.v1.InventoryService/ListGpus',
                    "kubectl get nodes,pods,namespaces,jobs -A -o json | n8s plan -",
                ):
                    console.print("  " + line, soft_wrap=True, highlight=False)
                cluster.hold()
    except LocalError as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _show(cluster: Cluster, release: Release, console: Console) -> None:
    """Labels the nodes, applies quotas and pods, and draws until all that can run does."""
    for node in cluster.nodes:
        cluster.kubectl("label", "node", node, f"{names.AUTO_MIG_LABEL}=true")
    watch = Watch()
    with release.connect() as channel:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channel)
        cluster.wait_for("every node's agent reports", lambda: _all_connected(cluster, inventory), 60)
        before = _gpus(inventory)
        console.print("\nThe GPUs before:", style="bold")
        console.print(_drawing(before, console.width))
        for namespace in sorted(_namespaces(OBJECTS.read_text())):
            cluster.create_namespace(namespace)
        began = time.monotonic()
        cluster.apply(OBJECTS.read_text())
        last, changed = "", time.monotonic()
        with Live(console=console, auto_refresh=False, transient=console.is_terminal) as live:
            while True:
                gpus, pods, quotas = _gpus(inventory), _pods(cluster), _quotas(cluster)
                watch.note(pods)
                now = time.monotonic()
                content = repr((gpus, pods, quotas))
                if content != last:
                    last, changed = content, now
                    frame = _frame(gpus, pods, quotas, now - began, console.width)
                    if console.is_terminal:
                        live.update(frame, refresh=True)
                    else:
                        console.print(frame)
                waiting = [pod for pod in pods if pod.phase != "Running"]
                settled = all(pod.reason for pod in waiting) and now - changed > QUIET_SECONDS
                if not waiting or settled or now - began > LIMIT_SECONDS:
                    break
                time.sleep(LOOK_SECONDS)
        if console.is_terminal:
            console.print(_frame(gpus, pods, quotas, time.monotonic() - began, console.width))
        console.print(_summary(pods, watch))


def _namespaces(text: str) -> set[str]:
    return {document["metadata"]["namespace"] for document in yaml.safe_load_all(text)}


def _all_connected(cluster: Cluster, inventory: inventory_pb2_grpc.InventoryServiceStub) -> bool:
    live = {item.node for item in _gpus(inventory) if item.live}
    return live >= {name for name, node in cluster.nodes.items() if node.hardware is not None}


def _gpus(inventory: inventory_pb2_grpc.InventoryServiceStub) -> list[inventory_pb2.NodeGpu]:
    answer = inventory.ListGpus(inventory_pb2.ListGpusRequest(), timeout=10, wait_for_ready=True)
    return list(answer.gpus)


def _pods(cluster: Cluster) -> list[Pod]:
    """The demo's pods, with the last that was said of why they wait."""
    reasons: dict[str, str] = {}
    events = cluster.api.items("events", fields="involvedObject.kind=Pod")
    for event in sorted(events, key=lambda event: str(event["metadata"]["creationTimestamp"])):
        if event["reason"] in {"MigNoRoom", "MigRepartitioning", "QuotaWaiting"}:
            about = event["involvedObject"]
            reasons[f"{about['namespace']}/{about['name']}"] = event["message"]
    pods = []
    for item in cluster.api.items("pods", labels="demo=nebulnetes"):
        key = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        phase = item["status"]["phase"]
        pods.append(
            Pod(
                key,
                _wants(item),
                phase,
                item["spec"].get("nodeName", ""),
                item["metadata"]["labels"].get(names.CAPACITY_LABEL, ""),
                reasons.get(key, "") if phase == "Pending" else "",
            )
        )
    return sorted(pods, key=lambda pod: pod.key)


def _wants(item: Mapping[str, Any]) -> str:
    limits = item["spec"]["containers"][0]["resources"].get("limits", {})
    return ", ".join(f"{count} {name.removeprefix(names.MIG_PREFIX)}" for name, count in sorted(limits.items()))


def _quotas(cluster: Cluster) -> list[tuple[str, dict[str, str], dict[str, str], dict[str, str]]]:
    """Name, min, max and used of each quota."""
    found = []
    for item in cluster.api.items("elasticquotas") + cluster.api.items("compositeelasticquotas"):
        name = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        spec, status = item["spec"], item.get("status", {})
        found.append((name, spec.get("min", {}), spec.get("max", {}), status.get("used", {})))
    return sorted(found, key=lambda quota: quota[0])


def _frame(
    gpus: Sequence[inventory_pb2.NodeGpu],
    pods: Sequence[Pod],
    quotas: Sequence[tuple[str, dict[str, str], dict[str, str], dict[str, str]]],
    seconds: float,
    width: int,
) -> Group:
    table = Table(title=f"Pods after {seconds:.1f} s", title_justify="left", expand=False)
    for heading in ("pod", "wants", "phase", "node", "quota", "waits because"):
        table.add_column(heading, overflow="fold")
    for pod in pods:
        style = "green" if pod.phase == "Running" else "yellow"
        table.add_row(pod.key, pod.wants, Text(pod.phase, style), pod.node, pod.capacity, pod.reason)
    shares = Table(title="Quotas", title_justify="left", expand=False)
    for heading in ("quota", "resource", "min", "max", "used"):
        shares.add_column(heading)
    for name, least, most, used in quotas:
        for resource in sorted({**least, **most}):
            shares.add_row(name, resource, *(str(side.get(resource, "-")) for side in (least, most, used)))
    return Group(Text(), _drawing(gpus, width), table, shares)


def _drawing(gpus: Sequence[inventory_pb2.NodeGpu], width: int) -> Table:
    """One bar a GPU, one cell a slot; green is used, cyan free. ``width`` is that of the terminal."""
    columns = drawing.COLUMNS if width >= WIDE_COLUMNS else NARROW_BAR_COLUMNS
    table = Table(box=None, pad_edge=False, show_header=False)
    for item in gpus:
        model = item.gpu.model.removeprefix("NVIDIA-")
        label = Text(f"{item.node} GPU {item.gpu.index} {model}", "bold" if item.live else "dim")
        table.add_row(label, drawing.bar(item.gpu.slots, _pieces(item.gpu), columns))
    table.add_row("", Text.assemble((" used ", drawing.USED), " ", (" free ", drawing.FREE), " · empty slot"))
    return table


def _pieces(gpu: gpu_pb2.Gpu) -> Iterator[Piece]:
    styles = {gpu_pb2.INSTANCE_STATE_USED: drawing.USED, gpu_pb2.INSTANCE_STATE_FREE: drawing.FREE}
    for instance in gpu.instances:
        text = f" {instance.profile} {instance.holder.pod}"
        yield Piece(instance.start, instance.size, text, styles.get(instance.state, drawing.NEW))


def _summary(pods: Sequence[Pod], watch: Watch) -> Table:
    table = Table(title="How long each pod waited", title_justify="left")
    table.add_column("pod")
    table.add_column("wanted")
    table.add_column("seconds from creation to Running", justify="right")
    for pod in pods:
        ran = watch.running.get(pod.key)
        seconds = f"{ran - watch.created[pod.key]:.1f}" if ran is not None else "waits"
        table.add_row(pod.key, pod.wants, seconds)
    return table


if __name__ == "__main__":
    sys.exit(main())
