from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from n8s.v1 import agent_pb2
from nodeagent.apply import Applier
from nodeagent.errors import DriverError, GpuLostError, InUseError
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from tests.unit.nodeagent.standins import MemoryKubelet, MemoryPlugin

if TYPE_CHECKING:
    from pathlib import Path

    from nodeagent.gpu.driver import Gpu
    from nodeagent.kubelet import Holder

Pairs = list[tuple[str, int]]
ONES: Pairs = [("1g.5gb", start) for start in range(7)]


@dataclass
class World:
    node: SimulatedNode
    kubelet: MemoryKubelet
    plugin: MemoryPlugin
    applier: Applier

    async def apply(self, *gpus: Pairs, halt: asyncio.Event | None = None) -> tuple[str, str]:
        wanted = [(index, [Placement(start, name) for name, start in pairs]) for index, pairs in enumerate(gpus)]
        ending = await self.applier.apply(wanted, halt or asyncio.Event())
        return agent_pb2.Outcome.Name(ending.outcome).removeprefix("OUTCOME_"), ending.message

    def holds(self, gpu: int = 0) -> Pairs:
        return [(device.profile, device.start) for device in self.node.mig_devices() if device.gpu == gpu]

    def uuid(self, start: int, gpu: int = 0) -> str:
        return next(d.uuid for d in self.node.mig_devices() if (d.gpu, d.start) == (gpu, start))

    def gpu_instances(self, gpu: int = 0) -> int:
        return len(self.node.gpus()[gpu].instances)


def world(path: Path, *geometry: Pairs, in_use_seconds: float = 0.2) -> World:
    node = SimulatedNode.install(path, [("A100-40GB", len(geometry))], geometry=geometry)
    kubelet = MemoryKubelet()
    plugin = MemoryPlugin(kubelet)
    return World(node, kubelet, plugin, Applier(SimulatedDriver(node), kubelet, plugin, in_use_seconds=in_use_seconds))


async def test_a_whole_gpu_is_cut_up_and_made_whole_again(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    assert await w.apply(ONES) == ("APPLIED", "")
    assert w.holds() == ONES
    assert await w.apply([("7g.40gb", 0)]) == ("APPLIED", "")
    assert w.holds() == [("7g.40gb", 0)]
    assert w.plugin.looked == 2


async def test_what_is_right_is_left_alone_and_twice_is_once(tmp_path: Path) -> None:
    w = world(tmp_path, [("3g.20gb", 4), ("4g.20gb", 0)])
    kept = w.uuid(4)
    assert (await w.apply([("3g.20gb", 4), ("2g.10gb", 2)]))[0] == "APPLIED"
    assert w.uuid(4) == kept
    before = w.node.mig_devices()
    assert (await w.apply([("3g.20gb", 4), ("2g.10gb", 2)]))[0] == "APPLIED"
    assert w.node.mig_devices() == before
    assert w.plugin.looked == 1


async def test_gpus_that_are_not_named_stay(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)], ONES)
    before = [d for d in w.node.mig_devices() if d.gpu == 1]
    assert (await w.apply([("3g.20gb", 0)]))[0] == "APPLIED"
    assert [d for d in w.node.mig_devices() if d.gpu == 1] == before


async def test_a_pod_keeps_its_instance_and_its_gpu_is_not_touched(tmp_path: Path) -> None:
    w = world(tmp_path, ONES, [("7g.40gb", 0)])
    w.kubelet.give(w.uuid(4), "trainer")
    before = w.node.mig_devices()
    outcome, message = await w.apply([("7g.40gb", 0)], [("3g.20gb", 0)])
    assert outcome == "IN_USE"
    assert "1g.5gb at 4" in message
    assert "pod default/trainer" in message
    assert [d for d in w.node.mig_devices() if d.gpu == 0] == [d for d in before if d.gpu == 0]
    assert w.holds(1) == [("3g.20gb", 0)]  # the other GPU is finished all the same


async def test_a_pod_that_comes_after_the_first_look_keeps_its_instance(tmp_path: Path) -> None:
    w = world(tmp_path, [("3g.20gb", 0), ("3g.20gb", 4)])
    device, asked, holders = w.uuid(4), 0, w.kubelet.holders

    async def late() -> dict[str, Holder]:
        nonlocal asked
        asked += 1
        if asked == 4:  # after both were free, and the first is gone
            w.kubelet.give(device, "late")
        return await holders()

    w.kubelet.holders = late  # type: ignore[method-assign]
    outcome, message = await w.apply([("7g.40gb", 0)])
    assert (outcome, "pod default/late" in message) == ("IN_USE", True)
    assert w.holds() == [("3g.20gb", 0), ("3g.20gb", 4)]
    assert w.uuid(4) == device


async def test_a_process_is_waited_for(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)], in_use_seconds=5)
    w.node.hold(w.uuid(0), 99)
    order = asyncio.create_task(w.apply(ONES))
    await asyncio.sleep(0.1)
    assert w.holds() == [("7g.40gb", 0)]
    w.node.release(99)
    assert await order == ("APPLIED", "")


async def test_a_process_that_stays_is_named(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.node.hold(w.uuid(0), 99)
    outcome, message = await w.apply(ONES)
    assert outcome == "IN_USE"
    assert "processes [99]" in message
    assert w.holds() == [("7g.40gb", 0)]


async def test_a_handle_that_nobody_shows_is_waited_for(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)], in_use_seconds=5)
    w.node.inject("destroy_gpu_instance", InUseError, times=2)
    assert await w.apply(ONES) == ("APPLIED", "")


async def test_after_a_handle_that_stays_the_compute_instance_is_back(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.node.inject("destroy_gpu_instance", InUseError, times=1000)
    outcome, message = await w.apply(ONES)
    assert outcome == "IN_USE"
    assert "open handle" in message
    assert w.holds() == [("7g.40gb", 0)]
    assert w.plugin.looked == 1  # it has a new UUID


async def test_what_nobody_can_tell_counts_as_used(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.kubelet.silent = True
    before = w.node.mig_devices()
    outcome, message = await w.apply(ONES)
    assert outcome == "IN_USE"
    assert "kubelet does not answer" in message
    assert w.node.mig_devices() == before


async def test_after_a_forced_delete_the_old_container_keeps_its_instance(tmp_path: Path) -> None:
    w = world(tmp_path, [("3g.20gb", 0), ("3g.20gb", 4)])
    # The kubelet says free for both. One container's process has opened its device, the other's has not yet.
    device, other = w.uuid(0), w.uuid(4)
    w.node.hold(device, 4711)
    environment = os.environ | {"NVIDIA_VISIBLE_DEVICES": f"{other},MIG-1"}
    container = await asyncio.create_subprocess_exec("sleep", "60", env=environment)
    try:
        outcome, message = await w.apply([("3g.20gb", 0)])
        assert outcome == "IN_USE"
        assert message == (
            f"GPU 0: 3g.20gb at 4 must stay: held by a container that still runs (processes [{container.pid}])"
        )
        outcome, message = await w.apply([("3g.20gb", 4)])
        assert (outcome, message) == ("IN_USE", "GPU 0: 3g.20gb at 0 must stay: held by processes [4711]")
        assert {w.uuid(0), w.uuid(4)} == {device, other}
    finally:
        container.kill()
        await container.wait()
    w.node.release(4711)
    assert await w.apply([("7g.40gb", 0)]) == ("APPLIED", "")


async def test_a_gpu_that_goes_in_the_middle_of_an_order_ends_it(tmp_path: Path) -> None:
    w = world(tmp_path, [("3g.20gb", 0)], [("3g.20gb", 0)])
    driver = LosingDriver(w.node)
    applier = Applier(driver, w.kubelet, w.plugin)
    ending = await applier.apply([(0, [Placement(4, "3g.20gb")]), (1, [Placement(4, "3g.20gb")])], asyncio.Event())
    assert ending.outcome == agent_pb2.OUTCOME_FAILED
    assert "GPU 0: is lost" in ending.message
    assert "GPU 1: the driver does not list it any more" in ending.message
    assert (w.holds(0), w.holds(1)) == ([("3g.20gb", 0)], [("3g.20gb", 0)])


class LosingDriver(SimulatedDriver):
    """After its first look it shows GPU 0 as lost and the others not at all."""

    looks = 0

    def read(self) -> tuple[Gpu, ...]:
        self.looks += 1
        gpus = super().read()
        return gpus if self.looks == 1 else (replace(gpus[0], profiles=(), problem="is lost"),)


@pytest.mark.parametrize("call", ["create_gpu_instance", "create_compute_instance"])
async def test_a_failed_create_is_undone(tmp_path: Path, call: str) -> None:
    w = world(tmp_path, [("3g.20gb", 4), ("2g.10gb", 0)])
    kept = w.uuid(4)
    # The second of three creates fails, after one has been made.
    fail_after_one(w, call)
    outcome, message = await w.apply([("3g.20gb", 4), ("1g.5gb", 0), ("1g.5gb", 1), ("1g.5gb", 2)])
    assert outcome == "FAILED"
    assert "injected" in message
    assert w.holds() == [("2g.10gb", 0), ("3g.20gb", 4)]
    assert w.uuid(4) == kept
    assert w.gpu_instances() == 2


def fail_after_one(w: World, call: str) -> None:
    real = getattr(w.node, call)
    calls = 0

    def counted(*arguments: int) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise GpuLostError(0, f"{call}: injected")
        return real(*arguments)

    setattr(w.applier._driver._node, call, counted)  # type: ignore[attr-defined]


async def test_what_cannot_be_undone_is_told(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.node.inject("create_gpu_instance", GpuLostError, times=2)
    outcome, message = await w.apply(ONES)
    assert outcome == "FAILED"
    assert "7g.40gb at 0 is lost" in message
    assert w.holds() == []


async def test_a_gpu_instance_without_compute_instance_is_repaired_or_removed(tmp_path: Path) -> None:
    w = world(tmp_path, [("3g.20gb", 4), ("3g.20gb", 0)])
    for instance in w.node.gpus()[0].instances:
        w.node.destroy_compute_instance(0, instance.id)
    assert w.holds() == []
    assert await w.apply([("3g.20gb", 4)]) == ("APPLIED", "")
    assert w.holds() == [("3g.20gb", 4)]
    assert w.gpu_instances() == 1


async def test_after_a_reboot_the_order_is_carried_out_again(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    await w.apply(ONES)
    w.node.reboot()
    assert await w.apply(ONES) == ("APPLIED", "")
    assert w.holds() == ONES


@pytest.mark.parametrize("wanted", [[("3g.20gb", 0), ("4g.20gb", 0)], [("9g.99gb", 0)]])
async def test_an_impossible_geometry_is_refused_before_anything_is_touched(tmp_path: Path, wanted: Pairs) -> None:
    w = world(tmp_path, [("7g.40gb", 0)], [("7g.40gb", 0)])
    before = w.node.mig_devices()
    assert (await w.apply(ONES, wanted))[0] == "REFUSED"
    assert w.node.mig_devices() == before


async def test_a_driver_that_does_not_answer_fails_the_order(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.node.inject("read", DriverError)
    assert (await w.apply(ONES))[0] == "FAILED"
    assert w.holds() == [("7g.40gb", 0)]


async def test_a_late_plugin_is_told(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.plugin.late = "nvidia.com/mig-1g.5gb: missing"
    assert await w.apply(ONES) == ("PLUGIN_LATE", "nvidia.com/mig-1g.5gb: missing")
    assert w.holds() == ONES


async def test_halting_ends_the_wait_and_leaves_the_gpu_as_it_was(tmp_path: Path) -> None:
    w = world(tmp_path, [("2g.10gb", 0), ("3g.20gb", 4)], in_use_seconds=30)
    w.node.hold(w.uuid(4), 7)
    halt = asyncio.Event()
    order = asyncio.create_task(w.apply(ONES, halt=halt))
    await asyncio.sleep(0.05)
    halt.set()
    assert (await order)[0] == "REPLACED"
    assert w.holds() == [("2g.10gb", 0), ("3g.20gb", 4)]


async def test_halting_ends_the_wait_for_the_plugin(tmp_path: Path) -> None:
    w = world(tmp_path, [("7g.40gb", 0)])
    w.plugin.late = "until halted"
    halt = asyncio.Event()
    order = asyncio.create_task(w.apply(ONES, halt=halt))
    await asyncio.sleep(0.05)
    halt.set()
    assert (await order)[0] == "REPLACED"
    assert w.holds() == ONES
