"""Random calls on the simulated driver and, through the real binding, on the stand-in for NVIDIA's library: the same.

Two implementations of the hardware's rules, in two languages, and two drivers on them; where one is wrong they differ.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from n8s.catalogue import models
from nodeagent.errors import DriverError, InUseError
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.nvml_driver import NvmlDriver
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from tests.examples import examples
from tests.nvml.standin import StandIn

if TYPE_CHECKING:
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
@settings(max_examples=examples(80), deadline=None)
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
