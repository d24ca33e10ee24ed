"""Random orders on random hardware with random use and faults: nothing used is lost, and what is said is true."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from n8s.catalogue import models
from n8s.v1 import agent_pb2
from nodeagent.apply import Applier
from nodeagent.errors import DriverError, GpuLostError, InsufficientResourcesError, InUseError
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.simulated import Call, SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from tests.examples import examples
from tests.unit.nodeagent.standins import MemoryKubelet, MemoryPlugin

if TYPE_CHECKING:
    from collections.abc import Sequence

Pair = tuple[str, int]
Use = Literal["free", "pod", "process", "both", "broken"]
FAULTY: list[Call] = [
    "create_gpu_instance",
    "create_compute_instance",
    "destroy_compute_instance",
    "destroy_gpu_instance",
]


@dataclass(frozen=True)
class World:
    """GPUs of one model: what each holds, how those instances are used in this order, and what is ordered."""

    model: str
    held: list[list[Pair]]
    uses: list[Use]
    wanted: list[list[Pair]]

    @property
    def order(self) -> list[tuple[int, list[Placement]]]:
        return [(i, [Placement(start, name) for name, start in pairs]) for i, pairs in enumerate(self.wanted)]


@dataclass(frozen=True)
class Case:
    world: World
    faults: list[tuple[Call, type[DriverError], int]]
    kubelet_silent: bool


def fill(model: str, tries: Sequence[tuple[int, int]]) -> list[Pair]:
    """The tries (profile, start by number) that fit beside those before them, by the plain rules of intervals."""
    known = models()[model]
    taken: set[int] = set()
    counts: dict[str, int] = {}
    chosen: list[Pair] = []
    for number, start_number in tries:
        profile = known.profiles[number % len(known.profiles)]
        start = profile.starts[start_number % len(profile.starts)]
        slots = set(range(start, start + profile.size))
        media = "+me" in profile.name and any("+me" in name for name in counts)
        all_media = any("+me.all" in name for name in (*counts, profile.name)) and bool(counts)
        if taken & slots or counts.get(profile.name, 0) >= profile.max_count or media or all_media:
            continue
        taken |= slots
        counts[profile.name] = counts.get(profile.name, 0) + 1
        chosen.append((profile.name, start))
    return chosen


@st.composite
def worlds(draw: st.DrawFn) -> World:
    model = draw(st.sampled_from(["A30-24GB", "A100-40GB", "H100-80GB", "RTX-PRO-6000-96GB"]))
    tries = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 6)), max_size=8)
    gpus = draw(st.integers(1, 2))
    held = [fill(model, draw(tries)) for _ in range(gpus)]
    uses: st.SearchStrategy[Use] = st.sampled_from(["free", "free", "free", "free", "pod", "process", "both", "broken"])
    return World(
        model=model,
        held=held,
        uses=[draw(uses) for geometry in held for _ in geometry],
        wanted=[fill(model, draw(tries)) for _ in range(gpus)],
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world = draw(worlds())
    if draw(st.integers(0, 15)) == 9:  # now and then what no hardware can hold
        name = models()[world.model].largest.name
        world = replace(world, wanted=[*world.wanted[:-1], [*world.wanted[-1], (name, 0), (name, 0)]])
    errors: list[type[DriverError]] = [GpuLostError, InUseError, InsufficientResourcesError]
    return Case(
        world=world,
        faults=draw(
            st.lists(st.tuples(st.sampled_from(FAULTY), st.sampled_from(errors), st.integers(1, 3)), max_size=3)
            | st.just([])
        ),
        kubelet_silent=draw(st.integers(0, 15)) == 9,
    )


@given(cases())
@settings(max_examples=examples(100), deadline=None)
def test_orders(case: Case) -> None:
    asyncio.run(check(case))


async def check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = case.world
        node = SimulatedNode.install(directory, [(world.model, len(world.held))], geometry=world.held)
        driver, kubelet = SimulatedDriver(node), MemoryKubelet()
        used = arrange(world, node, kubelet)
        if case.kubelet_silent:
            used |= {device.uuid for device in node.mig_devices()}
            kubelet.silent = True
        before, whole_before = placements(driver), devices(node)
        for call, error, times in case.faults:
            node.inject(call, error, times=times)
        applier = Applier(driver, kubelet, MemoryPlugin(kubelet), in_use_seconds=0.01)
        wanted = world.order
        ending = await applier.apply(wanted, asyncio.Event())

        # Nothing used is ever destroyed.
        assert used <= {device.uuid for device in node.mig_devices()}
        match ending.outcome:
            case agent_pb2.OUTCOME_APPLIED:
                assert ending.message == ""
                assert placements(driver) == [sorted(target) for _, target in wanted]
                assert all(instance.uuid for gpu in driver.read() for instance in gpu.instances)
                told = node.mig_devices()
                again = await applier.apply(wanted, asyncio.Event())
                assert again.outcome == agent_pb2.OUTCOME_APPLIED
                assert node.mig_devices() == told
            case agent_pb2.OUTCOME_REFUSED:
                assert devices(node) == whole_before
                assert placements(driver) == before
            case agent_pb2.OUTCOME_FAILED | agent_pb2.OUTCOME_IN_USE:
                # Each GPU is wholly the one or the other, where the message tells of nothing that could not be undone.
                if not any(word in ending.message for word in ("is lost", " stays: ", "not undone")):
                    now = placements(driver)
                    for index, (_, target) in enumerate(wanted):
                        assert now[index] in (before[index], sorted(target))
                    assert {key for key in whole_before if key[:2] in kept(now)} <= devices(node)
                else:
                    assert case.faults
                assert ending.message
            case other:
                raise AssertionError(agent_pb2.Outcome.Name(other))


def arrange(world: World, node: SimulatedNode, kubelet: MemoryKubelet) -> set[str]:
    """Give instances to pods and processes, or break them; return the UUIDs of those in use."""
    used = set()
    flat = [(index, pair) for index, geometry in enumerate(world.held) for pair in geometry]
    for (gpu, (_, start)), use in zip(flat, world.uses, strict=True):
        device = next(d for d in node.mig_devices() if (d.gpu, d.start) == (gpu, start))
        if use == "broken":
            instance = next(i for i in node.gpus()[gpu].instances if i.uuid == device.uuid)
            node.destroy_compute_instance(gpu, instance.id)
        elif use != "free":
            used.add(device.uuid)
            if use in {"pod", "both"}:
                kubelet.give(device.uuid)
            if use in {"process", "both"}:
                node.hold(device.uuid, 1000 + start)
    return used


def placements(driver: SimulatedDriver) -> list[list[Placement]]:
    return [sorted(instance.placement for instance in gpu.instances) for gpu in driver.read()]


def devices(node: SimulatedNode) -> set[tuple[int, Placement]]:
    return {(device.gpu, Placement(device.start, device.profile)) for device in node.mig_devices()}


def kept(now: list[list[Placement]]) -> set[tuple[int, Placement]]:
    return {(index, placement) for index, there in enumerate(now) for placement in there}
