"""The stand-in device plugin against a stand-in for the kubelet, which only takes registrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from deploy.local import deviceplugin
from deploy.local.pb import deviceplugin_pb2 as pb
from deploy.local.pb import deviceplugin_pb2_grpc as rpc
from nodeagent.errors import GpuLostError
from nodeagent.gpu.simulated import SimulatedNode


class Kubelet(rpc.RegistrationServicer):
    def __init__(self, directory: Path) -> None:
        self.registered: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._directory = directory

    async def Register(self, request: pb.RegisterRequest, context: object) -> pb.Empty:  # noqa: N802, ARG002
        await self.registered.put((request.resource_name, request.endpoint))
        return pb.Empty()

    async def serve(self) -> grpc.aio.Server:
        server = grpc.aio.server()
        rpc.add_RegistrationServicer_to_server(self, server)
        server.add_insecure_port(f"unix://{self._directory / 'kubelet.sock'}")
        await server.start()
        return server


@pytest.fixture
def hardware(tmp_path: Path) -> SimulatedNode:
    return SimulatedNode.install(
        tmp_path / "hardware", [("A30-24GB", 1)], geometry=[[("1g.6gb+me", 3), ("2g.12gb", 0)]]
    )


@pytest.fixture
async def again(tmp_path: Path, hardware: SimulatedNode) -> AsyncIterator[asyncio.Event]:
    """The plugin runs while this lasts; setting the event is a SIGHUP."""
    event, end = asyncio.Event(), asyncio.Event()
    plugin = asyncio.create_task(deviceplugin.run(tmp_path, hardware, event, end))
    yield event
    end.set()
    event.set()
    await plugin


async def healths(socket: str, until: str) -> None:
    """Waits until the plugin lists its one device with a health."""
    async with grpc.aio.insecure_channel(f"unix://{socket}") as channel, asyncio.timeout(10):
        stub: rpc.DevicePluginAsyncStub = rpc.DevicePluginStub(channel)
        async for answer in stub.ListAndWatch(pb.Empty()):
            if [device.health for device in answer.devices] == [until]:
                return


async def listed(socket: str) -> list[str]:
    async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
        stub: rpc.DevicePluginAsyncStub = rpc.DevicePluginStub(channel)
        async for answer in stub.ListAndWatch(pb.Empty()):
            return [device.ID for device in answer.devices]
    return []


async def test_it_looks_again_only_when_told(tmp_path: Path, hardware: SimulatedNode, again: asyncio.Event) -> None:
    kubelet = Kubelet(tmp_path)
    server = await kubelet.serve()
    assert {await kubelet.registered.get(), await kubelet.registered.get()} == {
        ("nvidia.com/mig-1g.6gb.me", "nvidia-mig-1g.6gb.me.sock"),
        ("nvidia.com/mig-2g.12gb", "nvidia-mig-2g.12gb.sock"),
    }
    two, me = [device.uuid for device in hardware.mig_devices()]
    me_instance = next(each for each in hardware.gpus()[0].instances if each.uuid == me)
    hardware.destroy_compute_instance(0, me_instance.id)
    assert await listed(f"{tmp_path}/nvidia-mig-1g.6gb.me.sock") == [me]

    again.set()
    assert await kubelet.registered.get() == ("nvidia.com/mig-2g.12gb", "nvidia-mig-2g.12gb.sock")
    assert await listed(f"{tmp_path}/nvidia-mig-2g.12gb.sock") == [two]
    assert not (tmp_path / "nvidia-mig-1g.6gb.me.sock").exists()
    await server.stop(0)


async def test_a_new_kubelet_is_registered_with(tmp_path: Path, again: asyncio.Event) -> None:
    kubelet = Kubelet(tmp_path)
    server = await kubelet.serve()
    first = {await kubelet.registered.get(), await kubelet.registered.get()}
    await server.stop(0)
    (tmp_path / "kubelet.sock").unlink(missing_ok=True)
    server = await kubelet.serve()
    assert {await kubelet.registered.get(), await kubelet.registered.get()} == first
    assert not again.is_set()
    await server.stop(0)


async def test_only_listed_devices_are_given(tmp_path: Path, hardware: SimulatedNode) -> None:
    device = hardware.mig_devices()[0].uuid
    kubelet = Kubelet(tmp_path)
    server = await kubelet.serve()
    plugin = deviceplugin.Plugin(tmp_path, "nvidia.com/mig-2g.12gb", [device])
    await plugin.start()
    async with grpc.aio.insecure_channel(f"unix://{tmp_path / 'nvidia-mig-2g.12gb.sock'}") as channel:
        stub: rpc.DevicePluginAsyncStub = rpc.DevicePluginStub(channel)
        wanted = pb.ContainerAllocateRequest(devices_ids=[device])
        answer = await stub.Allocate(pb.AllocateRequest(container_requests=[wanted]))
        assert dict(answer.container_responses[0].envs) == {"NVIDIA_VISIBLE_DEVICES": device}
        other = pb.ContainerAllocateRequest(devices_ids=["MIG-other"])
        with pytest.raises(grpc.aio.AioRpcError, match="unknown device MIG-other"):
            await stub.Allocate(pb.AllocateRequest(container_requests=[other]))
    await plugin.stop()
    await server.stop(0)


async def test_a_gpu_that_is_lost_is_unhealthy_and_keeps_it_from_looking_again(tmp_path: Path) -> None:
    hardware = SimulatedNode.install(tmp_path / "hardware", [("A30-24GB", 2)], geometry=[[("2g.12gb", 0)], []])
    kubelet = Kubelet(tmp_path)
    server = await kubelet.serve()
    again = asyncio.Event()
    plugin = asyncio.create_task(deviceplugin.run(tmp_path, hardware, again, asyncio.Event()))
    _, socket = await kubelet.registered.get()
    await healths(f"{tmp_path}/{socket}", "Healthy")
    hardware.lose(0)
    await healths(f"{tmp_path}/{socket}", "Unhealthy")
    again.set()
    with pytest.raises(GpuLostError):
        await plugin
    await server.stop(0)
