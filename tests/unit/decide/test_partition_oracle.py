"""The planner against a dumb second look, on thousands of random worlds."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide.partition import Plan, plan
from brain.model.mig import Gpu, Instance, InstanceState, Placement, invalid
from brain.model.node import Agent, Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import names
from tests.examples import examples
from tests.worlds import bound, gpu, node, pod

MODELS = ["A100-40GB", "A30-24GB", "H100-80GB", "RTX-PRO-6000-96GB"]


def random_gpu(rng: random.Random, index: int, model: str) -> Gpu:
    empty = gpu(index, "", model)
    known = {profile.name: profile for profile in empty.profiles}
    placed: list[Instance] = []
    for _ in range(rng.randrange(8)):
        profile = rng.choice(empty.profiles)
        start = rng.choice(profile.starts)
        state = rng.choice([InstanceState.FREE, InstanceState.FREE, InstanceState.USED, InstanceState.UNKNOWN])
        new = Instance(profile.name, start, profile.size, state, f"MIG-{index}-{start}-{profile.name}")
        if not invalid(known, [*(i.placement for i in placed), new.placement]):
            placed.append(new)
    return Gpu(index, empty.model, empty.slots, empty.profiles, tuple(sorted(placed, key=lambda i: i.start)))


def gpus(item: Node) -> tuple[Gpu, ...]:
    assert item.agent is not None
    return item.agent.gpus


def random_world(seed: int) -> Snapshot:
    rng = random.Random(seed)  # noqa: S311
    nodes, pods = [], []
    for number in range(rng.randint(1, 3)):
        model = rng.choice(MODELS)
        made = [random_gpu(rng, index, model) for index in range(rng.randint(1, 3))]
        amounts = {"cpu": rng.choice([2000, 8000]), "memory": 1 << 40, "pods": 110}
        nodes.append(
            node(
                f"n{number}",
                made,
                allocatable=amounts,
                labels={names.AUTO_MIG_LABEL: rng.choice(["true", "true", "false"])},
            )
        )
    every = sorted({profile.name for item in nodes for g in gpus(item) for profile in g.profiles})
    for number in range(rng.randint(0, 8)):
        mig = {rng.choice(every): rng.choice([1, 1, 1, 2]) for _ in range(rng.choice([1, 1, 1, 2]))}
        request = {"cpu": rng.choice([0, 500, 1500])}
        if rng.random() < 0.15:
            pods.append(bound(f"b{number}", rng.choice(nodes).name, mig, request=request))
        else:
            pods.append(
                pod(f"p{number}", mig, request=request, priority=rng.choice([0, 0, 5]), created=rng.randrange(3))
            )
    return Snapshot(tuple(nodes), tuple(pods))


def check(world: Snapshot, result: Plan) -> None:
    """Nothing that the design forbids, worked out from the geometries and assignments alone."""
    for item in world.nodes:
        assert item.agent is not None
        wanted = result.geometries.get(item.name, {})
        assert item.enabled or not wanted
        devices: Counter[str] = Counter()
        for g in item.agent.gpus:
            geometry = wanted.get(g.index, g.geometry)
            assert not invalid({p.name: p for p in g.profiles}, geometry)
            fixed = [i.placement for i in g.instances if i.fixed]
            assert set(fixed) <= set(geometry), "an instance in use goes"
            devices.update(names.mig_resource(p.profile) for p in geometry)
            devices.subtract(names.mig_resource(p.profile) for p in fixed)
        check_promises(item, devices, world, result)


def check_promises(item: Node, devices: Counter[str], world: Snapshot, result: Plan) -> None:
    here = [p for p in world.pods if p.node == item.name]
    coming = [p for p in world.pods if result.assigned.get(p.key) == item.name]
    before = Counter(names.mig_resource(i.profile) for g in gpus(item) for i in g.instances if not i.fixed)
    promised: Counter[str] = Counter()
    for p in here:
        promised.update(p.mig_request)
    kept = Counter({name: min(count, before[name]) for name, count in promised.items()})
    asked = sum((Counter(p.mig_request) for p in coming), kept)
    if item.enabled:
        assert all(devices[name] >= count for name, count in asked.items()), "promised more than there will be"
    if any(p.request["cpu"] for p in coming):
        cpu = sum(p.request.get("cpu", 0) for p in [*here, *coming])
        assert cpu <= item.allocatable["cpu"]


@settings(max_examples=examples(700), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_nothing_forbidden_is_planned(seed: int) -> None:
    world = random_world(seed)
    check(world, plan(world))


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40), st.randoms(use_true_random=False))
def test_the_order_of_the_snapshot_means_nothing(seed: int, rng: random.Random) -> None:
    world = random_world(seed)
    nodes, pods = list(world.nodes), list(world.pods)
    rng.shuffle(nodes)
    rng.shuffle(pods)
    assert plan(world) == plan(Snapshot(tuple(nodes), tuple(pods)))


def possible(item: Node, wanted: Pod) -> bool:
    """Whether any geometry of a node's GPUs holds a pod's instances beside what must stay, by trying all."""
    need = [name for name, count in wanted.mig_request.items() for _ in range(count)]
    here = gpus(item)
    for owners in itertools.product(range(len(here)), repeat=len(need)):
        share: defaultdict[int, list[str]] = defaultdict(list)
        for name, owner in zip(need, owners, strict=True):
            share[owner].append(name)
        if all(_holds(here[owner], names_) for owner, names_ in share.items()):
            return True
    return False


def _holds(g: Gpu, need: list[str]) -> bool:
    known = {p.name: p for p in g.profiles}
    fixed = [i.placement for i in g.instances if i.fixed]
    choices = [[(p, start) for p in g.profiles if p.resource == name for start in p.starts] for name in need]
    return any(
        not invalid(known, [*fixed, *(Placement(start, p.name) for p, start in choice)])
        for choice in itertools.product(*choices)
    )


def best_counts(world: Snapshot) -> tuple[int, ...]:
    """Pods served by priority, the highest first, in the best plan there is: every pod on every node, or on none."""
    pods = [p for p in world.pods if p.waiting]
    levels = sorted({p.priority for p in pods}, reverse=True)
    nodes = [item for item in world.nodes if item.enabled]
    best: tuple[int, ...] = (0,) * len(levels)

    def walk(left: list[Pod], here: dict[str, list[Pod]]) -> None:
        nonlocal best
        counts = tuple(sum(p.priority == level for each in here.values() for p in each) for level in levels)
        if not left:
            best = max(best, counts)
            return
        for item in nodes:
            together = [*here[item.name], left[0]]
            asked = Pod("", "", "", request=sum((Counter(p.mig_request) for p in together), Counter[str]()))
            cpu = sum(p.request["cpu"] for p in together)
            if (not left[0].request["cpu"] or cpu <= item.allocatable["cpu"]) and possible(item, asked):
                walk(left[1:], {**here, item.name: together})
        walk(left[1:], here)

    walk(pods, {item.name: [] for item in nodes})
    return best


@settings(max_examples=examples(150), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_no_plan_serves_more(seed: int) -> None:
    """Against all assignments of up to four pods to up to three nodes."""
    world = random_world(seed)
    pods = [p for p in world.pods if p.waiting and sum(p.mig_request.values()) <= 2][:4]
    small = Snapshot(tuple(replace(item, agent=only_two(item)) for item in world.nodes), tuple(pods))
    result = plan(small)
    levels = sorted({p.priority for p in pods}, reverse=True)
    served = tuple(sum(p.priority == level and p.key in result.assigned for p in pods) for level in levels)
    assert served == best_counts(small)
    assert len(result.assigned) <= result.bound


def only_two(item: Node) -> Agent:
    """A node's agent with two of its GPUs at most: trying everything grows fast."""
    assert item.agent is not None
    cut = replace(item.agent, gpus=item.agent.gpus[:2])
    return replace(cut, allocatable=cut.devices)


@settings(max_examples=examples(400), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_the_first_pod_is_served_exactly_when_it_can_be(seed: int) -> None:
    """For one pod alone, the search misses nothing that trying everything finds."""
    world = random_world(seed)
    waiting = [p for p in world.pods if p.waiting]
    if not waiting:
        return
    alone = Snapshot(world.nodes, (waiting[0],))
    could = any(
        item.enabled and possible(item, waiting[0]) and waiting[0].request["cpu"] <= item.allocatable["cpu"]
        for item in world.nodes
    )
    assert bool(plan(alone).assigned) == could
