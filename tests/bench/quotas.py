"""Time of one round of decisions where quotas are kept: 1,000 quotas, 5,000 nodes of 8 GPUs, 50,000 pods, 15,000 wait.

Each used instance of the random cluster is held by a pod of one of the namespaces, up to 35,000 pods; the others have
no MIG devices. The waiting pods are behind the gate. Quotas guarantee about what the cluster has, so that some own and
some borrow. Printed are pods let in and evictions decided, the seconds of the first round, and of a round after one pod
has changed. Does not show: the watch, and carrying decisions out.
"""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace
from typing import Final

from brain.decide.decisions import Evict, LetIn
from brain.decide.loop import Settings, decide
from brain.model.mig import Holder, InstanceState
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names
from tests.bench.planner import cluster

QUOTAS: Final = 1_000
NODES: Final = 5_000
RUNNING: Final = 35_000
WAITING: Final = 15_000


def main() -> None:
    """Prints one line."""
    print("nodes   pods  quotas  waiting  let in  evictions  first s  again s")
    world = quota_world(random.Random(1))  # noqa: S311
    settings = Settings()
    began = time.perf_counter()
    decisions = decide(world, settings).decisions
    first = time.perf_counter() - began
    gc.freeze()  # as the brain does after its first round
    pod = next(pod for pod in world.pods if pod.node)
    changed = tuple(replace(each, phase="Succeeded") if each is pod else each for each in world.pods)
    began = time.perf_counter()
    decide(replace(world, pods=changed), settings)
    again = time.perf_counter() - began
    entered = sum(isinstance(each, LetIn) for each in decisions)
    evicted = sum(isinstance(each, Evict) for each in decisions)
    counts = f"{NODES:5} {len(world.pods):6} {QUOTAS:7} {WAITING:8} {entered:7} {evicted:10}"
    print(f"{counts} {first:8.2f} {again:8.2f}")


def quota_world(rng: random.Random) -> Snapshot:
    """A random cluster whose pods belong to quotas."""
    plain = cluster(NODES, WAITING, rng)
    running: list[Pod] = []
    nodes = tuple(_held(node, running, rng) for node in plain.nodes)
    while len(running) < RUNNING:
        namespace, node = f"team-{rng.randrange(QUOTAS):04}", rng.choice(nodes).name
        name = f"plain-{len(running):05}"
        running.append(Pod(namespace, name, name, len(running), {"cpu": 100}, phase="Running", node=node))
    waiting = [
        replace(pod, namespace=f"team-{rng.randrange(QUOTAS):04}", gates=(names.QUOTA_GATE,), created=RUNNING + number)
        for number, pod in enumerate(plain.pods)
    ]
    quotas = tuple(
        Quota(
            Kind.SINGLE, f"team-{number:04}", "quota", (f"team-{number:04}",), {names.GPU_MEMORY: rng.randrange(1_100)}
        )
        for number in range(QUOTAS)
    )
    return Snapshot(nodes, (*running, *waiting), quotas)


def _held(node: Node, running: list[Pod], rng: random.Random) -> Node:
    """A node each of whose used instances is held by a pod."""
    agent = node.agent
    assert agent is not None
    gpus = []
    for gpu in agent.gpus:
        instances = []
        for instance in gpu.instances:
            if instance.state is InstanceState.USED and len(running) < RUNNING:
                namespace, name = f"team-{rng.randrange(QUOTAS):04}", f"mig-{len(running):05}"
                request = {names.mig_resource(instance.profile): 1, "cpu": 100}
                running.append(
                    Pod(namespace, name, name, len(running), request, phase="Running", node=node.name, priority=0)
                )
                instances.append(replace(instance, holder=Holder(namespace, name, "main")))
            else:
                instances.append(instance)
        gpus.append(replace(gpu, instances=tuple(instances)))
    return replace(node, agent=replace(agent, gpus=tuple(gpus)))
