"""Finding and telling the device plugin, with real processes and the real /proc."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from nodeagent import plugin as plugin_module
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.kubelet import pod_resources
from nodeagent.node import device_ids
from nodeagent.plugin import SignalledPlugin
from tests.component.nodeagent.standins import kubelet_serving, plugin_running
from tests.unit.nodeagent.standins import MemoryKubelet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nodeagent.kubelet import DeviceIds


PROGRAM = f"nvidia-device-plugin-{os.getpid()}"
"""Plugins of local clusters on this machine see the tests' directories too, and are left in peace."""


@pytest.fixture(autouse=True)
def _own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_module, "PROGRAM", PROGRAM)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "device-plugins"
    path.mkdir()
    return path


def plugin_of(directory: Path, deadline_seconds: float = 10) -> SignalledPlugin:
    return SignalledPlugin(MemoryKubelet(), directory, deadline_seconds=deadline_seconds)


@contextlib.asynccontextmanager
async def named(directory: Path, program: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of that program's name that listens on nothing; it dies of SIGHUP."""
    script = directory.parent / program
    script.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def test_the_process_that_listens_in_the_directory_is_it(directory: Path) -> None:
    plugin = plugin_of(directory)
    assert plugin.find() == []
    async with plugin_running(directory) as process:
        assert plugin.find() == [process.pid]
    assert plugin.find() == []


@pytest.mark.parametrize("socket", ["kubelet.sock", "rdma-shared.sock"])
async def test_the_kubelet_and_other_vendors_are_not(directory: Path, socket: str) -> None:
    async with plugin_running(directory, socket=socket):
        assert plugin_of(directory).find() == []


async def test_one_that_listens_in_another_nodes_directory_is_not(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with plugin_running(other) as process:
        assert plugin_of(directory).find() == []
        assert plugin_of(other).find() == [process.pid]


async def test_a_directory_that_does_not_exist_has_none(tmp_path: Path) -> None:
    assert plugin_of(tmp_path / "none").find() == []


async def test_a_plugin_without_devices_is_known_by_its_name(directory: Path) -> None:
    async with named(directory, PROGRAM) as idle, named(directory, "something-else"):
        assert plugin_of(directory).find() == [idle.pid]
        async with plugin_running(directory) as process:
            assert plugin_of(directory).find() == [process.pid]


async def test_a_process_that_is_not_ready_for_the_signal_is_spared(directory: Path) -> None:
    async def wanted() -> DeviceIds:
        return {"nvidia.com/mig-1g.5gb": frozenset({"MIG-a"})}

    async with named(directory, PROGRAM) as process:
        missing = await plugin_of(directory, 0.3).settle(wanted, asyncio.Event())
        assert "mig-1g.5gb" in missing
        assert process.returncode is None


async def test_the_plugin_looks_again_only_when_devices_differ(directory: Path, tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path / "sim", [("A100-40GB", 1)])
    driver = SimulatedDriver(node)
    devices_file, socket = tmp_path / "devices.json", tmp_path / "k.sock"

    async def wanted() -> DeviceIds:
        return device_ids(driver.read())

    async with (
        kubelet_serving(socket, devices_file),
        pod_resources(str(socket)) as kubelet,
        plugin_running(directory, simulation=tmp_path / "sim", devices_file=devices_file),
    ):
        plugin = SignalledPlugin(kubelet, directory)
        written = devices_file.stat().st_ino
        assert await plugin.settle(wanted, asyncio.Event()) == ""
        assert devices_file.stat().st_ino == written
        (whole,) = driver.read()[0].instances
        driver.destroy(0, whole)
        driver.create(0, Placement(4, "3g.20gb"))
        assert await plugin.settle(wanted, asyncio.Event()) == ""
        assert await kubelet.allocatable() == await wanted()


async def test_a_wait_that_is_called_off_still_tells_the_plugin(directory: Path, tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path / "sim", [("A100-40GB", 1)])
    driver = SimulatedDriver(node)
    devices_file, socket = tmp_path / "devices.json", tmp_path / "k.sock"
    halt = asyncio.Event()
    halt.set()

    async def wanted() -> DeviceIds:
        return device_ids(driver.read())

    async with (
        kubelet_serving(socket, devices_file),
        pod_resources(str(socket)) as kubelet,
        plugin_running(directory, simulation=tmp_path / "sim", devices_file=devices_file),
    ):
        (whole,) = driver.read()[0].instances
        driver.destroy(0, whole)
        assert await SignalledPlugin(kubelet, directory).settle(wanted, halt) == ""
        assert await kubelet.allocatable() == {}


def refuse(pid: int, number: int) -> None:
    raise PermissionError(number, "not permitted", str(pid))


async def test_whether_the_plugin_can_be_told_is_known_before_an_order(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = plugin_of(directory)
    await plugin.look()
    assert "no process" in plugin.problem
    async with plugin_running(directory) as process:
        await plugin.look()
        assert plugin.problem, "not looked for again at once"
        monkeypatch.setattr(plugin, "_look_at", 0.0)
        await plugin.look()
        assert plugin.problem == ""
        monkeypatch.setattr(plugin, "_look_at", 0.0)
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", refuse)
            await plugin.look()
        assert plugin.problem == f"the device plugin's process {process.pid} cannot be signalled (not permitted)"
    async with named(directory, PROGRAM) as process:
        monkeypatch.setattr(plugin, "_look_at", 0.0)
        await plugin.look()
        assert plugin.problem == f"the device plugin's process {process.pid} does not handle SIGHUP"
        assert process.returncode is None


@pytest.mark.parametrize("signals", [True, False])
async def test_a_plugin_that_cannot_be_told_is_awaited_and_that_is_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, signals: bool
) -> None:
    monkeypatch.setattr(plugin_module, "UNTOLD_SECONDS", 0.2)
    kubelet = MemoryKubelet()
    plugin = SignalledPlugin(kubelet, directory, signals=signals, deadline_seconds=10)
    wanted = {"nvidia.com/mig-1g.5gb": frozenset({"MIG-a"})}

    async def devices() -> DeviceIds:
        return wanted

    assert (bool(plugin.problem), plugin.awaited) == (not signals, False)
    settling = asyncio.create_task(plugin.settle(devices, asyncio.Event()))
    async with asyncio.timeout(5):
        while not plugin.awaited:
            assert not settling.done()
            await asyncio.sleep(0.01)
    assert ("no process" if signals else "agent.hostPID") in plugin.problem
    kubelet.known = wanted
    assert await settling == ""
    assert not plugin.awaited
    assert plugin.problem, "it is still so"


async def test_a_process_of_another_is_not_looked_for_where_none_can_be_seen(directory: Path) -> None:
    async with plugin_running(directory):
        plugin = SignalledPlugin(MemoryKubelet(), directory, signals=False)
        await plugin.look()
        assert "agent.hostPID" in plugin.problem


async def test_a_plugin_that_was_told_is_not_awaited(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take its time; the agent's deadline ends that."""
    monkeypatch.setattr(plugin_module, "UNTOLD_SECONDS", 0.0)

    async def wanted() -> DeviceIds:
        return {"nvidia.com/mig-1g.5gb": frozenset({"MIG-a"})}

    async with plugin_running(directory):
        plugin = plugin_of(directory, 0.3)
        settling = asyncio.create_task(plugin.settle(wanted, asyncio.Event()))
        while not settling.done():
            assert not plugin.awaited
            await asyncio.sleep(0.01)
        assert "mig-1g.5gb" in await settling
        assert plugin.problem == ""


async def test_a_silent_kubelet_is_no_reason_to_disturb_the_plugin(directory: Path, tmp_path: Path) -> None:
    SimulatedNode.install(tmp_path / "sim", [("A100-40GB", 1)])
    devices_file = tmp_path / "devices.json"
    kubelet = MemoryKubelet()
    kubelet.silent = True

    async def wanted() -> DeviceIds:
        return {"nvidia.com/mig-1g.5gb": frozenset({"MIG-a"})}

    async with plugin_running(directory, simulation=tmp_path / "sim", devices_file=devices_file):
        written = devices_file.stat().st_ino
        missing = await SignalledPlugin(kubelet, directory, deadline_seconds=0.3).settle(wanted, asyncio.Event())
        assert "silent" in missing
        assert devices_file.stat().st_ino == written


async def test_a_plugin_that_is_still_to_come_is_waited_for(directory: Path, tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path / "sim", [("A100-40GB", 1)])
    devices_file, socket = tmp_path / "devices.json", tmp_path / "k.sock"

    async def wanted() -> DeviceIds:
        return device_ids(SimulatedDriver(node).read())

    async with kubelet_serving(socket, devices_file), pod_resources(str(socket)) as kubelet:
        settling = asyncio.create_task(SignalledPlugin(kubelet, directory).settle(wanted, asyncio.Event()))
        async with plugin_running(directory, simulation=tmp_path / "sim", devices_file=devices_file):
            assert await settling == ""
