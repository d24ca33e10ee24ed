"""The planner's way with large clusters, forced upon small worlds where a dumb second look can tell what is best."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide import batch
from brain.decide.partition import Plan, plan
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from tests.bench.planner import cluster
from tests.examples import examples
from tests.unit.decide.test_partition_oracle import best_counts, check, gpus, only_two, random_world
from tests.worlds import gpu, node, pod

ORACLE_SHARE = 0.98
"""Share of the pods of the best plans that the wide path serves, over many worlds of up to four pods."""
EXACT_SHARE = 0.98
"""The same of the exact program's plans of crowded clusters; larger ones lose less, see the bench."""


@pytest.fixture(autouse=True, scope="module")
def _wide() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "EXACT_COLUMNS", 0)
        yield


def crowded(seed: int) -> Snapshot:
    """A random world in which cpu, memory, pods and host ports are short too."""
    rng = random.Random(seed)  # noqa: S311
    world = random_world(seed)

    def node_(item: Node) -> Node:
        return replace(item, allocatable={**item.allocatable, "memory": rng.choice([2, 8]) << 30, "pods": 4})

    def pod_(item: Pod) -> Pod:
        ports = frozenset({("TCP", "0.0.0.0", 80)}) if rng.random() < 0.2 else frozenset()
        return replace(item, request={**item.request, "memory": rng.choice([0, 1, 2]) << 30}, host_ports=ports)

    more = tuple(replace(item, name=f"{item.name}-{copy}") for item in world.pods if not item.node for copy in range(2))
    return Snapshot(tuple(map(node_, world.nodes)), tuple(map(pod_, (*world.pods, *more))))


def check_room(world: Snapshot, result: Plan) -> None:
    """No node is promised more cpu, memory, pods or host ports than it has."""
    for item in world.nodes:
        coming = [p for p in world.pods if result.assigned.get(p.key) == item.name]
        here = [p for p in world.pods if p.node == item.name]
        for name in {name for p in coming for name, value in p.request.items() if value} & {"cpu", "memory"}:
            taken = sum(p.request.get(name, 0) for p in [*here, *coming])
            assert taken <= item.allocatable[name] or not any(p.request.get(name) for p in coming)
        assert not coming or len(here) + len(coming) <= item.allocatable["pods"]
        ports = Counter(port for p in [*here, *coming] for port in p.host_ports)
        assert all(ports[port] <= 1 for p in coming for port in p.host_ports)


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_nothing_forbidden_is_planned(seed: int) -> None:
    world = crowded(seed)
    result = plan(world)
    check(world, result)
    check_room(world, result)
    waiting = {p.key for p in world.pods if p.waiting}
    assert set(result.assigned) | set(result.unplaced) == waiting
    assert len(result.assigned) <= result.bound


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40), st.randoms(use_true_random=False))
def test_the_order_of_the_snapshot_means_nothing(seed: int, rng: random.Random) -> None:
    world = crowded(seed)
    assert plan(world) == plan(shuffled(world, rng))


def test_nor_does_it_in_a_crowded_cluster() -> None:
    world = cluster(30, 360, random.Random(5))  # noqa: S311
    assert plan(world) == plan(shuffled(world, random.Random(6)))  # noqa: S311


def shuffled(world: Snapshot, rng: random.Random) -> Snapshot:
    nodes, pods = list(world.nodes), list(world.pods)
    rng.shuffle(nodes)
    rng.shuffle(pods)
    return Snapshot(tuple(nodes), tuple(pods))


def standing(seed: int, nodes: int) -> Snapshot:
    """A random world whose pods ask for just what is free: each for one to three instances that one node has."""
    rng = random.Random(seed)  # noqa: S311
    items = cluster(nodes, 0, rng).nodes
    pods: list[Pod] = []
    for item in items:
        free = [i.profile for g in gpus(item) for i in g.instances if not i.fixed]
        rng.shuffle(free)
        while free:
            mig = Counter(free.pop() for _ in range(min(len(free), rng.choice([1, 2, 3]))))
            pods.append(pod(f"p{len(pods)}", mig, request={"cpu": 0}, priority=rng.choice([0, 5])))
    rng.shuffle(pods)
    return Snapshot(items, tuple(pods))


@pytest.mark.parametrize("seed", range(examples(12)))
def test_nothing_changes_where_all_fit_as_things_are(seed: int) -> None:
    world = standing(seed, 30)
    result = plan(world)
    assert not result.unplaced
    assert not result.geometries
    check(world, result)
    assert plan(shuffled(world, random.Random(seed))) == result  # noqa: S311


def test_what_cpu_leaves_no_room_for_is_not_dealt_anew() -> None:
    """Where cpu is short as well, nobody is promised more of it than there is."""
    for seed in range(4):
        world = standing(seed, 12)
        nodes = [replace(item, allocatable={**item.allocatable, "cpu": 5_000}) for item in world.nodes]
        pods = [replace(item, request={**item.request, "cpu": 500}) for item in world.pods]
        short = Snapshot(tuple(nodes), tuple(pods))
        check_room(short, plan(short))


def test_a_large_instance_that_exists_is_taken_before_another_is_made() -> None:
    """A 4g.96gb is worth more than any instance of other models."""
    model = "RTX-PRO-6000-96GB"
    nodes = [
        node("a", [gpu(0, "", model), gpu(1, "1g.24gb@0u", model)]),
        node("b", [gpu(0, "4g.96gb@0f", model), gpu(1, "2g.48gb@0f", model)]),
    ]
    pods = (pod("p", {"4g.96gb": 1, "2g.48gb": 1}), pod("small", {"1g.24gb": 1}))
    result = plan(Snapshot(tuple(nodes), pods))
    assert result.assigned["team/p"] == "b"
    assert list(result.made) == ["team/small"], "of which none is free"


def test_who_changes_places_fits_there() -> None:
    """Pods of one shape with little cpu on nodes of different sizes: some are served by exchanging others."""
    for seed in range(40):
        rng = random.Random(seed)  # noqa: S311
        nodes = tuple(
            node(f"n{n}", [gpu(0)], allocatable={"cpu": rng.randint(4, 14) * 500, "memory": 1 << 40, "pods": 9})
            for n in range(3)
        )
        pods = tuple(pod(f"p{n}", {"1g.5gb": 1}, request={"cpu": rng.randint(1, 5) * 500}) for n in range(18))
        world = Snapshot(nodes, pods)
        result = plan(world)
        check(world, result)
        check_room(world, result)


def test_close_to_the_best_plans() -> None:
    """Against all assignments of up to four pods to up to three nodes: never better, seldom worse."""
    served = best = 0
    for seed in range(250):
        world = random_world(seed)
        pods = [p for p in world.pods if p.waiting and sum(p.mig_request.values()) <= 2][:4]
        small = Snapshot(tuple(replace(item, agent=only_two(item)) for item in world.nodes), tuple(pods))
        result = plan(small)
        levels = sorted({p.priority for p in pods}, reverse=True)
        counts = tuple(sum(p.priority == level and p.key in result.assigned for p in pods) for level in levels)
        most = best_counts(small)
        assert counts <= most
        assert result.bound >= sum(counts)
        served += sum(counts)
        best += sum(most)
    assert served >= ORACLE_SHARE * best


def test_close_to_the_exact_program() -> None:
    served = best = 0
    for seed in range(4):
        world = cluster(5, 60, random.Random(seed))  # noqa: S311
        served += len(plan(world).assigned)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch, "EXACT_COLUMNS", 10_000)
            exact = plan(world)
        assert len(exact.assigned) <= plan(world).bound
        best += len(exact.assigned)
    assert served >= EXACT_SHARE * best
