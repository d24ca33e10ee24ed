"""What an agent speaks to, in this process: a kubelet, a device plugin and a brain.

The kubelet answers over gRPC on a unix socket as PodResources does; the device plugin is a process of its own that
looks at simulated hardware at its start and on SIGHUP and writes what it found into a file, which the kubelet reads.
They do not show: registration, health and allocation of devices, pods, admission. The brain believes any token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from n8s import names
from n8s.kubelet import podresources_pb2 as kubelet_pb
from n8s.kubelet.podresources_pb2_grpc import PodResourcesListerServicer, add_PodResourcesListerServicer_to_server
from n8s.v1 import agent_pb2, gpu_pb2
from n8s.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from tests import tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PLUGIN = Path(__file__).with_name("plugin_process.py")


class StandInKubelet(PodResourcesListerServicer):
    """Gives devices to pods as told, and knows the devices that the plugin's file lists (resource to ids).

    It refuses the next ``too_fast`` questions for devices of pods, as by its rate limit.
    """

    def __init__(self, devices_file: Path) -> None:
        self.devices_file = devices_file
        self.held: dict[str, tuple[str, str]] = {}
        self.too_fast = 0

    def give(self, device: str, profile: str, pod: str) -> None:
        self.held[device] = (names.mig_resource(profile), pod)

    async def List(  # noqa: N802
        self,
        request: object,  # noqa: ARG002
        context: grpc.aio.ServicerContext[object, object],
    ) -> kubelet_pb.ListPodResourcesResponse:
        if self.too_fast:
            self.too_fast -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        return kubelet_pb.ListPodResourcesResponse(
            pod_resources=[
                kubelet_pb.PodResources(
                    name=pod,
                    namespace="default",
                    containers=[
                        kubelet_pb.ContainerResources(
                            name="main",
                            devices=[kubelet_pb.ContainerDevices(resource_name=resource, device_ids=[device])],
                        )
                    ],
                )
                for device, (resource, pod) in self.held.items()
            ]
        )

    async def GetAllocatableResources(  # noqa: N802
        self,
        request: object,  # noqa: ARG002
        context: object,  # noqa: ARG002
    ) -> kubelet_pb.AllocatableResourcesResponse:
        listed = json.loads(self.devices_file.read_text()) if self.devices_file.exists() else {}
        devices = [kubelet_pb.ContainerDevices(resource_name=name, device_ids=ids) for name, ids in listed.items()]
        devices.append(kubelet_pb.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=["GPU-1"]))
        return kubelet_pb.AllocatableResourcesResponse(devices=devices)


@contextlib.asynccontextmanager
async def kubelet_serving(socket: Path, devices_file: Path) -> AsyncIterator[StandInKubelet]:
    kubelet = StandInKubelet(devices_file)
    server = grpc.aio.server()
    add_PodResourcesListerServicer_to_server(kubelet, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield kubelet
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def plugin_running(
    directory: Path,
    *,
    socket: str = "nvidia-mig.sock",
    simulation: Path | None = None,
    devices_file: Path | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that listens on ``socket`` in ``directory``; it is ready when this returns."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PLUGIN),
        str(directory / socket),
        str(simulation or ""),
        str(devices_file or ""),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


class StandInBrain(AgentServiceServicer):
    """Takes sessions and keeps what the agents said; ``orders`` go to the session that is open."""

    def __init__(self) -> None:
        self.said: list[agent_pb2.AgentMessage] = []
        self.sessions = 0
        self.refuse = 0
        self.refusal = grpc.StatusCode.ABORTED
        self.tokens: list[str | bytes] = []
        self._changed = asyncio.Condition()
        self._send: asyncio.Queue[agent_pb2.BrainMessage | None] = asyncio.Queue()

    async def Session(  # noqa: N802
        self, requests: AsyncIterator[agent_pb2.AgentMessage], context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[agent_pb2.BrainMessage]:
        self.sessions += 1
        self.tokens += [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if self.refuse:
            self.refuse -= 1
            await anext(requests)
            await context.abort(self.refusal, "replaced")
        self._send = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests))
        await context.send_initial_metadata(())
        try:
            while (message := await self._send.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[agent_pb2.AgentMessage]) -> None:
        async for message in requests:
            async with self._changed:
                self.said.append(message)
                self._changed.notify_all()

    def order(self, number: int, *geometries: list[tuple[str, int]], epoch: int = 1) -> None:
        gpus = [
            gpu_pb2.Geometry(index=i, placements=[gpu_pb2.Placement(profile=p, start=s) for p, s in placements])
            for i, placements in enumerate(geometries)
        ]
        order = agent_pb2.Order(id=number, epoch=epoch, gpus=gpus)
        self._send.put_nowait(agent_pb2.BrainMessage(order=order))

    def ask(self) -> None:
        self._send.put_nowait(agent_pb2.BrainMessage(state_request=agent_pb2.StateRequest()))

    def end_session(self) -> None:
        self._send.put_nowait(None)

    @property
    def states(self) -> list[agent_pb2.NodeState]:
        return [message.state for message in self.said if message.HasField("state")]

    @property
    def hellos(self) -> list[agent_pb2.Hello]:
        return [message.hello for message in self.said if message.HasField("hello")]

    async def result(self, number: int, *, seconds: float = 10) -> agent_pb2.OrderResult:
        def found() -> agent_pb2.OrderResult | None:
            return next((m.result for m in self.said if m.HasField("result") and m.result.id == number), None)

        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(found)
        result = found()
        assert result is not None
        return result

    async def state(self, wanted: Callable[[agent_pb2.NodeState], bool], *, seconds: float = 10) -> agent_pb2.NodeState:
        """Wait until the latest state is as wanted."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: bool(self.states) and wanted(self.states[-1]))
        return self.states[-1]

    async def until(self, count: int, *, seconds: float = 10) -> None:
        """Wait until at least ``count`` messages have been said."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: len(self.said) >= count)


@contextlib.asynccontextmanager
async def brain_serving(address: str) -> AsyncIterator[StandInBrain]:
    brain = StandInBrain()
    server = grpc.aio.server()
    add_AgentServiceServicer_to_server(brain, server)
    server.add_secure_port(address, tls.server())
    await server.start()
    try:
        yield brain
    finally:
        await server.stop(None)
