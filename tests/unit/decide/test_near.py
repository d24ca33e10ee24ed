"""Few pods in a cluster of many nodes: planned with few of them, as many are served as with all."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from brain.decide import batch, near, wide
from brain.decide.kinds import kinds_of
from brain.decide.partition import Plan, plan
from brain.decide.rooms import rooms_of
from brain.model.snapshot import Snapshot
from tests import worlds
from tests.bench.planner import cluster, random_pod
from tests.examples import examples
from tests.unit.decide.test_partition_oracle import random_world
from tests.unit.decide.test_wide import standing


def served(world: Snapshot, result: Plan) -> list[tuple[int, int]]:
    """How many pods of each priority are served, the highest first."""
    found = Counter(pod.priority for pod in world.pods if pod.key in result.assigned)
    return sorted(found.items(), reverse=True)


@pytest.mark.parametrize("seed", range(examples(100)))
def test_few_nodes_serve_as_many_as_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small enough for the program that knows single nodes, which finds the optimum.
    world = random_world(seed)
    best = plan(world)
    monkeypatch.setattr(batch, "EXACT_COLUMNS", 0)
    monkeypatch.setattr(wide, "FEW", 0)
    result = plan(world)
    assert result.bound >= len(best.assigned)


@pytest.mark.parametrize("seed", range(examples(40)))
def test_few_nodes_serve_as_many_as_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)  # noqa: S311
    world = cluster(rng.choice([20, 60]), rng.choice([3, 10, 40]), rng)
    if seed % 2:  # crowded: little cpu, and nothing of many GPUs is free
        nodes = tuple(replace(node, allocatable={**node.allocatable, "cpu": 1_000}) for node in world.nodes)
        world = replace(world, nodes=nodes)
    monkeypatch.setattr(batch, "EXACT_COLUMNS", 0)
    monkeypatch.setattr(wide, "FEW", 1 << 30)
    whole = plan(world)
    monkeypatch.setattr(wide, "FEW", 0)
    few = plan(world)
    assert served(world, few) >= served(world, whole)
    assert few.bound <= whole.bound


@pytest.mark.parametrize("seed", range(examples(12)))
def test_few_pods_change_nothing_where_they_fit_as_things_are(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "EXACT_COLUMNS", 0)
    world = standing(seed, 40)
    few = replace(world, pods=world.pods[: random.Random(seed).choice([1, 3, 10])])  # noqa: S311
    result = plan(few)
    assert not result.unplaced
    assert not result.geometries


def test_nodes_that_pods_can_have_for_themselves_are_the_cheapest() -> None:
    nodes = [
        worlds.node("a", [worlds.gpu(0)]),
        worlds.node("b", [worlds.gpu(0, "7g.40gb@0f")]),
        worlds.node("c", [worlds.gpu(0, "1g.5gb@0f")]),
        worlds.node("d", [worlds.gpu(0, "7g.40gb@0u")]),
        worlds.node("0", [worlds.gpu(0)], allocatable={"cpu": 100, "memory": 1 << 40, "pods": 110}),
    ]
    pods = [worlds.pod(f"p{number}", {"1g.5gb": 1}, request={"cpu": 500}) for number in range(2)]
    found = near.parts(rooms_of(nodes, {}), kinds_of(pods))
    assert found is not None
    sure, scarce = found
    assert [room.node.name for room in sure.rooms] == ["a", "c"], "what is free first, then what nothing goes for"
    assert not scarce.kinds


def test_pods_that_share_too_few_nodes_get_all_of_them() -> None:
    nodes = [
        worlds.node("a", [worlds.gpu(0)]),
        worlds.node("b", [worlds.gpu(0, "4g.20gb@0u")]),
        worlds.node("c", [worlds.gpu(0, "4g.20gb@0u")]),
        worlds.node("d", [worlds.gpu(0, "7g.40gb@0u")]),
    ]
    large = [worlds.pod(f"l{number}", {"7g.40gb": 1}) for number in range(2)]
    small = [worlds.pod(f"s{number}", {"2g.10gb": 1}) for number in range(2)]
    found = near.parts(rooms_of(nodes, {}), kinds_of([*large, *small]))
    assert found is not None
    sure, scarce = found
    assert [room.node.name for room in scarce.rooms] == ["a"]
    assert [kind.pods for kind in scarce.kinds] == [tuple(large)]
    assert [room.node.name for room in sure.rooms] == ["b", "c"]


def test_a_pod_with_several_instances_needs_a_node_that_gives_them_all() -> None:
    nodes = [worlds.node("a", [worlds.gpu(0, "4g.20gb@0u")]), worlds.node("b", [worlds.gpu(0)])]
    found = near.parts(rooms_of(nodes, {}), kinds_of([worlds.pod("p", {"3g.20gb": 2})]))
    assert found is not None
    assert [room.node.name for room in found[0].rooms] == ["b"]


def test_who_has_other_nodes_leaves_alone_those_that_are_contested() -> None:
    nodes = [
        worlds.node("a", [worlds.gpu(0)]),
        worlds.node("b", [worlds.gpu(0)], allocatable={"cpu": 1_000, "memory": 1 << 40, "pods": 110}),
        worlds.node("c", [worlds.gpu(0, "4g.20gb@0u")], allocatable={"cpu": 1_000, "memory": 1 << 40, "pods": 110}),
    ]
    whole = worlds.pod("whole", {"7g.40gb": 1}, request={"cpu": 500})
    greedy = [worlds.pod(f"greedy{number}", {"1g.5gb": 1}, request={"cpu": 5_000}) for number in range(2)]
    found = near.parts(rooms_of(nodes, {}), kinds_of([whole, *greedy]))
    assert found is not None
    sure, scarce = found
    assert [room.node.name for room in sure.rooms] == ["b"]
    assert [room.node.name for room in scarce.rooms] == ["a"]


def test_one_more_pod_touches_only_what_it_needs() -> None:
    world = cluster(40, 0, random.Random(1))  # noqa: S311
    world = replace(world, pods=(random_pod("one", random.Random(3)),))  # noqa: S311
    result = plan(world)
    assert list(result.assigned) == ["team/one"]
    assert len(result.geometries) <= 1
