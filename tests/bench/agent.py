"""Memory and idle processor time of a node's agent, next to those of a bare Python gRPC server, in one run.

The agent sees 8 GPUs with 7 instances each, half of them held by pods, looks at them as often as by default, and has a
session with a brain: once with simulated GPUs, once with NVIDIA's binding on the stand-in for its library. What it does
not show: the time that NVIDIA's driver takes in the kernel, and other processes of the node, which are looked at only
before an instance is destroyed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from n8s import names
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.nvml_driver import NvmlDriver
from nodeagent.gpu.simulated import SimulatedNode
from tests.component.nodeagent.standins import brain_serving, kubelet_serving
from tests.component.nodeagent.test_program import program
from tests.nvml.standin import StandIn
from tests.ports import free_port

GPUS: Final = 8
ONES: Final = [("1g.5gb", start) for start in range(7)]
WARM_SECONDS: Final = 3.0
SECONDS: Final = 20.0
BARE: Final = """
import asyncio
import grpc.aio

async def serve():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.wait_for_termination()

asyncio.run(serve())
"""


@dataclass(frozen=True)
class Figures:
    """What a process takes: memory in MiB, and processor time in percent of a core."""

    resident: float
    proportional: float
    processor: float


async def figures(pid: int) -> Figures:
    """Those of a process that is at rest."""
    await asyncio.sleep(WARM_SECONDS)
    before = _ticks(pid)
    await asyncio.sleep(SECONDS)
    used = (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK")
    return Figures(_mib(pid, "Rss"), _mib(pid, "Pss"), 100 * used / SECONDS)


def _ticks(pid: int) -> int:
    """Processor time of all threads, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _mib(pid: int, field: str) -> float:
    """A sum over all mappings, proc_pid_smaps_rollup(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


async def bare() -> Figures:
    """A gRPC server that serves nothing."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", BARE)
    try:
        return await figures(process.pid)
    finally:
        process.kill()
        await process.wait()


async def agent(path: Path, *arguments: str, devices: list[str]) -> Figures:
    """An agent with these devices, every other one held by a pod."""
    address = f"127.0.0.1:{free_port()}"
    shown = path / "devices.json"
    shown.write_text(json.dumps({names.mig_resource("1g.5gb"): devices}))
    async with AsyncExitStack() as stack:
        kubelet = await stack.enter_async_context(kubelet_serving(path / "k.sock", shown))
        for number, device in enumerate(devices[::2]):
            kubelet.give(device, "1g.5gb", f"pod-{number}")
        brain = await stack.enter_async_context(brain_serving(address))
        process = await stack.enter_async_context(program(path, address, "--http-listen=127.0.0.1:0", *arguments))
        state = await brain.state(lambda state: not state.problem)
        assert sum(len(gpu.instances) for gpu in state.gpus) == len(devices) == GPUS * len(ONES)
        return await figures(process.pid)


async def simulated() -> Figures:
    """With GPUs in a file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        node = SimulatedNode.install(path / "sim", [("A100-40GB", GPUS)], geometry=[ONES] * GPUS)
        return await agent(path, devices=[device.uuid for device in node.mig_devices()])


async def nvml() -> Figures:
    """With the stand-in for NVIDIA's library."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        node = StandIn(path / "state")
        driver = NvmlDriver()
        for gpu in range(GPUS):
            node.add("A100-40GB")
            for profile, start in ONES:
                driver.create(gpu, Placement(start, profile))
        os.environ.update(node.environment())
        devices = [instance.uuid or "" for gpu in driver.read() for instance in gpu.instances]
        return await agent(path, "--gpu-driver=nvml", devices=devices)


async def measure() -> None:
    """Prints the figures."""
    print(f"{GPUS} GPUs with {len(ONES)} instances each; processor time over {SECONDS:g} s")
    for name, measured in (
        ("bare gRPC server", bare),
        ("agent, simulated GPUs", simulated),
        ("agent, NVIDIA's binding", nvml),
    ):
        found = await measured()
        print(
            f"  {name:24} RSS {found.resident:5.1f} MiB  PSS {found.proportional:5.1f} MiB  "
            f"{found.processor:5.2f} % of a core"
        )


def main() -> None:
    """Prints the figures."""
    asyncio.run(measure())
