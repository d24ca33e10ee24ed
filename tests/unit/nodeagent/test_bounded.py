"""A driver that hangs: its callers get an error, nothing is called on it meanwhile, and it is found again."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from n8s.v1 import gpu_pb2
from nodeagent.errors import DriverSilentError, InsufficientResourcesError
from nodeagent.gpu.bounded import BoundedDriver
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.node import NodeReader
from tests.unit.nodeagent.standins import MemoryKubelet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nodeagent.gpu.driver import Gpu


class HangingDriver(SimulatedDriver):
    """Hangs while told to, and counts its calls."""

    def __init__(self, node: SimulatedNode) -> None:
        super().__init__(node)
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.calls = 0

    def read(self) -> tuple[Gpu, ...]:
        self._hang()
        return super().read()

    def create(self, gpu: int, placement: Placement) -> None:
        self._hang()
        super().create(gpu, placement)

    def _hang(self) -> None:
        self.calls += 1
        self.goes_on.wait()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[HangingDriver]:
    driver = HangingDriver(SimulatedNode.install(tmp_path, [("A100-40GB", 1)], geometry=[[("3g.20gb", 4)]]))
    yield driver
    driver.goes_on.set()


def test_what_the_driver_says_passes_through(driver: HangingDriver) -> None:
    bounded = BoundedDriver(driver)
    assert bounded.name == "simulated"
    assert bounded.boot_id() == driver.boot_id()
    bounded.create(0, Placement(0, "3g.20gb"))
    with pytest.raises(InsufficientResourcesError):
        bounded.create(0, Placement(0, "3g.20gb"))
    bounded.destroy(0, bounded.read()[0].instances[0])
    assert [str(instance.placement) for instance in bounded.read()[0].instances] == ["3g.20gb at 4"]


def test_nothing_is_called_while_a_call_hangs(driver: HangingDriver) -> None:
    bounded = BoundedDriver(driver, read_seconds=0.05, change_seconds=0.05)
    driver.goes_on.clear()
    with pytest.raises(DriverSilentError, match=r"GPU driver: create has not returned since .*Z; .*reboot the node"):
        bounded.create(0, Placement(0, "3g.20gb"))
    for _ in range(3):
        with pytest.raises(DriverSilentError, match="create has not returned"):
            bounded.read()
    assert bounded.name == "unknown"
    assert driver.calls == 1
    driver.goes_on.set()
    hung = bounded._hung
    assert hung is not None
    assert hung.done.wait(10)
    # What the call that was given up did after all shows at the next look.
    assert [str(instance.placement) for instance in bounded.read()[0].instances] == ["3g.20gb at 0", "3g.20gb at 4"]


async def test_a_look_at_the_node_says_that_the_driver_does_not_answer(driver: HangingDriver) -> None:
    reader = NodeReader(BoundedDriver(driver, read_seconds=0.05), MemoryKubelet())
    assert (await reader.look()).problem == ""
    driver.goes_on.clear()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    views = [await reader.look() for _ in range(3)]
    ticking.cancel()
    assert ticks > 5  # the loop ran on
    assert "read has not returned since" in views[0].problem
    assert len({view.problem for view in views}) == 1
    state = views[-1].state(0)
    assert [instance.state for instance in state.gpus[0].instances] == [gpu_pb2.INSTANCE_STATE_UNKNOWN]
    driver.goes_on.set()
    view = await reader.look()
    while view.problem:
        view = await reader.look()
    assert view.fresh
