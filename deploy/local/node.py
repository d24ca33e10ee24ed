"""One node: a mount namespace, and in it a real kubelet, the stand-in runtime and simulated GPUs.

The kubelet's directories are compiled in (its device-plugin directory above all), so nodes on one machine are told
apart by what their processes see at ``/var/lib`` and ``/var/log``. A process that does nothing holds the namespace, so
that kubelet and runtime may each be restarted alone and find the volumes that the other has mounted. Sysctls that a
kubelet would write are covered by files: the machine stays as it is.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Final

import grpc
import yaml

from n8s import names
from n8s.kubelet import podresources_pb2, podresources_pb2_grpc
from nodeagent.gpu.simulated import SimulatedNode

from .errors import StartError
from .pb import cri_pb2, cri_pb2_grpc
from .process import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .config import Gpus, NodeSpec
    from .pki import Authority

SIMULATION_DIR: Final = "/var/lib/nebulnetes-sim"
"""Where a node's containers find its GPUs, as a hostPath."""
CRI_SOCKET: Final = "/var/lib/nebulnetes-cri.sock"
START_SECONDS: Final = 30.0
SYSCTLS: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet sets where it finds something else."""
FAMILIES: Final = {
    "A": "ampere",
    "H": "hopper",
    "GH": "hopper",
    "B": "blackwell",
    "GB": "blackwell",
    "RTX": "blackwell",
}
"""Architecture by the letters that a model's name starts with."""
HOLDER: Final = """
set -e
mount --bind "$1/varlib" /var/lib
mount --bind "$1/varlog" /var/log
cd "$1/sysctl"
for f in $(find . -type f); do if [ -e "/proc/sys/$f" ]; then mount --bind "$f" "/proc/sys/$f"; fi; done
cd /
: >"$1/mounted"
exec sleep infinity
"""


class Node:
    """A node of the cluster. Its kubelet and runtime may be stopped and started."""

    def __init__(
        self,
        spec: NodeSpec,
        directory: Path,
        *,
        network: str,
        status_seconds: float,
        kubelet: Path,
        authority: Authority,
        server: str,
        environ: Mapping[str, str],
    ) -> None:
        """Lays the node's directory and hardware down; :meth:`start` runs it.

        Args:
            spec: name, GPUs and what is particular.
            directory: of this node; made here.
            network: first three parts of its addresses, e.g. ``127.5.1``: the kubelet has .1, pods the rest.
            status_seconds: how often the kubelet looks at its status (``nodeStatusUpdateFrequency``), unless ``spec``
                says it.
            kubelet: the program.
            authority: signs the kubelet's client certificate, and is whom the kubelet trusts.
            server: URL of the API server.
            environ: environment of the processes.
        """
        self.name = spec.name
        self.spec = spec
        self.directory = directory
        self._network = network
        self._status_seconds = spec.status_seconds or status_seconds
        for private in ("varlib", "varlog"):
            (directory / private).mkdir(parents=True)
        for name, value in SYSCTLS.items():
            covered = directory / "sysctl" / name
            covered.parent.mkdir(parents=True, exist_ok=True)
            covered.write_text(value + "\n")
        gpus = [] if spec.gpus is None else [(spec.gpus.model.key, spec.gpus.count)]
        self.hardware = SimulatedNode.install(self.on_machine(SIMULATION_DIR), gpus)
        """The node's GPUs, be they none."""
        script = ["unshare", "--mount", "--propagation", "private", "bash", "-c", HOLDER, "holder", str(directory)]
        self._holder = Process(f"{self.name}/namespace", script, directory / "namespace.log", environ)
        self._namespace = directory / "namespace"
        inside = ["nsenter", f"--mount={self._namespace}", "--"]
        served = ["--socket", CRI_SOCKET, "--network", network, "--hardware", SIMULATION_DIR]
        program = [sys.executable, "-m", "deploy.local.runtime", *served]
        self.runtime = Process(f"{self.name}/runtime", [*inside, *program], directory / "runtime.log", environ)
        """The stand-in container runtime. When it starts anew, the kubelet makes all containers again."""
        config = directory / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._kubelet_configuration(authority.cert)))
        kubeconfig = authority.kubeconfig(f"kubelet-{self.name}", server, f"system:node:{self.name}", ["system:nodes"])
        flags = [
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            "-v=2",
        ]
        if spec.gpus is not None:
            labels = gpu_labels(spec.gpus)
            flags.append("--node-labels=" + ",".join(f"{key}={value}" for key, value in labels.items()))
        self.kubelet = Process(
            f"{self.name}/kubelet", [*inside, str(kubelet), *flags], directory / "kubelet.log", environ
        )
        """The kubelet. Containers go on without it."""

    @property
    def processes(self) -> tuple[Process, ...]:
        """All that make the node, in the order in which they start."""
        return (self._holder, self.runtime, self.kubelet)

    def start_runtime(self) -> None:
        """Makes the namespace and starts the runtime in it; does not wait for that.

        Raises:
            StartError: the namespace could not be made.
        """
        for stale in (self._namespace, self.directory / "mounted", self.on_machine(CRI_SOCKET)):
            stale.unlink(missing_ok=True)
        self._holder.start()
        self._holder.wait_until((self.directory / "mounted").exists, "set up", START_SECONDS)
        self._namespace.symlink_to(f"/proc/{self._holder.pid}/ns/mnt")
        self.runtime.start()

    def start_kubelet(self) -> None:
        """Starts the kubelet when the runtime serves.

        Raises:
            StartError: the runtime does not.
        """
        self.runtime.wait_until(self.on_machine(CRI_SOCKET).exists, "serving", START_SECONDS)
        self.kubelet.start()

    def cut_power(self) -> None:
        """Everything on the node is dead at once, and with it the GPU instances and all mounts; its disk stays."""
        for process in reversed(self.processes):
            process.stop(sig=signal.SIGKILL)
        self.hardware.reboot()

    def on_machine(self, path: str) -> Path:
        """Where the machine has a path that the node sees below ``/var/lib`` or ``/var/log``."""
        for private, seen in (("varlib", "/var/lib/"), ("varlog", "/var/log/")):
            if path.startswith(seen):
                return self.directory / private / path.removeprefix(seen)
        raise ValueError(f"{path} is not the node's own")

    def device_ids(self) -> set[str]:
        """UUIDs of the MIG devices that the kubelet could give to pods, by its PodResources API.

        Raises:
            StartError: the kubelet does not answer.
        """
        with self._pod_resources() as stub:
            answer = stub.GetAllocatableResources(podresources_pb2.AllocatableResourcesRequest(), timeout=2)
        return {uuid for device in answer.devices for uuid in device.device_ids}

    def held_devices(self) -> list[tuple[str, str, str]]:
        """What the kubelet has given to pods, by its PodResources API: pod (``namespace/name``), resource, UUID.

        Raises:
            StartError: the kubelet does not answer.
        """
        with self._pod_resources() as stub:
            answer = stub.List(podresources_pb2.ListPodResourcesRequest(), timeout=2)
        return [
            (f"{pod.namespace}/{pod.name}", device.resource_name, uuid)
            for pod in answer.pod_resources
            for container in pod.containers
            for device in container.devices
            for uuid in device.device_ids
        ]

    def pids(self, namespace: str, pod: str) -> list[int]:
        """Ids of the processes that a pod's running containers are; records have none.

        Raises:
            StartError: the runtime does not answer.
        """
        labels = {"io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": pod}
        with grpc.insecure_channel(f"unix://{self._seen_from_outside(CRI_SOCKET)}") as channel:
            stub = cri_pb2_grpc.RuntimeServiceStub(channel)
            wanted = cri_pb2.ContainerFilter(label_selector=labels)
            try:
                listed = stub.ListContainers(cri_pb2.ListContainersRequest(filter=wanted), timeout=5).containers
                requests = [cri_pb2.ContainerStatusRequest(container_id=each.id, verbose=True) for each in listed]
                answers = [stub.ContainerStatus(request, timeout=5) for request in requests]
            except grpc.RpcError as error:
                raise StartError(self.runtime.name, f"does not answer: {error}") from error
        return [int(answer.info["pid"]) for answer in answers if "pid" in answer.info]

    def logs(self, namespace: str, pod: str, uid: str) -> list[Path]:
        """Log files of a pod's containers, by container and then by restart."""
        directory = self.on_machine("/var/log/pods") / f"{namespace}_{pod}_{uid}"
        return sorted(directory.glob("*/*.log"), key=lambda path: (path.parent.name, int(path.stem)))

    @contextlib.contextmanager
    def _pod_resources(self) -> Iterator[podresources_pb2_grpc.PodResourcesListerStub]:
        """The kubelet's PodResources API; errors of calls come out as StartError."""
        socket = self._seen_from_outside("/var/lib/kubelet/pod-resources/kubelet.sock")
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            try:
                yield podresources_pb2_grpc.PodResourcesListerStub(channel)
            except grpc.RpcError as error:
                raise StartError(self.kubelet.name, f"does not answer on PodResources: {error}") from error

    def _seen_from_outside(self, path: str) -> str:
        """A path of the node, as a name that is short enough for a unix socket wherever the node's directory lies."""
        return f"/proc/{self._holder.pid}/root{path}"

    def _kubelet_configuration(self, client_ca: Path) -> dict[str, object]:
        address = f"{self._network}.1"
        disks = ("nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "port": free_port(address),
            "healthzBindAddress": address,
            "healthzPort": free_port(address),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(client_ca)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{CRI_SOCKET}",
            "nodeStatusUpdateFrequency": f"{self._status_seconds:g}s",
            "nodeStatusReportFrequency": "5m",  # what has not changed; the default, but only where both are left out
            # No cgroups: nothing here is limited, so nothing is to be set up or checked.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            # The machine's network and disks are not the node's.
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            "clusterDNS": ["10.96.0.10"],  # nobody answers there, but without it each pod gets a warning
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "1Mi", **dict.fromkeys(disks, "0%")},
            "imageGCHighThresholdPercent": 100,
            "volumeStatsAggPeriod": "0s",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
            # Many pods at once are normal in tests, and the API server is near.
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            # A program that is killed again and again on purpose need not stay away; 1 s is the least that is allowed.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
        }


def gpu_labels(gpus: Gpus) -> dict[str, str]:
    """What NVIDIA's GPU feature discovery says of a node with these GPUs, with MIG strategy ``mixed``.

    Its labels per MIG profile are left out: it refreshes them once a minute, and nothing here reads them. The GPU's
    memory in MiB is left out where the catalogue does not know it.
    """
    model = gpus.model
    whole = model.largest.memory_mib
    memory = {} if whole is None else {names.GPU_MEMORY_LABEL: str(whole)}
    letters = model.key.split("-")[0].rstrip("0123456789")
    return {
        "nvidia.com/gpu.present": "true",
        names.GPU_PRODUCT_LABEL: model.product_names[0],
        "nvidia.com/gpu.count": str(gpus.count),
        **memory,
        "nvidia.com/gpu.family": FAMILIES[letters],
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/mig.capable": "true",
        names.MIG_STRATEGY_LABEL: "mixed",
    }
