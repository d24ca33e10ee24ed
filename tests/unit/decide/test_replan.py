"""Decisions made again after a change: the same as from nothing, whatever came before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide import accounts, admission, batch, governed, loop, near, rooms, waiting, wide
from brain.decide.decisions import Decisions
from brain.decide.loop import Settings, decide
from brain.model import snapshot
from brain.model.mig import InstanceState
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names
from tests.examples import examples
from tests.unit.decide.test_partition_oracle import random_world

STEPS = 6


def forget(patch: pytest.MonkeyPatch) -> None:
    """Nothing came before."""
    patch.setattr(snapshot._Last, "groups", snapshot._Groups())
    patch.setattr(rooms._Last, "lent", {})
    patch.setattr(near._Last, "index", near._Index())
    patch.setattr(loop._Last, "turns", {})
    patch.setattr(accounts._Last, "asked", (None,))
    patch.setattr(accounts._Last, "accounts", {})
    patch.setattr(governed._Last, "governance", governed.Governance())
    patch.setattr(admission._Last, "copies", {})
    patch.setattr(waiting._Last, "requests", {})


def afresh(world: Snapshot) -> Decisions:
    """Decisions made from nothing; what is kept for the next round stays as it was."""
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        return decide(world, Settings())


def steps(seed: int) -> Iterator[Snapshot]:
    """A random world, and what becomes of it change by change; all else stays the same objects."""
    rng = random.Random(seed)  # noqa: S311
    world = random_world(seed)
    quota = Quota(Kind.SINGLE, "team", "all", ("team",), {"cpu": rng.choice([0, 4_000])})
    nodes, pods = list(world.nodes), list(world.pods)
    for number in range(STEPS):
        yield replace(world, nodes=tuple(nodes), pods=tuple(pods), quotas=(quota,))
        at = rng.randrange(len(nodes))
        match rng.randrange(6):
            case 0 if pods:
                pods.pop(rng.randrange(len(pods)))
            case 1 if pods:
                old = rng.choice(pods)
                pods.append(replace(old, name=f"more-{number}", uid=f"more-{number}", node="", phase="Pending"))
            case 2 if pods:
                position = rng.randrange(len(pods))
                pods[position] = _moved(pods[position], rng.choice(nodes))
            case 3:
                nodes[at] = replace(nodes[at], unschedulable=not nodes[at].unschedulable)
            case 4:
                nodes[at] = _used(nodes[at], rng)
            case _:
                rng.shuffle(pods)
                nodes.pop(at) if len(nodes) > 1 else None


def _moved(pod: Pod, node: Node) -> Pod:
    """A pod that is bound now, or has ended if it was."""
    if pod.node:
        return replace(pod, phase="Succeeded")
    labels = {**pod.labels, names.CAPACITY_LABEL: names.OVER_QUOTA}
    return replace(pod, node=node.name, phase="Running", unschedulable=False, labels=labels)


def _used(node: Node, rng: random.Random) -> Node:
    """A node whose free instances may be in use now, and whose device plugin may not show them."""
    if node.agent is None:
        return node
    states = [InstanceState.FREE, InstanceState.USED]
    gpus = tuple(
        replace(gpu, instances=tuple(replace(one, state=rng.choice(states)) for one in gpu.instances))
        for gpu in node.agent.gpus
    )
    devices = rng.choice([node.agent.allocatable, {}])
    return replace(node, agent=replace(node.agent, gpus=gpus, allocatable=devices), untainted_seconds=0.5)


@pytest.mark.parametrize(("columns", "few"), [(batch.EXACT_COLUMNS, wide.FEW), (0, wide.FEW), (0, 0)])
@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(min_value=0, max_value=1 << 40))
def test_what_came_before_means_nothing(columns: int, few: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "EXACT_COLUMNS", columns)
        patch.setattr(wide, "FEW", few)
        for world in steps(seed):
            assert decide(world, Settings()) == afresh(world)
