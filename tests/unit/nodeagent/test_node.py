from __future__ import annotations

from typing import TYPE_CHECKING

from n8s.v1 import gpu_pb2
from nodeagent.errors import GpuLostError
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.node import NodeReader, device_ids
from tests.unit.nodeagent.standins import MemoryKubelet

if TYPE_CHECKING:
    from pathlib import Path

    from nodeagent.node import NodeView


def states(view: NodeView) -> list[str]:
    return [
        gpu_pb2.InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_")
        for gpu in view.state(0).gpus
        for instance in gpu.instances
    ]


async def test_each_state_of_an_instance(tmp_path: Path) -> None:
    ones = [("1g.5gb", start) for start in range(5)]
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 1)], geometry=[ones])
    kubelet = MemoryKubelet()
    _, pod, process, both, broken = node.mig_devices()
    kubelet.give(pod.uuid, "a")
    kubelet.give(both.uuid, "b")
    node.hold(process.uuid, 1)
    node.hold(both.uuid, 2)
    broken_id = next(i.id for i in node.gpus()[0].instances if i.uuid == broken.uuid)
    node.destroy_compute_instance(0, broken_id)
    kubelet.known = {"nvidia.com/mig-1g.5gb": frozenset({"b", "a"})}

    reader = NodeReader(SimulatedDriver(node), kubelet)
    view = await reader.look()
    assert states(view) == ["FREE", "USED", "USED", "USED", "BROKEN"]
    state = view.state(7)
    assert state.applying == 7
    assert [(a.name, list(a.device_ids)) for a in state.allocatable] == [("nvidia.com/mig-1g.5gb", ["a", "b"])]
    gpu = state.gpus[0]
    assert (gpu.model, gpu.slots, len(gpu.profiles)) == ("NVIDIA-A100-SXM4-40GB", 8, 7)
    assert gpu.instances[3].holder.pod == "b"
    assert list(gpu.instances[3].processes) == [2]
    assert not gpu.instances[2].HasField("holder")
    assert gpu.instances[4].uuid == ""

    kubelet.silent = True
    view = await reader.look()
    assert states(view) == ["UNKNOWN", "UNKNOWN", "USED", "USED", "BROKEN"]
    assert "kubelet does not answer" in view.problem

    node.inject("read", GpuLostError)
    view = await reader.look()
    assert states(view) == ["UNKNOWN"] * 5  # as last seen, and nobody can tell
    assert "injected" in view.problem


async def test_of_a_lost_gpu_nobody_knows_who_uses_it(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 2)])
    reader = NodeReader(SimulatedDriver(node), MemoryKubelet())
    await reader.look()
    node.lose(0)
    view = await reader.look()
    assert states(view) == ["UNKNOWN", "FREE"]
    assert [gpu.problem_code for gpu in view.state(0).gpus] == ["gpu-lost", ""]
    assert view.problem == ""


async def test_the_state_says_whether_the_device_plugin_can_be_told(tmp_path: Path) -> None:
    class Plugin:
        problem = ""
        awaited = False

        async def look(self) -> None:
            self.problem = "no process"
            self.awaited = True

    node = SimulatedNode.install(tmp_path, [("A100-40GB", 1)])
    state = (await NodeReader(SimulatedDriver(node), MemoryKubelet(), Plugin()).look()).state(0)
    assert (state.plugin_problem, state.plugin_awaited) == ("no process", True)
    alone = (await NodeReader(SimulatedDriver(node), MemoryKubelet()).look()).state(0)
    assert (alone.plugin_problem, alone.plugin_awaited) == ("", False)


def test_device_ids_are_those_of_whole_instances_by_resource(tmp_path: Path) -> None:
    node = SimulatedNode.install(
        tmp_path, [("A100-40GB", 2)], geometry=[[("1g.5gb+me", 0), ("3g.20gb", 4)], [("3g.20gb", 0)]]
    )
    node.destroy_compute_instance(1, node.gpus()[1].instances[0].id)
    media, large = node.mig_devices()
    assert device_ids(SimulatedDriver(node).read()) == {
        "nvidia.com/mig-1g.5gb.me": frozenset({media.uuid}),
        "nvidia.com/mig-3g.20gb": frozenset({large.uuid}),
    }
