"""The agent's program as a process: starts, serves health and metrics, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp

from n8s.v1 import agent_pb2, gpu_pb2
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.nvml_driver import NvmlDriver
from nodeagent.gpu.simulated import SimulatedNode
from tests import tls
from tests.component.nodeagent.standins import brain_serving, kubelet_serving, plugin_running
from tests.nvml.standin import StandIn
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest


@contextlib.asynccontextmanager
async def program(path: Path, brain: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    (path / "device-plugins").mkdir(exist_ok=True)
    token = path / "token"
    token.write_text("token-1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodeagent", "--node-name", "n1"),
        *("--brain-address", brain, "--brain-ca", str(tls.directory() / "ca.crt"), "--token-file", str(token)),
        *("--gpu-driver", "simulated", "--simulation-dir", str(path / "sim")),
        *("--pod-resources-socket", str(path / "k.sock")),
        *("--device-plugin-dir", str(path / "device-plugins")),
        *arguments,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_health_metrics_and_a_stop_in_the_middle_of_an_order(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path / "sim", [("A100-40GB", 1)], create_seconds=0.4)
    address, port = f"127.0.0.1:{free_port()}", free_port()
    async with (
        brain_serving(address) as brain,
        program(tmp_path, address, "--http-listen", f"127.0.0.1:{port}") as process,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        await brain.until(2)
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        async with http.get("/readyz") as answer:
            assert answer.status == 503
            assert "kubelet does not answer" in await answer.text()
        async with (
            kubelet_serving(tmp_path / "k.sock", tmp_path / "devices.json"),
            plugin_running(tmp_path / "device-plugins"),
        ):
            brain.ask()
            await brain.state(lambda state: not state.problem)
            async with http.get("/readyz") as answer:
                assert answer.status == 200
            async with http.get("/metrics") as answer:
                text = await answer.text()
                assert "n8s_agent_connected 1.0" in text
                assert 'n8s_agent_instances{state="free"} 1.0' in text

            # The device plugin shows nothing, so the order waits for it after the hardware is done.
            brain.order(1, [("3g.20gb", 4)])
            await brain.state(lambda state: state.applying == 1)
            process.send_signal(signal.SIGTERM)
            result = await brain.result(1)
            assert result.outcome == agent_pb2.OUTCOME_REPLACED
            assert "the agent was stopped" in result.message
            _, log = await process.communicate()
    assert process.returncode == 0
    assert [(device.profile, device.start) for device in node.mig_devices()] == [("3g.20gb", 4)]
    assert len(node.gpus()[0].instances) == 1  # none without compute instance
    lines = log.decode().splitlines()
    assert all(line.startswith("time=") for line in lines)
    assert any('msg="order ended" id=1' in line for line in lines)


async def test_killed_in_the_middle_of_an_order_it_begins_anew_from_what_is_there(tmp_path: Path) -> None:
    sim, devices = tmp_path / "sim", tmp_path / "devices.json"
    node = SimulatedNode.install(sim, [("A100-40GB", 1)], create_seconds=0.4)
    ones = [("1g.5gb", start) for start in range(3)]
    address = f"127.0.0.1:{free_port()}"
    async with (
        kubelet_serving(tmp_path / "k.sock", devices),
        plugin_running(tmp_path, simulation=sim, devices_file=devices),
        brain_serving(address) as brain,
    ):
        async with program(tmp_path, address, "--http-listen", "127.0.0.1:0") as process:
            await brain.until(2)
            brain.order(1, ones)
            await until(lambda: any(one.uuid is None for gpu in node.gpus() for one in gpu.instances))
            process.kill()
            await process.wait()
        assert [one.uuid for one in node.gpus()[0].instances] == [None]
        node.set_times(create_seconds=0, destroy_seconds=0)
        async with program(tmp_path, address, "--http-listen", "127.0.0.1:0", "--device-plugin-dir", str(tmp_path)):
            state = await brain.state(lambda state: not state.applying and len(brain.hellos) == 2)
            assert [one.state for one in state.gpus[0].instances] == [gpu_pb2.INSTANCE_STATE_BROKEN]
            brain.order(2, ones)
            assert (await brain.result(2)).outcome == agent_pb2.OUTCOME_APPLIED
    assert [(device.profile, device.start) for device in node.mig_devices()] == ones


async def test_with_the_real_binding_an_order_changes_what_the_library_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = StandIn(tmp_path / "state")
    node.add("A100-40GB")
    for name, value in node.environment().items():
        monkeypatch.setenv(name, value)
    driver = NvmlDriver()
    driver.create(0, Placement(0, "4g.20gb"))
    driver.create(0, Placement(4, "3g.20gb"))
    free, used = driver.read()[0].instances
    address = f"127.0.0.1:{free_port()}"
    async with (
        kubelet_serving(tmp_path / "k.sock", tmp_path / "devices.json"),
        brain_serving(address) as brain,
        program(tmp_path, address, "--gpu-driver=nvml", "--http-listen=127.0.0.1:0", "--plugin-seconds=0.2"),
    ):
        node.hold(used.uuid or "", 4711)
        state = await brain.state(lambda state: bool(state.gpus[0].instances[1].processes))
        assert brain.hellos[0].driver == "nvml 580.95.05"
        assert state.gpus[0].instances[0].uuid == free.uuid
        brain.order(1, [("2g.10gb", 2), ("3g.20gb", 4)])
        result = await brain.result(1)
        assert result.outcome == agent_pb2.OUTCOME_PLUGIN_LATE, result.message  # no device plugin runs
        node.set(0, lost=True)
        state = await brain.state(lambda state: bool(state.gpus[0].problem))
        assert "GPU is lost" in state.gpus[0].problem
        assert {one.state for one in state.gpus[0].instances} == {gpu_pb2.INSTANCE_STATE_UNKNOWN}
        assert not state.problem
        brain.order(2, [])
        assert (await brain.result(2)).outcome == agent_pb2.OUTCOME_REFUSED
        node.set(0)
    assert [str(one.placement) for one in driver.read()[0].instances] == ["2g.10gb at 2", "3g.20gb at 4"]
    assert driver.read()[0].instances[1].uuid == used.uuid


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110, hardware tells nobody
            await asyncio.sleep(0.02)


async def test_a_setting_that_cannot_work_ends_it_with_a_word(tmp_path: Path) -> None:
    async with program(tmp_path, "127.0.0.1:1") as process:
        _, log = await process.communicate()
    assert process.returncode == 2
    assert log.decode() == f"n8s-agent: --simulation-dir: {tmp_path}/sim holds no simulated hardware\n"
