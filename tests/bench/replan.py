"""Time of a plan made again in a large cluster where one thing has changed: 5,000 nodes of 8 GPUs, 60,000 pods.

In the first clusters all but 200 pods are bound and hold instances. In ``settled`` nobody waits; in ``roomy`` the 200
wait, and there is room for most; in ``crowded`` other programs have most of what is left. In ``waiting`` all
pods wait, for less room than they ask for. Then one thing changes, and all other objects stay the same, as they do in
the snapshots of the brain's store. Printed are seconds of plan() and of decide(), which plans too, each with the
processor's seconds, and how many pods wait and are served. One core.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from brain.decide.loop import Settings, decide
from brain.decide.partition import plan
from brain.model.mig import Gpu, Holder, Instance, InstanceState, Placement, invalid
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from tests import worlds
from tests.bench.planner import MODELS, base, cluster, empty, random_pod

T = TypeVar("T")

NODES: Final = 5_000
PODS: Final = 60_000
WAITING: Final = 200
GPUS: Final = 8


def main() -> None:
    """Prints one line a change."""
    print("cluster  change             plan s   cpu s  decide s   cpu s  waiting  served")
    roomy = running(random.Random(1), crowded=False)  # noqa: S311
    crowded = running(random.Random(1), crowded=True)  # noqa: S311
    settled = replace(roomy, pods=tuple(pod for pod in roomy.pods if pod.node))
    for name, world in (("settled", settled), ("roomy", roomy), ("crowded", crowded)):
        measure(name, world, (*changes(world), ("one pod more", more(world))))
    world = cluster(NODES, PODS, random.Random(1))  # noqa: S311
    measure("waiting", world, [("one pod more", more(world))])


def measure(name: str, world: Snapshot, steps: Iterable[tuple[str, Snapshot]]) -> None:
    """Plans a cluster from nothing, then as it is after each change."""
    gc.collect()
    gc.freeze()
    for change, after in (("from nothing", world), *steps):
        result, wall, spent = timed(lambda after=after: plan(after))  # type: ignore[misc]
        _, both, used = timed(lambda after=after: decide(after, Settings()))  # type: ignore[misc]
        waiting = sum(1 for pod in after.pods if pod.waiting)
        served = len(result.assigned)
        print(f"{name:8} {change:17} {wall:7.3f} {spent:7.3f} {both:9.3f} {used:7.3f} {waiting:8} {served:7}")
    gc.unfreeze()


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """A result, seconds, and seconds of the processor."""
    began, spent = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - began, time.process_time() - spent


def changes(world: Snapshot) -> Iterator[tuple[str, Snapshot]]:
    """One change after the other."""
    nodes, pods = list(world.nodes), list(world.pods)
    nodes[17] = replace(nodes[17], unschedulable=True)
    yield "one node cordoned", replace(world, nodes=tuple(nodes))
    at = next(position for position, pod in enumerate(pods) if pod.node == nodes[40].name)
    gone = pods.pop(at)
    agent = nodes[40].agent
    if agent is not None:
        nodes[40] = replace(nodes[40], agent=replace(agent, gpus=tuple(_left(gpu, gone) for gpu in agent.gpus)))
    yield "one pod ended", replace(world, nodes=tuple(nodes), pods=tuple(pods))


def more(world: Snapshot) -> Snapshot:
    """A cluster in which one pod more waits."""
    return replace(world, pods=(*world.pods, random_pod("more", random.Random(2))))  # noqa: S311


def running(rng: random.Random, *, crowded: bool) -> Snapshot:
    """A cluster whose pods but some run."""
    nodes, pods = [], [random_pod(f"w{number:03}", rng) for number in range(WAITING)]
    for number in range(NODES):
        name, model = f"n{number:05}", rng.choice(MODELS)
        gpus = []
        left = (PODS - WAITING) * (number + 1) // NODES - (PODS - WAITING) * number // NODES
        for index in range(GPUS):
            count = left // (GPUS - index)
            gpu, held = _gpu(index, model, count, f"{name}-{index}", rng, crowded=crowded)
            left -= len(held)
            gpus.append(gpu)
            pods += [worlds.bound(pod, name, {profile: 1}, request={"cpu": 500}) for pod, profile in held]
        nodes.append(worlds.node(name, gpus))
    return Snapshot(tuple(nodes), tuple(pods))


def _gpu(
    index: int, model: str, count: int, prefix: str, rng: random.Random, *, crowded: bool
) -> tuple[Gpu, list[tuple[str, str]]]:
    """A GPU on which some pods hold instances; those pods with their profiles."""
    shown = empty(model)
    known = {profile.name: profile for profile in shown.profiles}
    small, placed, held = base(model)[:3], list[Instance](), list[tuple[str, str]]()
    for number in range(40):
        profile = known[rng.choice(small)]
        start = rng.choice(profile.starts)
        if invalid(known, [*(one.placement for one in placed), Placement(start, profile.name)]):
            continue
        instance = Instance(profile.name, start, profile.size, uuid=f"MIG-{prefix}-{number}")
        if len(held) < count:
            held.append((f"{prefix}-{number}", profile.name))
            holder = Holder("team", held[-1][0], "main")
            placed.append(replace(instance, state=InstanceState.USED, holder=holder))
        elif crowded:
            placed.append(replace(instance, state=InstanceState.USED))
        elif rng.random() < 0.5:
            placed.append(instance)
        else:
            break
    return replace(shown, index=index, instances=tuple(sorted(placed, key=lambda one: one.start))), held


def _left(gpu: Gpu, pod: Pod) -> Gpu:
    """A GPU once a pod has ended."""
    free = [
        replace(one, state=InstanceState.FREE, holder=None) if one.holder and one.holder.pod == pod.name else one
        for one in gpu.instances
    ]
    return replace(gpu, instances=tuple(free))
