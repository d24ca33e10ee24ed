"""With no new pods, a cluster comes to rest: planning, applying and binding end, on random worlds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide import batch
from brain.decide.partition import Plan, plan
from brain.model.mig import Gpu, Holder, Instance, InstanceState
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import names
from tests.examples import examples
from tests.unit.decide.test_together import social_world

ROUNDS = 6
"""More than any of these small worlds takes."""


def applied(world: Snapshot, result: Plan, rng: random.Random) -> Snapshot:
    """The world once the plan's geometries are there and its pods are bound; the kubelet chooses among free ones."""
    nodes = [_changed(item, result) for item in world.nodes]
    pods = []
    for each in world.pods:
        where = result.assigned.get(each.key)
        if where is None:
            pods.append(each)
            continue
        position = next(number for number, item in enumerate(nodes) if item.name == where)
        nodes[position] = _held(nodes[position], each, rng)
        pods.append(replace(each, node=where, phase="Running", unschedulable=False))
    return Snapshot(tuple(nodes), tuple(pods))


def _changed(item: Node, result: Plan) -> Node:
    wanted = result.geometries.get(item.name, {})
    gpus = []
    for gpu in item.agent.gpus if item.agent is not None else ():
        known = {instance.placement: instance for instance in gpu.instances}
        sizes = {profile.name: profile.size for profile in gpu.profiles}
        instances = tuple(
            known.get(place)
            or Instance(place.profile, place.start, sizes[place.profile], uuid=f"new-{gpu.index}-{place}")
            for place in wanted.get(gpu.index, gpu.geometry)
        )
        gpus.append(replace(gpu, instances=instances))
    return _with(item, gpus)


def _held(item: Node, pod: Pod, rng: random.Random) -> Node:
    gpus = list(item.agent.gpus if item.agent is not None else ())
    for resource, count in pod.mig_request.items():
        for _ in range(count):
            free = [
                (position, instance)
                for position, gpu in enumerate(gpus)
                for instance in gpu.instances
                if instance.state is InstanceState.FREE and names.mig_resource(instance.profile) == resource
            ]
            if not item.enabled and not free:
                return item  # a node that is not ours: what it has is the kubelet's business
            position, taken = rng.choice(free)
            used = replace(taken, state=InstanceState.USED, holder=Holder(pod.namespace, pod.name, "main"))
            gpus[position] = replace(
                gpus[position],
                instances=tuple(used if one is taken else one for one in gpus[position].instances),
            )
    return _with(item, gpus)


def _with(item: Node, gpus: list[Gpu]) -> Node:
    if item.agent is None:
        return item
    agent = replace(item.agent, gpus=tuple(gpus))
    agent = replace(agent, allocatable=agent.devices)
    devices = {name: len(ids) for name, ids in agent.devices.items()}
    plain = {name: count for name, count in item.allocatable.items() if not name.startswith(names.MIG_PREFIX)}
    return replace(item, agent=agent, allocatable=plain | devices)


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40), st.booleans())
def test_a_cluster_comes_to_rest(seed: int, large: bool) -> None:
    world, rng = social_world(seed), random.Random(seed)  # noqa: S311
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(batch, "EXACT_COLUMNS", 0)
        for _ in range(ROUNDS):
            result = plan(world)
            if not result.assigned and not result.geometries:
                return
            world = applied(world, result, rng)
    raise AssertionError(f"no rest after {ROUNDS} rounds: {result}")
