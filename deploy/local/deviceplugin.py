"""Stands in for NVIDIA's device plugin, with mixed strategy, on simulated GPUs.

It copies the habits that matter here: it looks at the hardware when it starts, and not again until it restarts, which
SIGHUP makes it do in process, and a new ``kubelet.sock`` too. In between it lists what it saw, even when that is gone;
devices of a GPU that is lost meanwhile (Xid 79) as unhealthy. Where a GPU is lost when it looks, it ends: one that does
not answer keeps it from all of them. Resources without devices are not served. It knows no GPU models.
"""
# ruff: noqa: N802, ARG002 -- names and signatures are those of the protocol

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from n8s import names
from nodeagent.errors import GpuLostError
from nodeagent.gpu.simulated import SimulatedNode

from .pb import deviceplugin_pb2 as pb
from .pb import deviceplugin_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    Context = grpc.aio.ServicerContext[object, object]

log = logging.getLogger("deviceplugin")

API_VERSION: Final = "v1beta1"
LOOK_SECONDS: Final = 0.2
"""How often the kubelet's socket and the GPUs' health are looked at."""
RESTART_SECONDS: Final = 0.1
"""For which nothing is served when it restarts; NVIDIA's takes longer. A kubelet of that version (1.36) that hears of a
resource's new server before it has seen the old one's connection end forgets the new one in its place, and shows that
one's devices for ever (kubernetes/kubernetes#127803)."""
OPTIONS: Final = pb.DevicePluginOptions(get_preferred_allocation_available=True)


class Plugin(rpc.DevicePluginServicer):
    """The server of one resource, from one look at the hardware to the next."""

    def __init__(self, directory: Path, resource: str, devices: Sequence[str]) -> None:
        """Describes it.

        Args:
            directory: the kubelet's device-plugin directory.
            resource: e.g. ``nvidia.com/mig-1g.5gb``.
            devices: UUIDs, in the order in which they are given out.
        """
        self._resource = resource
        self._devices = list(devices)
        self._directory = directory
        self._socket = directory / f"nvidia-{resource.rpartition('/')[2]}.sock"
        self._server = grpc.aio.server()
        self._lost: frozenset[str] = frozenset()
        self._news = asyncio.Event()
        self._stopped = False
        rpc.add_DevicePluginServicer_to_server(self, self._server)

    async def start(self) -> None:
        """Serves, and registers with the kubelet.

        Raises:
            grpc.aio.AioRpcError: the kubelet does not answer.
        """
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix://{self._socket}")
        await self._server.start()
        async with grpc.aio.insecure_channel(f"unix://{self._directory / 'kubelet.sock'}") as channel:
            stub: rpc.RegistrationAsyncStub = rpc.RegistrationStub(channel)
            request = pb.RegisterRequest(
                version=API_VERSION, endpoint=self._socket.name, resource_name=self._resource, options=OPTIONS
            )
            await stub.Register(request, timeout=5)
        log.info("registered %s with %d devices", self._resource, len(self._devices))

    async def stop(self) -> None:
        """Ends serving and removes the socket; the kubelet sees the connection break."""
        self._stopped = True
        self._news.set()
        await self._server.stop(0)
        self._socket.unlink(missing_ok=True)

    def lost(self, devices: frozenset[str]) -> None:
        """These devices, of all that exist, are on lost GPUs."""
        if devices & {*self._devices} != self._lost:
            self._lost = devices & {*self._devices}
            self._news.set()

    async def GetDevicePluginOptions(self, request: pb.Empty, context: object) -> pb.DevicePluginOptions:
        """What the kubelet may ask."""
        return OPTIONS

    async def ListAndWatch(self, request: pb.Empty, context: object) -> AsyncIterator[pb.ListAndWatchResponse]:
        """One list, which stays until the restart; told again when the health of its devices changes."""
        while not self._stopped:
            self._news.clear()
            yield pb.ListAndWatchResponse(
                devices=[
                    pb.Device(ID=device, health="Unhealthy" if device in self._lost else "Healthy")
                    for device in self._devices
                ]
            )
            await self._news.wait()

    async def GetPreferredAllocation(
        self, request: pb.PreferredAllocationRequest, context: object
    ) -> pb.PreferredAllocationResponse:
        """By GPU and slot, lowest first: the same question gets the same answer."""
        responses = []
        for wanted in request.container_requests:
            must = list(wanted.must_include_deviceIDs)
            free = [d for d in self._devices if d in set(wanted.available_deviceIDs) and d not in must]
            chosen = (must + free)[: wanted.allocation_size]
            responses.append(pb.ContainerPreferredAllocationResponse(deviceIDs=chosen))
        return pb.PreferredAllocationResponse(container_responses=responses)

    async def Allocate(self, request: pb.AllocateRequest, context: Context) -> pb.AllocateResponse:
        """Hands devices to containers by the environment variable that NVIDIA's container runtime reads."""
        responses = []
        for wanted in request.container_requests:
            unknown = [device for device in wanted.devices_ids if device not in self._devices]
            if unknown:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown device {unknown[0]} of {self._resource}")
            envs = {"NVIDIA_VISIBLE_DEVICES": ",".join(wanted.devices_ids)}
            responses.append(pb.ContainerAllocateResponse(envs=envs))
        return pb.AllocateResponse(container_responses=responses)

    async def PreStartContainer(
        self, request: pb.PreStartContainerRequest, context: object
    ) -> pb.PreStartContainerResponse:
        """Nothing to prepare."""
        return pb.PreStartContainerResponse()


def enumerate_devices(hardware: SimulatedNode) -> dict[str, list[str]]:
    """The UUIDs of all MIG devices by resource, each list by GPU and slot.

    Raises:
        GpuLostError: a GPU does not answer.
    """
    for gpu in hardware.gpus():
        if gpu.lost:
            raise GpuLostError(gpu.index, "error getting device handle: GPU is lost")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for device in hardware.mig_devices():
        found[names.mig_resource(device.profile)].append(device.uuid)
    return dict(found)


async def run(directory: Path, hardware: SimulatedNode, again: asyncio.Event, end: asyncio.Event) -> None:
    """Serves; when ``again`` is set it ends if ``end`` is set too, else it looks at the hardware anew.

    Raises:
        GpuLostError: it looked, and a GPU does not answer.
    """
    while not end.is_set():
        again.clear()
        kubelet = _identity(directory / "kubelet.sock")
        on_gpu = {device.uuid: device.gpu for device in hardware.mig_devices()}
        plugins = [Plugin(directory, resource, ids) for resource, ids in enumerate_devices(hardware).items()]
        try:
            if kubelet is None:
                log.info("waiting for the kubelet")
            else:
                for plugin in plugins:
                    await plugin.start()
                if not plugins:
                    log.info("no MIG devices: nothing to serve")
        except grpc.aio.AioRpcError as error:
            log.warning("cannot register, trying again: %s", error.details())
            kubelet = None
            await asyncio.sleep(LOOK_SECONDS)
        while kubelet == _identity(directory / "kubelet.sock") and not again.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await again.wait()
            gone = {gpu.index for gpu in hardware.gpus() if gpu.lost}
            for plugin in plugins:
                plugin.lost(frozenset(uuid for uuid, gpu in on_gpu.items() if gpu in gone))
        for plugin in plugins:
            await plugin.stop()
        if not end.is_set():
            await asyncio.sleep(RESTART_SECONDS)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells one socket file from its successor; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def main() -> None:
    """The program: serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nvidia-device-plugin", description=__doc__)
    parser.add_argument("--device-plugin-dir", type=Path, required=True, help="the kubelet's directory of plugins")
    parser.add_argument("--hardware", required=True, help="directory of the simulated GPUs")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def serve() -> None:
        again, end = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, again.set)

        def terminate() -> None:
            end.set()
            again.set()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        await run(args.device_plugin_dir, SimulatedNode(args.hardware), again, end)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
