"""An agent that dies, or fails, at every single step of random orders on random GPUs.

A step is a call to the hardware, the kubelet or the device plugin. Each goes wrong in turn: the agent dies there, the
call fails once, it fails though it had its effect, it fails for good. Then an agent starts that knows nothing but what
hardware and kubelet show, and is ordered the same again, as by the brain.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from n8s.v1 import agent_pb2, gpu_pb2
from nodeagent.apply import Applier
from nodeagent.errors import DriverError, InUseError, KubeletError
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.node import device_ids
from nodeagent.orders import Orders
from tests.examples import examples
from tests.unit.nodeagent.standins import MemoryKubelet, MemoryNode, MemoryPlugin, at_once
from tests.unit.nodeagent.test_apply_property import World, arrange, placements, worlds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from typing import Any

    from nodeagent.gpu.driver import Placement
    from nodeagent.kubelet import DeviceIds, Holder

Wanted = list[tuple[int, list["Placement"]]]
ERRORS: list[type[DriverError]] = [DriverError, *DriverError.__subclasses__()]
CHANGES = ("create_gpu_instance", "create_compute_instance", "destroy_compute_instance", "destroy_gpu_instance")


class Died(BaseException):
    """The agent's process is gone."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a step.

    Attributes:
        at: Its number, from 0.
        error: What the driver says; None where the agent dies.
        after: Whether the step has its effect all the same.
        lasting: Whether each later step of the same kind fails as well.
    """

    at: int
    error: type[DriverError] | None
    after: bool = False
    lasting: bool = False


@dataclass
class Steps:
    """The steps of one agent, by kind, of which one goes wrong."""

    fault: Fault | None = None
    taken: list[str] = field(default_factory=list)
    dead: bool = False

    @contextmanager
    def step(self, kind: str, error: Callable[[type[DriverError]], Exception]) -> Iterator[None]:
        if self.dead:
            raise Died
        number, fault = len(self.taken), self.fault
        self.taken.append(kind)
        if fault is None or not (
            number == fault.at or (fault.lasting and number > fault.at and kind == self.taken[fault.at])
        ):
            yield
            return
        if fault.after:
            yield
        if fault.error is None:
            self.dead = True
            raise Died
        raise error(fault.error)

    def watched(self, node: MemoryNode) -> MemoryNode:
        """The same hardware; each call of it is a step."""
        watched = copy.copy(node)
        for name in (*CHANGES, "gpus"):
            setattr(watched, name, self._watched(name, getattr(watched, name)))
        return watched

    def _watched(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: int) -> object:
            with self.step(kind, lambda error: error(arguments[0] if arguments else None, f"{kind}: injected")):
                return call(*arguments)

        return stepped


class SteppedKubelet(MemoryKubelet):
    def __init__(self, kubelet: MemoryKubelet, steps: Steps, before: Callable[[], None]) -> None:
        self.held, self.known, self.silent = kubelet.held, kubelet.known, False
        self.steps = steps
        self.before = before

    async def holders(self) -> dict[str, Holder]:
        self.before()
        with self.steps.step("holders", lambda _: KubeletError("memory", "injected")):
            return await super().holders()


class SteppedPlugin(MemoryPlugin):
    def __init__(self, kubelet: MemoryKubelet, steps: Steps) -> None:
        super().__init__(kubelet)
        self.steps = steps

    async def settle(self, devices: Callable[[], Awaitable[DeviceIds]], halt: asyncio.Event) -> str:
        try:
            with self.steps.step("plugin", lambda _: KubeletError("memory", "injected")):
                pass
        except KubeletError:
            return "the plugin is late"
        return await super().settle(devices, halt)


@dataclass
class Machine:
    """What an agent's death leaves: hardware, kubelet and the node's processes."""

    node: MemoryNode
    kubelet: MemoryKubelet
    proc: Path
    used: set[str]

    def copy(self) -> Machine:
        kubelet = MemoryKubelet()
        kubelet.held, kubelet.known = dict(self.kubelet.held), self.kubelet.known
        return Machine(MemoryNode(self.node), kubelet, self.proc, self.used)

    async def order(
        self, wanted: Wanted, steps: Steps, before: Callable[[], None] = lambda: None
    ) -> agent_pb2.OrderResult | None:
        """What an agent that has just started says of its first order; None when it died.

        ``before`` is called before each question who holds what.
        """
        kubelet = SteppedKubelet(self.kubelet, steps, before)
        plugin = SteppedPlugin(self.kubelet, steps)
        driver = SimulatedDriver(steps.watched(self.node))
        orders = Orders(Applier(driver, kubelet, plugin, proc=self.proc, in_use_seconds=0.2))
        told = Told()
        worker = asyncio.create_task(orders.work(told))
        orders.take(message(wanted), told)
        ends: list[asyncio.Future[Any]] = [worker, told.result]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        orders.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)
        # Whatever happened, what is used has never been touched.
        assert self.used <= self.uuids()
        assert steps.dead == (not told.result.done())
        return told.result.result() if told.result.done() else None

    def placements(self) -> list[list[Placement]]:
        return placements(SimulatedDriver(self.node))

    def uuids(self) -> set[str]:
        return {device.uuid for device in self.node.mig_devices()}

    def broken(self) -> set[tuple[int, int]]:
        return {(gpu.index, one.start) for gpu in self.node.gpus() for one in gpu.instances if one.uuid is None}

    def plugin_current(self) -> bool:
        return self.kubelet.known == device_ids(SimulatedDriver(self.node).read())


class Told:
    def __init__(self) -> None:
        self.result: asyncio.Future[agent_pb2.OrderResult] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        pass

    def finished(self, result: agent_pb2.OrderResult) -> None:
        self.result.set_result(result)


def message(wanted: Wanted) -> agent_pb2.Order:
    def geometry(index: int, placements: Sequence[Placement]) -> gpu_pb2.Geometry:
        pairs = [gpu_pb2.Placement(profile=one.profile, start=one.start) for one in placements]
        return gpu_pb2.Geometry(index=index, placements=pairs)

    return agent_pb2.Order(id=1, epoch=1, gpus=[geometry(*one) for one in wanted])


@given(worlds(), st.integers(0, len(ERRORS) - 1))
@settings(max_examples=examples(12), deadline=None)
def test_at_every_step(world: World, turn: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        at_once(at_every_step(world, turn, Path(directory)))


async def at_every_step(world: World, turn: int, directory: Path) -> None:
    before = machine(world, directory)
    straight, steps = before.copy(), Steps()
    result = await straight.order(world.order, steps)
    check_end(world, before, straight, result)
    for at, kind in enumerate(steps.taken):
        # Of several GPUs it would not be known for which one the kubelet is asked.
        if kind == "holders" and len(world.held) == 1:
            await check_late_pod(world, before, at)
        faults = [Fault(at, None)]
        # Each of the driver's errors in turn, from step to step; all of them in the course of the worlds.
        errors: tuple[type[DriverError], ...] = (InUseError, ERRORS[(at + turn) % len(ERRORS)])
        for error in errors:
            faults += [Fault(at, error), Fault(at, error, lasting=True)]
            if kind in CHANGES:
                faults.append(Fault(at, error, after=True))
        for fault in faults:
            now = before.copy()
            result = await now.order(world.order, Steps(fault))
            if result is None:
                await check_as_it_is(now.copy())
            elif fault.error is InUseError and kind in CHANGES and not (fault.lasting or fault.after):
                check_end(world, before, now, result)  # tried again
            else:
                check_report(world, before, now, result, fault)
            check_end(world, before, now, await now.order(world.order, Steps()))


def machine(world: World, directory: Path) -> Machine:
    (directory / "proc").mkdir()
    node = MemoryNode(SimulatedNode.install(directory, [(world.model, len(world.held))], geometry=world.held))
    kubelet = MemoryKubelet()
    used = arrange(world, node, kubelet)
    # One that only a container's environment shows: its pod was deleted by force.
    free = sorted(device.uuid for device in node.mig_devices() if device.uuid not in used)
    if len(free) % 3 == 2:
        started = directory / "proc" / "77"
        started.mkdir()
        (started / "environ").write_bytes(b"A=B\0NVIDIA_VISIBLE_DEVICES=" + free[0].encode() + b"\0")
        used.add(free[0])
    kubelet.known = device_ids(SimulatedDriver(node).read())
    return Machine(node, kubelet, directory / "proc", used)


def check_report(world: World, before: Machine, now: Machine, result: agent_pb2.OrderResult, fault: Fault) -> None:
    """An order that did not die: each GPU is wholly the one or the other, or the report says what is not."""
    if result.outcome == agent_pb2.OUTCOME_APPLIED:
        check_end(world, before, now, result)
        return
    assert result.message
    told = any(word in result.message for word in ("is lost", " stays: ", "not undone"))
    assert fault.lasting or not told
    for (_, wanted), was, there in zip(world.order, before.placements(), now.placements(), strict=True):
        assert set(there) <= {*was, *wanted}
        assert told or there in (was, sorted(wanted))
    assert told or now.broken() <= before.broken()


def check_end(world: World, before: Machine, now: Machine, result: agent_pb2.OrderResult | None) -> None:
    """An order that nothing disturbed: every GPU that nobody holds is as wanted, the others are untouched."""
    assert result is not None
    blocked = False
    for gpu, (_, wanted) in zip(before.node.gpus(), world.order, strict=True):
        there = next(one for one in now.node.gpus() if one.index == gpu.index)
        held = [
            instance
            for instance in SimulatedDriver(before.node).read()[gpu.index].instances
            if instance.uuid in before.used and instance.placement not in wanted
        ]
        if held:
            blocked = True
            assert there == gpu
            assert any(f"{one.placement} must stay: held by" in result.message for one in held)
        else:
            assert now.placements()[gpu.index] == sorted(wanted)
            assert all(instance.uuid for instance in there.instances)
    assert result.outcome == (agent_pb2.OUTCOME_IN_USE if blocked else agent_pb2.OUTCOME_APPLIED)
    assert now.plugin_current()


async def check_late_pod(world: World, before: Machine, at: int) -> None:
    """A pod is given an instance just before the kubelet is asked: it keeps it, and the GPU is as before."""
    now, steps = before.copy(), Steps()
    now.used = set(before.used)
    late: list[int] = []

    def arrives() -> None:
        going = [
            (gpu.index, instance.uuid)
            for gpu, (_, wanted) in zip(SimulatedDriver(now.node).read(), world.order, strict=True)
            for instance in gpu.instances
            if instance.uuid and instance.uuid not in now.used and instance.placement not in wanted
        ]
        if len(steps.taken) == at and going:
            index, uuid = going[0]
            now.kubelet.give(uuid, "late")
            now.used.add(uuid)
            late.append(index)

    result = await now.order(world.order, steps, arrives)
    assert result is not None
    for index in late:
        assert result.outcome == agent_pb2.OUTCOME_IN_USE
        assert now.placements()[index] == before.placements()[index]
        assert now.plugin_current()


async def check_as_it_is(now: Machine) -> None:
    """What the brain orders where nobody wants anything any more: whole instances stay, and the plugin shows them."""
    whole: Wanted = [
        (gpu.index, [one.placement for one in gpu.instances if one.uuid]) for gpu in SimulatedDriver(now.node).read()
    ]
    there = now.uuids()
    result = await now.order(whole, Steps())
    assert result is not None
    assert (result.outcome, result.message) == (agent_pb2.OUTCOME_APPLIED, "")
    assert now.uuids() == there
    assert not now.broken()
    assert now.plugin_current()
