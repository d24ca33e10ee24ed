"""The stand-in runtime, asked over its socket as the kubelet asks; what it runs are records.

Real processes need mount namespaces and so root; those tests are skipped without it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from deploy.local import runtime
from deploy.local.pb import cri_pb2 as pb
from deploy.local.pb import cri_pb2_grpc as rpc
from deploy.local.workload import KILLED, RealProcess
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.processes import started_with


@dataclass
class Kubelet:
    """The calls of a kubelet."""

    stub: rpc.RuntimeServiceAsyncStub
    hardware: SimulatedNode
    logs: Path

    async def pod(self, name: str = "p") -> str:
        metadata = pb.PodSandboxMetadata(name=name, namespace="default", uid="u")
        config = pb.PodSandboxConfig(metadata=metadata, log_directory=str(self.logs), labels={"name": name})
        return (await self.stub.RunPodSandbox(pb.RunPodSandboxRequest(config=config))).pod_sandbox_id

    async def create(self, pod: str, image: str = "example/work:1", **environ: str) -> str:
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="main"),
            image=pb.ImageSpec(image=image),
            envs=[pb.KeyValue(key=key, value=value.encode()) for key, value in environ.items()],
            log_path="main/0.log",
            mounts=[pb.Mount(host_path="/nowhere", container_path="/does-not-exist/x")],
        )
        request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
        return (await self.stub.CreateContainer(request)).container_id

    async def run(self, pod: str, **environ: str) -> str:
        container = await self.create(pod, **environ)
        await self.stub.StartContainer(pb.StartContainerRequest(container_id=container))
        return container

    async def stop(self, container: str, seconds: int) -> float:
        began = time.monotonic()
        await self.stub.StopContainer(pb.StopContainerRequest(container_id=container, timeout=seconds))
        return time.monotonic() - began

    async def status(self, container: str) -> pb.ContainerStatus:
        return (await self.stub.ContainerStatus(pb.ContainerStatusRequest(container_id=container))).status

    async def ended(self, container: str) -> None:
        """Waits until it has ended, at most 5 s."""
        async with asyncio.timeout(5):
            while (await self.status(container)).state != pb.CONTAINER_EXITED:  # noqa: ASYNC110, nobody tells
                await asyncio.sleep(0.01)

    async def ip(self, pod: str) -> str:
        answer = await self.stub.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod))
        return answer.status.network.ip

    def held(self) -> list[int]:
        return [pid for gpu in self.hardware.gpus() for instance in gpu.instances for pid in instance.processes]


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds, at most 5 s."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 5 s")


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    hardware = SimulatedNode.install(tmp_path / "hardware", [("A30-24GB", 1)])
    socket = str(tmp_path / "cri.sock")
    stops: list[asyncio.Event] = []
    server = asyncio.create_task(runtime.serve(socket, runtime.Runtime("127.9.9", hardware), stops.append))
    soon = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)]
    async with grpc.aio.insecure_channel(f"unix://{socket}", options=soon) as channel:
        await channel.channel_ready()
        stub: rpc.RuntimeServiceAsyncStub = rpc.RuntimeServiceStub(channel)
        yield Kubelet(stub, hardware, tmp_path / "logs")
    stops[0].set()
    await server


async def test_pods_have_addresses_of_their_own_which_are_used_again(kubelet: Kubelet) -> None:
    one, two = await kubelet.pod("one"), await kubelet.pod("two")
    assert (await kubelet.ip(one), await kubelet.ip(two)) == ("127.9.9.2", "127.9.9.3")
    await kubelet.stub.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=one))
    assert await kubelet.ip(await kubelet.pod("three")) == "127.9.9.2"
    wanted = pb.PodSandboxFilter(label_selector={"name": "two"})
    listed = await kubelet.stub.ListPodSandbox(pb.ListPodSandboxRequest(filter=wanted))
    assert [item.id for item in listed.items] == [two]


async def test_a_record_runs_until_it_is_stopped(kubelet: Kubelet) -> None:
    container = await kubelet.run(await kubelet.pod())
    assert (await kubelet.status(container)).state == pb.CONTAINER_RUNNING
    assert (kubelet.logs / "main" / "0.log").exists()
    await kubelet.stop(container, 10)
    status = await kubelet.status(container)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 0, "Completed")
    assert status.created_at <= status.started_at <= status.finished_at


async def test_a_record_ends_by_itself(kubelet: Kubelet) -> None:
    container = await kubelet.run(await kubelet.pod(), FAKE_RUN_SECONDS="0.05", FAKE_EXIT_CODE="3")
    await asyncio.sleep(0.3)
    status = await kubelet.status(container)
    assert (status.exit_code, status.reason) == (3, "Error")


async def test_a_record_that_is_slow_to_stop_is_killed(kubelet: Kubelet) -> None:
    container = await kubelet.run(await kubelet.pod(), FAKE_STOP_SECONDS="60")
    assert 0.9 < await kubelet.stop(container, 1) < 2
    assert (await kubelet.status(container)).exit_code == KILLED


async def test_devices_are_held_until_the_container_has_really_ended(kubelet: Kubelet) -> None:
    device = kubelet.hardware.mig_devices()[0].uuid
    container = await kubelet.run(await kubelet.pod(), NVIDIA_VISIBLE_DEVICES=device, FAKE_STOP_SECONDS="1")
    (pid,) = kubelet.held()
    assert started_with(device, Path("/proc")) == (pid,)
    stopping = asyncio.create_task(kubelet.stop(container, 10))
    await asyncio.sleep(0.1)
    assert kubelet.held() == [pid]
    await stopping
    assert kubelet.held() == []
    assert started_with(device, Path("/proc")) == ()


async def test_a_container_may_take_its_time_to_open_its_devices(kubelet: Kubelet) -> None:
    device = kubelet.hardware.mig_devices()[0].uuid
    container = await kubelet.run(await kubelet.pod(), NVIDIA_VISIBLE_DEVICES=device, FAKE_OPEN_SECONDS="0.2")
    assert kubelet.held() == []
    (pid,) = started_with(device, Path("/proc"))
    await until(lambda: kubelet.held() == [pid])
    await kubelet.stop(container, 10)
    other = await kubelet.run(await kubelet.pod(), NVIDIA_VISIBLE_DEVICES=device, FAKE_OPEN_SECONDS="0.1")
    kubelet.hardware.reboot()
    await kubelet.ended(other)
    assert (await kubelet.status(other)).exit_code == KILLED, "what it was to open is gone"


async def test_a_process_that_somebody_kills_ends_its_container(kubelet: Kubelet) -> None:
    device = kubelet.hardware.mig_devices()[0].uuid
    container = await kubelet.run(await kubelet.pod(), NVIDIA_VISIBLE_DEVICES=device)
    (pid,) = kubelet.held()
    os.kill(pid, signal.SIGKILL)
    await kubelet.ended(container)
    assert (await kubelet.status(container)).exit_code == KILLED
    assert kubelet.held() == []


async def test_a_device_that_is_gone_cannot_be_opened(kubelet: Kubelet) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.run(await kubelet.pod(), NVIDIA_VISIBLE_DEVICES="MIG-gone")
    assert "no MIG device MIG-gone" in str(caught.value.details())


async def test_removing_a_pod_ends_its_containers(kubelet: Kubelet) -> None:
    device = kubelet.hardware.mig_devices()[0].uuid
    pod = await kubelet.pod()
    await kubelet.run(pod, NVIDIA_VISIBLE_DEVICES=device)
    await kubelet.stub.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
    assert kubelet.held() == []
    await kubelet.stub.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert not (await kubelet.stub.ListContainers(pb.ListContainersRequest())).containers


@pytest.mark.parametrize(
    ("image", "environ", "problem"),
    [
        ("nebulnetes/agent:1", {}, "/does-not-exist/x"),
        ("example/work", {"FAKE_RUN_SECONDS": "long"}, "long"),
    ],
)
async def test_what_cannot_be_is_refused_at_creation(
    kubelet: Kubelet, image: str, environ: dict[str, str], problem: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.create(await kubelet.pod(), image, **environ)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert problem in str(caught.value.details())


async def test_unknown_ids_are_not_found(kubelet: Kubelet) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.status("absent")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
async def test_a_real_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "test -e /run/here && echo $0 $WORD && exit 7"
    process = RealProcess(
        ["bash", "-c", script],
        name="worker",
        environ={"WORD": "spoken", "PATH": os.environ["PATH"]},
        mounts=["mount -t tmpfs tmpfs /run", "mkdir /run/here"],
        cwd="/",
        log=log,
    )
    await process.start()
    assert await process.wait() == 7
    assert log.read_text().endswith(" stdout F worker spoken\n")
    assert not os.access("/run/here", os.F_OK)


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
async def test_a_real_process_is_killed_with_its_children(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"]}
    process = RealProcess(
        ["bash", "-c", "sleep 60 & echo $!; wait"], name="", environ=environ, mounts=[], cwd="/", log=tmp_path / "log"
    )
    await process.start()
    await until(lambda: (tmp_path / "log").read_text() != "")
    child = int((tmp_path / "log").read_text().split()[-1])
    assert await process.execute(["sh", "-c", "echo out; exit 4"]) == (4, b"out\n", b"")
    process.kill()
    assert await process.wait() == KILLED
    await until(lambda: not Path(f"/proc/{child}").exists())
