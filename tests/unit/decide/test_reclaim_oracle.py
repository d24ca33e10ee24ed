"""Whom to evict, against a dumb second look that tries all sets of pods, on thousands of random small worlds.

Nothing here is shared with the code that decides, but the model: usage, labels, shares, who may be evicted, what a node
can hold and the order among sets are worked out again from the rules.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide.admission import Round
from brain.decide.gpumemory import GpuMemory
from brain.decide.ground import Ground
from brain.model.affinity import LabelSelector, Requirement
from brain.model.budget import Budget
from brain.model.mig import Gpu, Holder, Instance, InstanceState, Placement, invalid
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names
from tests.examples import examples
from tests.worlds import bound, gpu, node, pod

GB = 16
NAMESPACES = ("a", "b", "c", "d", "e")
OUTSIDE = "outside"
MODELS = {"A100-40GB": ("1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb"), "A30-24GB": ("1g.6gb", "2g.12gb", "4g.24gb")}
NAMED = ("cpu", names.GPU, names.GPU_MEMORY, names.mig_resource("1g.5gb"), names.mig_resource("3g.20gb"))


# Random worlds.


@dataclass(frozen=True)
class World:
    """Some quotas, nodes and running pods, and one pod that waits."""

    snapshot: Snapshot
    waiting: Pod


def random_world(seed: int) -> World:
    rng = random.Random(seed)  # noqa: S311
    quotas = random_quotas(rng)
    nodes = [random_node(rng, number) for number in range(rng.randint(1, 3))]
    pods: list[Pod] = []
    governed = [namespace for quota in quotas for namespace in quota.namespaces]
    for number in range(rng.choice([0, 2, 4, 6, 8, 8, 8])):
        position = rng.randrange(len(nodes)) if number % 2 else 0
        namespace = rng.choice([*governed, *governed, OUTSIDE])
        each = bound(f"p{number}", nodes[position].name, request=random_request(rng, nodes[position]))
        each = replace(
            each,
            namespace=namespace,
            uid=f"uid-{namespace}-p{number}",
            created=rng.randrange(4),
            priority=rng.choice([0, 0, 1, 5]),
            terminating=rng.random() < 0.08,
            phase=rng.choice(["Running"] * 9 + ["Pending"]),
            labels=random_labels(rng),
        )
        held = placed(nodes[position], [p for p in pods if p.node == each.node], each, rng)
        if held is not None:
            nodes[position] = held
            pods.append(each)
    waiting = pod(
        "waiting",
        namespace=rng.choice(governed),
        request=random_request(rng, rng.choice(nodes)),
        gates=(names.QUOTA_GATE,),
        unschedulable=False,
        created=rng.randrange(5),
        priority=rng.choice([0, 1, 3, 6]),
        labels=random_labels(rng) if rng.random() < 0.3 else {},
        node_selector={"kubernetes.io/hostname": rng.choice(nodes).name} if rng.random() < 0.1 else {},
    )
    if rng.random() < 0.8:
        quotas = tuple(tightened(rng, quota, pods, waiting) for quota in quotas)
    budgets = tuple(
        Budget(
            rng.choice(NAMESPACES),
            f"budget-{number}",
            LabelSelector((Requirement("app", "In", (app,)),)),
            rng.choice([0, 1, 1, 2]),
        )
        for number, app in enumerate(rng.sample(["x", "y", "x"], rng.choice([0, 0, 1, 2, 3])))
    )
    return World(Snapshot(tuple(nodes), (*pods, waiting), quotas, budgets=budgets), waiting)


def grouped_world(seed: int) -> World:
    """A random world, most of whose pods belong to groups; in most of them others than the waiting pod own nothing."""
    world = random_world(seed)
    rng = random.Random(-seed - 1)  # noqa: S311
    quotas = world.snapshot.quotas
    of = {namespace: quota for quota in quotas for namespace in quota.namespaces}
    pods = []
    for each in world.snapshot.pods:
        if each.node and each.namespace in of and rng.random() < 0.9:
            quota = of[each.namespace]
            lower = 0 if world.waiting.namespace in quota.namespaces else each.priority
            group, least = f"job/{quota.namespace}/j", rng.choice([0, 2, 2, 2])
            labels = {"app": each.labels["app"]}
            pods.append(replace(each, group=group, group_min=least, priority=lower, labels=labels))
        else:
            pods.append(each)
    jobs = {f"job/{namespace}/j": 2 for namespace in NAMESPACES if rng.random() < 0.3}
    if rng.random() < 0.8:
        mine = [quota for quota in quotas if world.waiting.namespace in quota.namespaces]
        quotas = (*mine, *(replace(quota, min=dict.fromkeys(quota.min, 0)) for quota in quotas if quota not in mine))
    return World(replace(world.snapshot, pods=tuple(pods), jobs=jobs, quotas=quotas), world.waiting)


def random_labels(rng: random.Random) -> dict[str, str]:
    labels = {"app": rng.choice("xy")}
    if rng.random() < 0.12:
        labels[names.PREEMPTIBLE_LABEL] = "false"
    return labels


def random_quotas(rng: random.Random) -> tuple[Quota, ...]:
    left = list(NAMESPACES)
    rng.shuffle(left)
    found = []
    named = rng.sample(NAMED, rng.randint(1, 2))
    for number in range(rng.randint(2, 4)):
        composite = len(left) > 5 - number and rng.random() < 0.35
        members = tuple(left.pop() for _ in range(2 if composite and len(left) > 1 else 1))
        kind = Kind.COMPOSITE if composite else Kind.SINGLE
        own = named if rng.random() < 0.7 else rng.sample(NAMED, rng.randint(1, 3))
        least = {name: random_amount(rng, name) for name in own}
        most = {name: random_amount(rng, name) + least.get(name, 0) for name in own if rng.random() < 0.25}
        if rng.random() < 0.1:
            most[rng.choice(NAMED)] = least.get("cpu", 0) + 4000
        found.append(Quota(kind, members[0], f"q{number}", members, least, most, created=number))
    return tuple(found)


def tightened(rng: random.Random, quota: Quota, pods: Sequence[Pod], waiting: Pod) -> Quota:
    """The quota with a min near what is used: most others have borrowed, and most that wait are owed something."""
    used = sum((asked(p) for p in pods if p.namespace in quota.namespaces), Counter[str]())
    least = {}
    for name in quota.min:
        if waiting.namespace in quota.namespaces:
            least[name] = used[name] + rng.choice([0, 1, 1, 1, 2]) * max(asked(waiting)[name], 1)
        else:
            least[name] = used[name] * rng.choice([0, 1, 1, 2, 4]) // 2
    return replace(quota, min=least, max={name: max(most, least.get(name, 0)) for name, most in quota.max.items()})


def random_amount(rng: random.Random, name: str) -> int:
    if name == "cpu":
        return rng.choice([0, 1000, 2000, 4000])
    return rng.choice([0, 5, 10, 20, 32, 48, 80]) if name == names.GPU_MEMORY else rng.choice([0, 1, 1, 2, 3])


def random_node(rng: random.Random, number: int) -> Node:
    name = f"n{number}"
    amounts = {"cpu": rng.choice([2000, 3000, 4000]), "memory": 1 << 40, "pods": 110}
    sort = rng.random()
    if sort < 0.35:
        return Node(
            name,
            labels={"kubernetes.io/hostname": name},
            allocatable={**amounts, names.GPU: rng.choice([0, 1, 2, 4])},
        )
    if sort < 0.45:
        return Node(
            name,
            labels={"kubernetes.io/hostname": name},
            allocatable={**amounts, names.mig_resource("1g.5gb"): 3, names.mig_resource("3g.20gb"): 1},
        )
    model = rng.choice([*MODELS, "A100-40GB"])
    made = node(name, [gpu(index, "", model) for index in range(rng.choice([1, 1, 2]))])
    return replace(made, allocatable=amounts)


def random_request(rng: random.Random, item: Node) -> dict[str, int]:
    request = {"cpu": rng.choice([0, 500, 500, 1000, 1000, 2000])}
    if item.agent is not None:
        profiles = MODELS["A30-24GB" if item.agent.gpus[0].slots == 4 else "A100-40GB"]
        if rng.random() < 0.85:
            request[names.mig_resource(rng.choice([profiles[0], *profiles]))] = rng.choice([1, 1, 1, 1, 2])
    else:
        for name in item.allocatable:
            if "/" in name and rng.random() < 0.7:
                request[name] = rng.choice([1, 1, 2])
    return request


def placed(item: Node, there: Sequence[Pod], each: Pod, rng: random.Random) -> Node | None:
    """The node with the pod on it; None where it does not fit."""
    if not plain_fit(item, there, each):
        return None
    if item.agent is None:
        return item
    gpus = list(item.agent.gpus)
    for name in [name for name, count in each.mig_request.items() for _ in range(count)]:
        options = [
            (position, Placement(start, profile.name))
            for position, one in enumerate(gpus)
            for profile in one.profiles
            if names.mig_resource(profile.name) == name
            for start in profile.starts
            if valid(one, [*one.geometry, Placement(start, profile.name)])
        ]
        if not options:
            return None
        position, place = rng.choice(options)
        one = gpus[position]
        size = next(profile.size for profile in one.profiles if profile.name == place.profile)
        uuid = f"MIG-{position}-{place.profile}-{place.start}"
        holder = Holder(each.namespace, each.name, "main")
        new = Instance(place.profile, place.start, size, InstanceState.USED, uuid, holder=holder)
        gpus[position] = replace(one, instances=(*one.instances, new))
    return replace(item, agent=replace(item.agent, gpus=tuple(gpus)))


def valid(one: Gpu, places: Iterable[Placement]) -> bool:
    return not invalid({profile.name: profile for profile in one.profiles}, list(places))


# The rules, by brute force.


def plain_fit(item: Node, there: Sequence[Pod], each: Pod) -> bool:
    """By what the scheduler counts, devices of GPUs that are partitioned left out."""
    for name, value in each.request.items():
        if item.agent is not None and name.startswith(names.MIG_PREFIX):
            continue
        if value and sum(p.request.get(name, 0) for p in there) + value > item.allocatable.get(name, 0):
            return False
    return all(item.labels.get(key) == value for key, value in each.node_selector.items())


def mig_fit(item: Node, gone: frozenset[str], each: Pod) -> bool:
    """Whether what a pod asks for can be placed on the GPUs around what is used."""
    if item.agent is None:
        return True
    gpus = [
        (one, [i.placement for i in one.instances if i.holder and f"{i.holder.namespace}/{i.holder.pod}" not in gone])
        for one in item.agent.gpus
    ]

    def walk(wanted: list[str]) -> bool:
        if not wanted:
            return True
        for one, places in gpus:
            for profile in one.profiles:
                if names.mig_resource(profile.name) == wanted[0]:
                    for start in profile.starts:
                        places.append(Placement(start, profile.name))
                        if valid(one, places) and walk(wanted[1:]):
                            return True
                        places.pop()
        return False

    return walk([name for name, count in each.mig_request.items() for _ in range(count)])


def asked(each: Pod) -> Counter[str]:
    memory = GB * each.request.get(names.GPU, 0)
    for name, count in each.mig_request.items():
        memory += count * int(name.partition("g.")[2].partition("gb")[0])
    return Counter({**each.request, names.GPU_MEMORY: memory})


class Rules:
    """A world, pods on their way out counted as gone.

    Attributes:
        let_in: pods without a node that count in their quota all the same.
    """

    def __init__(self, world: World) -> None:
        self.p = world.waiting
        self.world = world.snapshot
        self.quotas = world.snapshot.quotas
        self.pods = [p for p in world.snapshot.pods if p.node and not p.terminating]
        self.leaving = frozenset(p.key for p in world.snapshot.pods if p.terminating)
        self.let_in: list[Pod] = []
        self.mine = self.quota_of(self.p)

    def quota_of(self, each: Pod) -> Quota | None:
        return next((quota for quota in self.quotas if each.namespace in quota.namespaces), None)

    def used(self, quota: Quota, name: str, without: frozenset[str] = frozenset()) -> int:
        there = [p for p in (*self.pods, *self.let_in) if p.key not in without]
        return sum(asked(p)[name] for p in there if self.quota_of(p) is quota)

    def share(self, quota: Quota, name: str) -> int:
        naming = [each for each in self.quotas if name in each.min]
        total = sum(each.min[name] for each in naming)
        idle = sum(max(0, each.min[name] - self.used(each, name)) for each in naming)
        return quota.min[name] * idle // total if total else 0

    def refused(self, without: frozenset[str] = frozenset()) -> set[str]:
        quota = self.mine
        assert quota is not None
        found = set()
        for name, value in asked(self.p).items():
            if value <= 0:
                continue
            if name in quota.max and self.used(quota, name, without) + value > quota.max[name]:
                found.add(name)
            if name in quota.min:
                naming = [each for each in self.quotas if name in each.min]
                used = sum(self.used(each, name, without) for each in naming)
                if used + value > sum(each.min[name] for each in naming):
                    found.add(name)
        return found

    def within(self, quota: Quota, *, share: bool, request: Counter[str] | None = None) -> bool:
        """Whether a quota is within its min (and share), with a request on the resources that this asks for."""
        for name, least in quota.min.items():
            if request is not None and request[name] <= 0:
                continue
            limit = least + (self.share(quota, name) if share else 0)
            if self.used(quota, name) + (request[name] if request is not None else 0) > limit:
                return False
        return True

    def takes_too_much(self, quota: Quota, each: Pod, *, share: bool) -> bool:
        """Whether a pod asks for something that its quota has more of than its min (and share)."""
        return any(
            asked(each)[name] > 0 and self.used(quota, name) > least + (self.share(quota, name) if share else 0)
            for name, least in quota.min.items()
        )

    def over_quota(self, each: Pod) -> bool:
        quota = self.quota_of(each)
        if quota is None:
            return False
        members = [p for p in self.pods if self.quota_of(p) is quota]
        every = sorted({name for p in members for name in asked(p)})
        members.sort(key=lambda p: (not p.protected, p.created, -p.priority, [asked(p)[name] for name in every], p.key))
        older = members[: members.index(each) + 1]
        return any(sum(asked(p)[name] for p in older) > least for name, least in quota.min.items())

    def may_go(self) -> list[Pod]:
        quota, request = self.mine, asked(self.p)
        assert quota is not None
        owner = self.within(quota, share=False, request=request)
        if self.p.protected and not owner:
            return []
        found = []
        for each in self.pods:
            its = self.quota_of(each)
            if each.protected or its is None:
                continue
            if its is quota:
                allowed = not owner and each.priority < self.p.priority
            elif owner:
                above = not self.within(its, share=False)
                safe = self.within(quota, share=False)  # else it may evict in turn
                allowed = self.over_quota(each) and above and (safe or self.takes_too_much(its, each, share=False))
            else:
                entitled = self.within(quota, share=True, request=request)
                allowed = entitled and self.over_quota(each) and self.takes_too_much(its, each, share=True)
            if allowed:
                found.append(each)
        return found

    def units(self, able: Sequence[Pod]) -> dict[str, tuple[list[Pod], int]]:
        """By group of those that may go, all of it that stands, and how many may go before the others must, too."""
        found = {}
        for group in {each.group for each in able if each.group}:
            there = [p for p in self.world.pods if p.group == group and not p.terminating]
            least = max(p.group_min for p in there) or self.world.jobs.get(group) or len(there)
            standing = [p for p in there if p.node]
            if least > 1 and all(self.goes_with(each) for each in standing):
                found[group] = standing, max(0, len(standing) - least)
        return found

    def goes_with(self, each: Pod) -> bool:
        """Whether a pod may go with others of its group, whatever it asks for."""
        if self.quota_of(each) is self.mine:
            return not each.protected and each.priority < self.p.priority
        return not each.protected and self.over_quota(each)

    def budgets_hold(self, chosen: Sequence[Pod]) -> bool:
        for each in chosen:
            if sum(budget.guards(each) for budget in self.world.budgets) > 1:
                return False  # the Eviction API refuses pods that several budgets cover
        return all(sum(b.guards(each) for each in chosen) <= b.allowed for b in self.world.budgets)

    def lacks(self, item: Node) -> set[str]:
        there = [p for p in self.pods if p.node == item.name]
        found = {
            name
            for name, value in self.p.request.items()
            if not (item.agent is not None and name.startswith(names.MIG_PREFIX))
            and value > 0
            and sum(p.request.get(name, 0) for p in there) + value > item.allocatable.get(name, 0)
        }
        if not mig_fit(item, self.leaving, self.p):
            found.add(names.GPU_MEMORY)
        return found

    def answers(self) -> Iterator[tuple[tuple[object, ...], str, tuple[str, ...]]]:
        """All sets that work on a node, with what puts them in order."""
        able = self.may_go()
        units = self.units(able)
        candidates = {each.key: each for each in able}
        candidates |= {each.key: each for members, _ in units.values() for each in members}
        refused = self.refused()
        for size in range(len(candidates) + 1):
            for chosen in itertools.combinations(candidates.values(), size):
                gone = frozenset(each.key for each in chosen)
                if any(
                    (len(going) > spare or any(each not in able for each in going)) and len(going) < len(members)
                    for members, spare in units.values()
                    if (going := [each for each in members if each.key in gone])
                ):
                    continue
                if not self.budgets_hold(chosen) or self.refused(gone):
                    continue
                for item in self.world.nodes:
                    there = [p for p in self.pods if p.node == item.name and p.key not in gone]
                    if plain_fit(item, there, self.p) and mig_fit(item, gone | self.leaving, self.p):
                        lacked = refused | self.lacks(item)
                        order = (
                            size,
                            max((each.priority for each in chosen), default=0),
                            sum(asked(each)[name] for each in chosen for name in lacked),
                            sorted(-each.created for each in chosen),
                            sorted(gone),
                            item.name,
                        )
                        yield order, item.name, tuple(sorted(gone))


def expected(world: World) -> tuple[tuple[str, ...], set[str]] | None:
    """The victims, and the nodes of which any will do; None when nobody is to go and nobody is on the way out."""
    rules = Rules(world)
    assert rules.mine is not None
    if rules.p.protected and not rules.within(rules.mine, share=False, request=asked(rules.p)):
        return None
    answers = list(rules.answers())
    if not answers:
        return None
    victims = min(answers)[2]
    return (victims, {node for _, node, chosen in answers if chosen == victims}) if victims or rules.leaving else None


def decided(world: World) -> tuple[str, tuple[str, ...]] | None:
    round_ = Round(world.snapshot, GpuMemory(GB), {"kube-system"})
    found = round_.evicting(lambda: Ground(round_.land)).found(round_.waiting.gated[0])
    return (found.node, tuple(victim.pod.key for victim in found.victims)) if found is not None else None


def compare(world: World) -> None:
    wanted, found = expected(world), decided(world)
    assert (found is None) == (wanted is None)
    if wanted is not None and found is not None:
        assert found[1] == wanted[0]
        assert found[0] in wanted[1]


@settings(max_examples=examples(1_200), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_the_victims_are_the_first_set_that_works(seed: int) -> None:
    compare(random_world(seed))


@settings(max_examples=examples(800), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_groups_go_together_as_far_as_they_are_of_use_only_together(seed: int) -> None:
    compare(grouped_world(seed))


def test_the_worlds_are_worth_looking_at() -> None:
    """Enough of the random worlds need victims, several of them, on GPUs, from both sides of a quota."""
    seen: Counter[str] = Counter()
    for seed in range(600):
        world = random_world(seed)
        answer = expected(world)
        seen["none" if answer is None else f"victims {min(len(answer[0]), 2)}"] += 1
        if answer is not None and answer[0]:
            seen["mig"] += bool(world.waiting.mig_request)
            namespaces = {key.partition("/")[0] for key in answer[0]}
            seen["own"] += world.waiting.namespace in namespaces
        world = grouped_world(seed)
        going = (expected(world) or ((), set()))[0]
        rules = Rules(world)
        for members, spare in rules.units(rules.may_go()).values():
            count = sum(each.key in going for each in members)
            seen["group"] += count == len(members) > 1
            seen["spare"] += 0 < count <= spare
    kinds = ("none", "victims 0", "victims 1", "victims 2", "mig", "own", "group", "spare")
    assert min(seen[kind] for kind in kinds) >= 5, seen
