"""Time and memory of one plan, on random clusters of three GPU models with instances used and free.

Prints nodes, GPUs, waiting pods, kinds of GPUs' contents, pods served, the bound, seconds of the first plan and of one
made again (fillings are known by then), and the process's largest memory; then how the first plan's time grows with
nodes, against nodes x log nodes. One core. Only plan() is timed, with the garbage collector as it is by default; it
pauses the collector itself, so freezing the snapshot (gc.freeze) would only spare the full collections between plans.
Does not show: the watch, and the decoding of objects.
"""

from __future__ import annotations

import math
import random
import resource
import time
from dataclasses import replace
from functools import cache
from typing import Final

from brain.decide.partition import Plan, plan
from brain.model.mig import Gpu, Instance, InstanceState, invalid
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import catalogue
from tests import worlds

SIZES: Final = (
    (10, 40),
    (20, 300),
    (100, 400),
    (400, 1_600),
    (1_000, 4_000),
    (5_000, 20_000),
    (100, 1_200),
    (400, 4_800),
    (5_000, 60_000),
)
"""Nodes of eight GPUs each, and waiting pods: four a node find room, twelve do not."""
MODELS: Final = ("A100-40GB", "H100-80GB", "A30-24GB")
SLICES: Final = ("1g", "2g", "3g", "4g", "7g")


def main() -> None:
    """Prints one line a size."""
    print("nodes   GPUs   pods  kinds  served  bound  first s  again s  MiB")
    seconds: dict[tuple[int, int], float] = {}
    for nodes, pods in SIZES:
        world = cluster(nodes, pods, random.Random(1))  # noqa: S311
        gpus = [gpu for node in world.nodes for gpu in (node.agent.gpus if node.agent is not None else ())]
        kinds = len({(gpu.model, tuple((i.placement, i.state) for i in gpu.instances)) for gpu in gpus})
        first, result = timed(world)
        seconds[nodes, pods] = first
        again, _ = timed(world)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sizes = f"{nodes:5} {len(gpus):6} {pods:6} {kinds:6} {len(result.assigned):7} {result.bound:6}"
        print(f"{sizes} {first:8.2f} {again:8.2f} {memory:4}")
    for small, large in (((100, 400), (5_000, 20_000)), ((100, 1_200), (5_000, 60_000))):
        grown = seconds[large] / seconds[small]
        allowed = large[0] * math.log(large[0]) / (small[0] * math.log(small[0]))
        sizes = f"{small[0]} to {large[0]} nodes, {small[1] // small[0]} pods a node"
        print(f"{sizes}: x {grown:.1f}; n log n: x {allowed:.1f}")


def timed(world: Snapshot) -> tuple[float, Plan]:
    """Seconds of a plan, and the plan."""
    began = time.perf_counter()
    result = plan(world)
    return time.perf_counter() - began, result


def cluster(nodes: int, pods: int, rng: random.Random) -> Snapshot:
    """A random cluster."""
    return Snapshot(
        tuple(_node(f"n{number:05}", rng) for number in range(nodes)),
        tuple(random_pod(f"p{number:06}", rng) for number in range(pods)),
    )


def base(model: str) -> list[str]:
    """The plain profiles of a model: one for each number of compute slices."""
    known = [profile.name for profile in catalogue.models()[model].profiles]
    found = (next((name for name in known if name.startswith(slices) and "+" not in name), None) for slices in SLICES)
    return [name for name in found if name is not None]


def _node(name: str, rng: random.Random) -> Node:
    model = rng.choice(MODELS)
    amounts = {"cpu": rng.choice([16_000, 32_000, 64_000]), "memory": 256 << 30, "pods": 110}
    return worlds.node(name, [_gpu(index, model, rng) for index in range(8)], allocatable=amounts)


def _gpu(index: int, model: str, rng: random.Random) -> Gpu:
    shown = empty(model)
    known = {profile.name: profile for profile in shown.profiles}
    placed: list[Instance] = []
    for _ in range(rng.randrange(6)):
        profile = known[rng.choice(base(model))]
        state = rng.choice([InstanceState.FREE, InstanceState.USED])
        new = Instance(profile.name, rng.choice(profile.starts), profile.size, state, f"MIG-{index}-{len(placed)}")
        if not invalid(known, [*(instance.placement for instance in placed), new.placement]):
            placed.append(new)
    return replace(shown, index=index, instances=tuple(sorted(placed, key=lambda instance: instance.start)))


@cache
def empty(model: str) -> Gpu:
    """An empty GPU: those of a model have their profiles in common, as in what the agents report."""
    return worlds.gpu(0, "", model)


def random_pod(name: str, rng: random.Random) -> Pod:
    profile = rng.choice(base(rng.choice(MODELS)))
    request = {"cpu": rng.choice([500, 1_000, 2_000]), "memory": rng.choice([1, 2, 4]) << 30}
    count = 2 if rng.random() < 0.1 else 1
    return worlds.pod(name, {profile: count}, request=request, priority=rng.choice([0, 0, 10]))
