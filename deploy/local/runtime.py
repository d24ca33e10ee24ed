"""A container runtime for the kubelet, without containers: the stand-in for containerd.

It keeps what the kubelet tells it and answers as a runtime would. Images of this repository run as real processes
(:mod:`.images`, :mod:`.workload`), all others as records. A container that was given MIG devices has a process, whose
environment names them, and holds them in the simulated hardware from when it opens them, mostly at its start, until it
has really ended, as CUDA programs do.

It refuses to remember: a runtime that starts anew knows no containers, and the kubelet makes them again. It shows no
images, networks, cgroups, users or limits.
"""
# ruff: noqa: N802, ARG002 -- names and signatures are those of the protocol

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from nodeagent.gpu.simulated import SimulatedNode

from . import images, mounts
from .errors import MountError
from .pb import cri_pb2 as pb
from .pb import cri_pb2_grpc as rpc
from .workload import REPOSITORY, Behaviour, RealProcess, Record, Sleeper, Workload, python_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf.internal.containers import ScalarMap

    Context = grpc.aio.ServicerContext[object, object]

log = logging.getLogger("runtime")

LAST_HOST: Final = 254
USER: Final = 65532
"""User that all images claim to run as, so that ``runAsNonRoot`` passes; nobody changes to it."""


@dataclass(slots=True)
class Sandbox:
    """A pod, as the runtime knows it."""

    id: str
    config: pb.PodSandboxConfig
    handler: str
    ip: str
    created: int
    ready: bool = True


@dataclass(slots=True)
class Container:
    """A container, from its creation to its removal. Times are nanoseconds since the epoch."""

    id: str
    sandbox: Sandbox
    config: pb.ContainerConfig
    environ: dict[str, str]
    workload: Workload
    created: int
    started: int = 0
    finished: int = 0
    state: pb.ContainerState.ValueType = pb.CONTAINER_CREATED
    exit_code: int = 0
    reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def log_path(self) -> str:
        """Where the kubelet wants the log; empty for none."""
        return log_path(self.sandbox.config, self.config)


class Runtime(rpc.RuntimeServiceServicer):
    """The runtime service of one node."""

    def __init__(self, network: str, hardware: SimulatedNode) -> None:
        """An empty runtime.

        Args:
            network: first three parts of the pods' addresses, e.g. ``127.5.1``.
            hardware: the node's GPUs, be they none.
        """
        self._network = network
        self._hardware = hardware
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Container] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends all containers."""
        await self._end([c for c in self._containers.values() if c.state == pb.CONTAINER_RUNNING])

    # The runtime itself.

    async def Version(self, request: pb.VersionRequest, context: object) -> pb.VersionResponse:
        """Who speaks."""
        return pb.VersionResponse(
            version="0.1.0", runtime_name="nebulnetes-local", runtime_version="0.1.0", runtime_api_version="v1"
        )

    async def Status(self, request: pb.StatusRequest, context: object) -> pb.StatusResponse:
        """Always ready."""
        conditions = [pb.RuntimeCondition(type=kind, status=True) for kind in ("RuntimeReady", "NetworkReady")]
        return pb.StatusResponse(status=pb.RuntimeStatus(conditions=conditions))

    async def RuntimeConfig(self, request: pb.RuntimeConfigRequest, context: object) -> pb.RuntimeConfigResponse:
        """The driver for cgroups, which are not used."""
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CGROUPFS))

    async def UpdateRuntimeConfig(
        self, request: pb.UpdateRuntimeConfigRequest, context: object
    ) -> pb.UpdateRuntimeConfigResponse:
        """Nothing to configure."""
        return pb.UpdateRuntimeConfigResponse()

    # Pods.

    async def RunPodSandbox(self, request: pb.RunPodSandboxRequest, context: Context) -> pb.RunPodSandboxResponse:
        """A new pod with an address of its own."""
        taken = {sandbox.ip for sandbox in self._sandboxes.values()}
        free = (f"{self._network}.{host}" for host in range(2, LAST_HOST + 1))
        ip = next((address for address in free if address not in taken), None)
        if ip is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"no free address in {self._network}.0/24")
        sandbox = Sandbox(_new_id(), request.config, request.runtime_handler, str(ip), time.time_ns())
        self._sandboxes[sandbox.id] = sandbox
        return pb.RunPodSandboxResponse(pod_sandbox_id=sandbox.id)

    async def StopPodSandbox(self, request: pb.StopPodSandboxRequest, context: object) -> pb.StopPodSandboxResponse:
        """Ends what still runs in the pod."""
        sandbox = self._sandboxes.get(request.pod_sandbox_id)
        if sandbox is not None:
            await self._end([c for c in self._of(sandbox) if c.state == pb.CONTAINER_RUNNING])
            sandbox.ready = False
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: pb.RemovePodSandboxRequest, context: object
    ) -> pb.RemovePodSandboxResponse:
        """Forgets the pod and its containers."""
        sandbox = self._sandboxes.get(request.pod_sandbox_id)
        if sandbox is not None:
            await self._end([c for c in self._of(sandbox) if c.state == pb.CONTAINER_RUNNING])
            for container in self._of(sandbox):
                del self._containers[container.id]
            self._sandboxes.pop(sandbox.id, None)
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: pb.PodSandboxStatusRequest, context: Context
    ) -> pb.PodSandboxStatusResponse:
        """The pod's state and address."""
        sandbox = await self._sandbox(request.pod_sandbox_id, context)
        config = sandbox.config
        status = pb.PodSandboxStatus(
            id=sandbox.id,
            metadata=config.metadata,
            state=_sandbox_state(sandbox),
            created_at=sandbox.created,
            network=pb.PodSandboxNetworkStatus(ip=sandbox.ip if sandbox.ready else ""),
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=sandbox.handler,
            linux=pb.LinuxPodSandboxStatus(
                namespaces=pb.Namespace(options=config.linux.security_context.namespace_options)
            ),
        )
        return pb.PodSandboxStatusResponse(
            status=status, containers_statuses=[_status(c) for c in self._of(sandbox)], timestamp=time.time_ns()
        )

    async def ListPodSandbox(self, request: pb.ListPodSandboxRequest, context: object) -> pb.ListPodSandboxResponse:
        """The pods that a filter lets through."""
        wanted = request.filter
        items = [
            pb.PodSandbox(
                id=sandbox.id,
                metadata=sandbox.config.metadata,
                state=_sandbox_state(sandbox),
                created_at=sandbox.created,
                labels=sandbox.config.labels,
                annotations=sandbox.config.annotations,
                runtime_handler=sandbox.handler,
            )
            for sandbox in self._sandboxes.values()
            if sandbox.id.startswith(wanted.id)
            and (not wanted.HasField("state") or wanted.state.state == _sandbox_state(sandbox))
            and _selected(wanted.label_selector, sandbox.config.labels)
        ]
        return pb.ListPodSandboxResponse(items=items)

    # Containers.

    async def CreateContainer(self, request: pb.CreateContainerRequest, context: Context) -> pb.CreateContainerResponse:
        """A new container, not started yet. Refuses mounts that would touch the machine."""
        sandbox = await self._sandbox(request.pod_sandbox_id, context)
        environ = {variable.key: variable.value.decode(errors="replace") for variable in request.config.envs}
        try:
            workload = _workload(sandbox.config, request.config, environ)
        except (MountError, ValueError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        container = Container(_new_id(), sandbox, request.config, environ, workload, time.time_ns())
        self._containers[container.id] = container
        return pb.CreateContainerResponse(container_id=container.id)

    async def StartContainer(self, request: pb.StartContainerRequest, context: Context) -> pb.StartContainerResponse:
        """Starts it, with the MIG devices that it was given."""
        container = await self._container(request.container_id, context)
        given = _given(container.environ)
        known = {device.uuid for device in self._hardware.mig_devices()} if given else set()
        missing = next((device for device in given if device not in known), None)
        if missing is not None:
            await context.abort(grpc.StatusCode.UNKNOWN, f"nvidia-container-runtime: no MIG device {missing}")
        await container.workload.start()
        container.started, container.state = time.time_ns(), pb.CONTAINER_RUNNING
        opens = Behaviour.of(container.environ).open_seconds
        if opens:
            asyncio.get_running_loop().call_later(opens, self._open, container)
        else:
            self._open(container)
        watcher = asyncio.create_task(self._watch(container))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return pb.StartContainerResponse()

    async def StopContainer(self, request: pb.StopContainerRequest, context: Context) -> pb.StopContainerResponse:
        """SIGTERM, and SIGKILL when the time (seconds) is over."""
        container = self._containers.get(request.container_id)
        if container is not None and container.state == pb.CONTAINER_RUNNING:
            if request.timeout > 0:
                container.workload.terminate()
                try:
                    async with asyncio.timeout(request.timeout):
                        await container.ended.wait()
                except TimeoutError:
                    log.info("%s did not end within %d s", _name(container), request.timeout)
            await self._end([container])
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest, context: object) -> pb.RemoveContainerResponse:
        """Forgets it."""
        container = self._containers.get(request.container_id)
        if container is not None:
            if container.state == pb.CONTAINER_RUNNING:
                await self._end([container])
            self._containers.pop(container.id, None)
        return pb.RemoveContainerResponse()

    async def ListContainers(self, request: pb.ListContainersRequest, context: object) -> pb.ListContainersResponse:
        """The containers that a filter lets through."""
        wanted = request.filter
        containers = [
            pb.Container(
                id=container.id,
                pod_sandbox_id=container.sandbox.id,
                metadata=container.config.metadata,
                image=container.config.image,
                image_ref=container.config.image.image,
                image_id=container.config.image.image,
                state=container.state,
                created_at=container.created,
                labels=container.config.labels,
                annotations=container.config.annotations,
            )
            for container in self._containers.values()
            if container.id.startswith(wanted.id)
            and wanted.pod_sandbox_id in ("", container.sandbox.id)
            and (not wanted.HasField("state") or wanted.state.state == container.state)
            and _selected(wanted.label_selector, container.config.labels)
        ]
        return pb.ListContainersResponse(containers=containers)

    async def ContainerStatus(self, request: pb.ContainerStatusRequest, context: Context) -> pb.ContainerStatusResponse:
        """How it stands; verbose, with the id of its process as ``pid`` while it has one."""
        container = await self._container(request.container_id, context)
        pid = container.workload.pid if container.state == pb.CONTAINER_RUNNING else None
        info = {"pid": str(pid)} if request.verbose and pid is not None else {}
        return pb.ContainerStatusResponse(status=_status(container), info=info)

    async def UpdateContainerResources(
        self, request: pb.UpdateContainerResourcesRequest, context: Context
    ) -> pb.UpdateContainerResourcesResponse:
        """Keeps the new numbers; nothing enforces them."""
        container = await self._container(request.container_id, context)
        container.config.linux.resources.CopyFrom(request.linux)
        return pb.UpdateContainerResourcesResponse()

    async def UpdatePodSandboxResources(
        self, request: pb.UpdatePodSandboxResourcesRequest, context: object
    ) -> pb.UpdatePodSandboxResourcesResponse:
        """Nothing enforces them."""
        return pb.UpdatePodSandboxResourcesResponse()

    async def ReopenContainerLog(
        self, request: pb.ReopenContainerLogRequest, context: Context
    ) -> pb.ReopenContainerLogResponse:
        """The kubelet has moved the log away."""
        (await self._container(request.container_id, context)).workload.reopen_log()
        return pb.ReopenContainerLogResponse()

    async def ExecSync(self, request: pb.ExecSyncRequest, context: Context) -> pb.ExecSyncResponse:
        """Runs a command in the container; a timeout of 0 seconds is none."""
        container = await self._container(request.container_id, context)
        try:
            async with asyncio.timeout(request.timeout or None):
                code, out, error = await container.workload.execute(list(request.cmd))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {request.timeout} s")
        return pb.ExecSyncResponse(exit_code=code, stdout=out, stderr=error)

    async def ListContainerStats(
        self, request: pb.ListContainerStatsRequest, context: object
    ) -> pb.ListContainerStatsResponse:
        """Nothing is measured."""
        return pb.ListContainerStatsResponse()

    async def ListPodSandboxStats(
        self, request: pb.ListPodSandboxStatsRequest, context: object
    ) -> pb.ListPodSandboxStatsResponse:
        """Nothing is measured."""
        return pb.ListPodSandboxStatsResponse()

    # Inside.

    def _of(self, sandbox: Sandbox) -> list[Container]:
        return [container for container in self._containers.values() if container.sandbox is sandbox]

    async def _sandbox(self, sandbox_id: str, context: Context) -> Sandbox:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no sandbox {sandbox_id}")
        return sandbox

    async def _container(self, container_id: str, context: Context) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no container {container_id}")
        return container

    def _open(self, container: Container) -> None:
        """Opens the container's MIG devices, unless it has ended; without one of them it ends."""
        pid = container.workload.pid
        if pid is None or container.ended.is_set():
            return
        try:
            for device in _given(container.environ):
                self._hardware.hold(device, pid)
        except KeyError as error:
            log.warning("%s: %s", _name(container), error.args[0])
            container.workload.kill()

    async def _watch(self, container: Container) -> None:
        """Waits for the container's end; only then are its devices free."""
        code = await container.workload.wait()
        if container.workload.pid is not None:
            self._hardware.release(container.workload.pid)
            log.info("%s ended with %d", _name(container), code)
        container.exit_code, container.reason = code, "Error" if code else "Completed"
        container.finished, container.state = time.time_ns(), pb.CONTAINER_EXITED
        container.ended.set()

    async def _end(self, containers: list[Container]) -> None:
        for container in containers:
            if not container.ended.is_set():
                container.workload.kill()
        for container in containers:
            await container.ended.wait()


class Images(rpc.ImageServiceServicer):
    """The image service: every image is there, and none has any content."""

    async def ListImages(self, request: pb.ListImagesRequest, context: object) -> pb.ListImagesResponse:
        """None: so the kubelet has none to remove."""
        return pb.ListImagesResponse()

    async def ImageStatus(self, request: pb.ImageStatusRequest, context: object) -> pb.ImageStatusResponse:
        """Present, whatever it is."""
        name = request.image.image
        image = pb.Image(id=name, repo_tags=[name], size=1, uid=pb.Int64Value(value=USER), spec=request.image)
        return pb.ImageStatusResponse(image=image)

    async def PullImage(self, request: pb.PullImageRequest, context: object) -> pb.PullImageResponse:
        """Done at once."""
        return pb.PullImageResponse(image_ref=request.image.image)

    async def RemoveImage(self, request: pb.RemoveImageRequest, context: object) -> pb.RemoveImageResponse:
        """Nothing to remove."""
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, request: pb.ImageFsInfoRequest, context: object) -> pb.ImageFsInfoResponse:
        """A file system that is as good as empty."""
        usage = pb.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=pb.FilesystemIdentifier(mountpoint="/"),
            used_bytes=pb.UInt64Value(value=1),
            inodes_used=pb.UInt64Value(value=1),
        )
        return pb.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])


def log_path(pod: pb.PodSandboxConfig, container: pb.ContainerConfig) -> str:
    """Where the kubelet wants a container's log; empty for none."""
    if not pod.log_directory or not container.log_path:
        return ""
    return str(Path(pod.log_directory) / container.log_path)


def _workload(pod: pb.PodSandboxConfig, config: pb.ContainerConfig, environ: Mapping[str, str]) -> Workload:
    """What a container is to run.

    Raises:
        MountError: a mount of a real process has no place.
        ValueError: a ``FAKE_...`` variable is not a number.
    """
    path = log_path(pod, config)
    entry = images.entry_point(config.image.image)
    if entry is None:
        behaviour, log_file = Behaviour.of(environ), Path(path) if path else None
        return Sleeper(behaviour, log_file, environ) if _given(environ) else Record(behaviour, log_file)
    argv = list(config.command) or [sys.executable, "-m", entry.module]
    wanted = [
        mounts.Mount(m.host_path, m.container_path, m.readonly, Path(m.host_path).is_dir()) for m in config.mounts
    ]
    return RealProcess(
        [*argv, *config.args],
        name="" if config.command else entry.process_name,
        environ={**python_environment(), **environ},
        mounts=mounts.commands(wanted),
        cwd=config.working_dir or str(REPOSITORY),
        log=Path(path or os.devnull),
    )


def _given(environ: Mapping[str, str]) -> list[str]:
    """UUIDs of the MIG devices that a container was given."""
    return [device for device in environ.get("NVIDIA_VISIBLE_DEVICES", "").split(",") if device.startswith("MIG-")]


def _status(container: Container) -> pb.ContainerStatus:
    config = container.config
    return pb.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=container.state,
        created_at=container.created,
        started_at=container.started,
        finished_at=container.finished,
        exit_code=container.exit_code,
        reason=container.reason,
        image=config.image,
        image_ref=config.image.image,
        image_id=config.image.image,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=container.log_path,
        resources=pb.ContainerResources(linux=config.linux.resources),
    )


def _sandbox_state(sandbox: Sandbox) -> pb.PodSandboxState.ValueType:
    return pb.SANDBOX_READY if sandbox.ready else pb.SANDBOX_NOTREADY


def _selected(selector: ScalarMap[str, str], labels: ScalarMap[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _name(container: Container) -> str:
    pod = container.sandbox.config.metadata
    return f"{pod.namespace}/{pod.name}/{container.config.metadata.name}"


def _new_id() -> str:
    return uuid.uuid4().hex * 2


def _hardware(directory: str) -> SimulatedNode:
    """The node's GPUs with nothing open: a runtime that starts has no containers."""
    hardware = SimulatedNode(directory)
    for gpu in hardware.gpus():
        for instance in gpu.instances:
            for pid in instance.processes:
                hardware.release(pid)
    return hardware


async def serve(socket: str, runtime: Runtime, until: Callable[[asyncio.Event], None]) -> None:
    """Serves both services on a unix socket.

    Args:
        socket: path.
        runtime: the runtime service.
        until: is handed the event that ends the serving.
    """
    server = grpc.aio.server()
    rpc.add_RuntimeServiceServicer_to_server(runtime, server)
    rpc.add_ImageServiceServicer_to_server(Images(), server)
    server.add_insecure_port(f"unix://{socket}")
    stop = asyncio.Event()
    until(stop)
    await server.start()
    await stop.wait()
    await runtime.close()
    await server.stop(0.2)


def main() -> None:
    """The program: serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.runtime", description=__doc__)
    parser.add_argument("--socket", required=True, help="unix socket to serve on")
    parser.add_argument("--network", required=True, help="first three parts of pod addresses, e.g. 127.5.1")
    parser.add_argument("--hardware", required=True, help="directory of the simulated GPUs")
    args = parser.parse_args()
    Path(args.socket).unlink(missing_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        runtime = Runtime(args.network, _hardware(args.hardware))
        await serve(args.socket, runtime, lambda stop: loop.add_signal_handler(signal.SIGTERM, stop.set))

    asyncio.run(run())


if __name__ == "__main__":
    main()
