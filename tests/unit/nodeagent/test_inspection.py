from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.inspection import as_json, as_table, differences_from_catalogue
from nodeagent.node import NodeReader
from tests.unit.nodeagent.standins import MemoryKubelet

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_person_reads_what_the_brain_would_be_sent(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A30-24GB", 1)], geometry=[[("1g.6gb", 0), ("1g.6gb", 1), ("2g.12gb", 2)]])
    kubelet = MemoryKubelet()
    pod, process, free = node.mig_devices()
    kubelet.give(pod.uuid, "a")
    node.hold(process.uuid, 4711)
    kubelet.known = {"nvidia.com/mig-1g.6gb": frozenset({pod.uuid, process.uuid})}
    view = await NodeReader(SimulatedDriver(node), kubelet).look()
    lines = as_table("simulated", view).splitlines()
    assert lines[0] == "driver  simulated"
    assert lines[1] == f"GPU 0  NVIDIA-A30  {node.gpus()[0].uuid}  24000 MiB  4 slots"
    assert lines[2:5] == [
        f"  holds    1g.6gb at 0         used     {pod.uuid}  pod default/a (container main)",
        f"  holds    1g.6gb at 1         used     {process.uuid}  process 4711",
        f"  holds    2g.12gb at 2        free     {free.uuid}",
    ]
    assert "  can make 2g.12gb        at 0,2 of 2, 2 times, 11968 MiB each" in lines
    assert lines[-1] == "kubelet  nvidia.com/mig-1g.6gb: 2 devices"
    assert not any("differs" in line for line in lines)
    told = json.loads(as_json("simulated", view))
    assert told["state"]["gpus"][0]["instances"][0]["holder"]["pod"] == "a"
    assert told["differences_from_catalogue"] == {"0": []}


async def test_problems_come_before_all_else(tmp_path: Path) -> None:
    kubelet = MemoryKubelet()
    kubelet.silent = True
    node = SimulatedNode.install(tmp_path, [("A30-24GB", 1)])
    view = await NodeReader(SimulatedDriver(node), kubelet).look()
    view = replace(view, gpus=(replace(view.gpus[0], profiles=(), problem="MIG mode is off"),))
    lines = as_table("simulated", view).splitlines()
    assert "the kubelet does not answer" in lines[1]
    assert lines[3] == "  problem  MIG mode is off"


async def test_of_a_gpu_that_was_lost_from_the_start_only_that_is_said(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A30-24GB", 1)])
    node.lose(0)
    view = await NodeReader(SimulatedDriver(node), MemoryKubelet()).look()
    assert as_table("simulated", view).splitlines() == [
        "driver  simulated",
        "GPU 0  of unknown model",
        "  problem  GPU is lost; reset the GPU or reboot the node",
    ]


def test_a_driver_may_differ_from_the_catalogue(tmp_path: Path) -> None:
    (gpu,) = SimulatedDriver(SimulatedNode.install(tmp_path, [("A30-24GB", 1)])).read()
    assert not list(differences_from_catalogue(gpu))
    first, *rest = sorted(gpu.profiles, key=lambda profile: profile.name)
    other = replace(gpu, profiles=(replace(first, starts=(0, 1)), replace(rest[0], name="1g.7gb"), *rest[1:]))
    assert list(differences_from_catalogue(other)) == [
        "1g.6gb         at 0,1 of 1, 4 times, 5952 MiB each: the catalogue has it at 0,1,2,3 of 1, 4 times",
        "1g.7gb         at 0,1,2,3 of 1, 1 times, 5952 MiB each: not in the catalogue",
        "1g.6gb+me: in the catalogue only",
    ]
    assert list(differences_from_catalogue(replace(gpu, model="NVIDIA-X"))) == ["the catalogue does not know NVIDIA-X"]
    assert not list(differences_from_catalogue(replace(gpu, profiles=())))
