"""Random calls on the simulated driver and, through the real binding, on the stand-in for NVIDIA's library: the same.

Two implementations of the hardware's rules, in two languages, and two drivers on them; where one is wrong they differ.
And an agent that dies or fails at each call that changes what the library holds, as in ``test_apply_steps.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n8s.catalogue import models
from n8s.v1 import agent_pb2
from nodeagent.apply import Applier, Ending
from nodeagent.errors import DriverError, GpuLostError, InUseError
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.nvml_driver import NvmlDriver
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from tests.examples import examples
from tests.nvml.standin import StandIn
from tests.unit.nodeagent.standins import MemoryKubelet, MemoryPlugin, at_once
from tests.unit.nodeagent.test_apply_steps import Died, Fault, Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodeagent.gpu.driver import Gpu, GpuDriver, Instance

Verb = Literal["create", "create again", "destroy", "destroy stale", "break", "repair", "hold", "release"]
VERBS: list[Verb] = [
    *("create", "create", "create", "create again", "destroy", "destroy", "destroy stale", "break", "repair"),
    *("hold", "release"),
]

Step = tuple[Verb, int, int, int]
"""What to do, the GPU, and two numbers that choose profile and start, or an instance, or a process."""

steps = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(0, 1), st.integers(0, 11), st.integers(0, 7)),
    min_size=10,
    max_size=60,
)


@given(st.sampled_from(sorted(models())), st.sampled_from(sorted(models())), steps)
@settings(max_examples=examples(60), deadline=None)
def test_both_hardwares_and_both_drivers_agree(one: str, other: str, sequence: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        simulated = SimulatedNode.install(directory, [(one, 1), (other, 1)], geometry=[[], []])
        standin = StandIn(Path(directory) / "nvml")
        standin.add(one)
        standin.add(other)
        left, right = SimulatedDriver(simulated), NvmlDriver()
        stale: list[list[tuple[Instance, Instance]]] = [[], []]
        for verb, gpu, first, second in sequence:
            pairs = list(zip(left.read()[gpu].instances, right.read()[gpu].instances, strict=True))
            mine, theirs = pairs[first % len(pairs)] if pairs else (None, None)
            match verb:
                case "create":
                    model = models()[(one, other)[gpu]]
                    profile = model.profiles[first % len(model.profiles)]
                    # Now and then a start that no profile has.
                    start = profile.starts[second % len(profile.starts)] if second else 7
                    placement = Placement(start, profile.name)
                    assert ending(left, "create", gpu, placement) == ending(right, "create", gpu, placement)
                case "create again" if stale[gpu]:
                    placement = stale[gpu][-1][0].placement
                    assert ending(left, "create", gpu, placement) == ending(right, "create", gpu, placement)
                case "destroy" | "repair" if mine and theirs:
                    stale[gpu].append((mine, theirs))
                    assert ending(left, verb, gpu, mine) == ending(right, verb, gpu, theirs)
                case "destroy stale" if stale[gpu]:
                    mine, theirs = stale[gpu][-1 - first % len(stale[gpu])]
                    assert ending(left, "destroy", gpu, mine) == ending(right, "destroy", gpu, theirs)
                case "break" if mine and theirs and mine.uuid and not mine.processes:
                    simulated.destroy_compute_instance(gpu, mine.id)
                    standin.fail("nvmlGpuInstanceDestroy", 19)
                    assert ending(right, "destroy", gpu, theirs)[0] is InUseError
                case "hold" if mine and theirs and mine.uuid and theirs.uuid:
                    simulated.hold(mine.uuid, 100 + second)
                    standin.hold(theirs.uuid, 100 + second)
                case "release":
                    simulated.release(100 + second)
                    standin.release(100 + second)
                case _:
                    pass
            assert list(map(comparable, left.read())) == list(map(comparable, right.read()))


def ending(driver: GpuDriver, call: str, *arguments: object) -> tuple[type[DriverError] | None, tuple[int, ...]]:
    """What a call ended with, and the processes that it names."""
    try:
        getattr(driver, call)(*arguments)
    except DriverError as error:
        return type(error), error.processes if isinstance(error, InUseError) else ()
    return None, ()


def comparable(gpu: Gpu) -> Gpu:
    """A GPU without what is random or, for whole GPUs, a matter of the table: names, UUIDs, the order of profiles."""
    return replace(
        gpu,
        uuid="",
        model="",
        profiles=tuple(sorted(gpu.profiles, key=lambda profile: profile.name)),
        memory_mib=0,
        instances=tuple(replace(one, uuid=None if one.uuid is None else "MIG") for one in gpu.instances),
    )


CHANGES = (
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceDestroy",
)
Use = Literal["free", "used", "broken"]

# One line each: model, what it holds, what is ordered.
ORDERS: list[tuple[str, list[tuple[str, int, Use]], list[tuple[str, int]]]] = [
    (
        "A100-40GB",
        [("2g.10gb", 0, "free"), ("1g.5gb", 2, "free"), ("3g.20gb", 4, "used")],
        [("1g.5gb", 0), ("1g.5gb", 1), ("1g.5gb", 2), ("3g.20gb", 4)],
    ),
    ("A30-24GB", [("2g.12gb", 0, "broken"), ("1g.6gb", 2, "broken")], [("2g.12gb", 0), ("2g.12gb", 2)]),
]


@pytest.mark.parametrize(("model", "held", "wanted"), ORDERS)
def test_an_order_that_dies_or_fails_at_any_change(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    held: list[tuple[str, int, Use]],
    wanted: list[tuple[str, int]],
) -> None:
    proc = tmp_path / "proc"
    proc.mkdir()
    steps = Steps()
    for name in CHANGES:
        monkeypatch.setattr(pynvml, name, stepped(name, getattr(pynvml, name), lambda: steps))
    faults: list[Fault | None] = [None]
    number = 0
    while number < len(faults):
        fault = faults[number]
        state = tmp_path / str(number)
        steps = Steps()
        used = arranged(StandIn(state), model, held)
        before = contents()
        steps = Steps(fault)
        ending = at_once(ordered(wanted, proc))
        after = sorted((start, profile, True) for profile, start in wanted)
        if fault is None:
            assert contents() == after
            for at in range(len(steps.taken)):
                faults += [Fault(at, None), Fault(at, None, after=True)]
                for error in (InUseError, GpuLostError):
                    faults += [Fault(at, error), Fault(at, error, after=True)]
        elif ending is None or ending.outcome != agent_pb2.OUTCOME_APPLIED:
            assert ending is None or ending.message
            if ending is not None:
                now = contents()
                assert [one[:2] for one in now] == [one[:2] for one in before], fault
                assert {one for one in before if one[2]} <= {*now}, fault
            steps = Steps()
            ending = at_once(ordered(wanted, proc))
        assert ending is not None
        assert (ending.outcome, ending.message) == (agent_pb2.OUTCOME_APPLIED, ""), fault
        assert contents() == after
        assert used <= {one.uuid or "" for one in NvmlDriver().read()[0].instances}
        state.unlink()
        number += 1
    assert number > 24


def stepped(name: str, call: Callable[..., Any], steps: Callable[[], Steps]) -> Callable[..., Any]:
    def step(*arguments: object) -> object:
        with steps().step(name, lambda error: pynvml.NVMLError(CODES[error])):
            return call(*arguments)

    return step


CODES = {InUseError: pynvml.NVML_ERROR_IN_USE, GpuLostError: pynvml.NVML_ERROR_GPU_IS_LOST}


def arranged(node: StandIn, model: str, held: list[tuple[str, int, Use]]) -> set[str]:
    """Fill a node's one GPU, and return the UUIDs of what is used."""
    node.add(model)
    driver = NvmlDriver()
    used = set()
    for profile, start, use in held:
        driver.create(0, Placement(start, profile))
        (made,) = (one for one in driver.read()[0].instances if one.placement.start == start)
        if use == "used" and made.uuid is not None:
            node.hold(made.uuid, 4711)
            used.add(made.uuid)
        if use == "broken":
            node.fail("nvmlGpuInstanceDestroy", 19)
            with contextlib.suppress(InUseError):
                driver.destroy(0, made)
    return used


async def ordered(wanted: list[tuple[str, int]], proc: Path) -> Ending | None:
    """How an order ends for an agent that has just started; None where it dies."""
    kubelet = MemoryKubelet()
    applier = Applier(NvmlDriver(proc), kubelet, MemoryPlugin(kubelet), proc=proc, in_use_seconds=1)
    try:
        return await applier.apply([(0, [Placement(start, profile) for profile, start in wanted])], asyncio.Event())
    except Died:
        return None


def contents() -> list[tuple[int, str, bool]]:
    """What the GPU holds: start, profile, and whether it is whole."""
    instances = NvmlDriver().read()[0].instances
    return sorted((one.placement.start, one.placement.profile, one.uuid is not None) for one in instances)
