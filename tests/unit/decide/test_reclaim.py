"""Whom to evict where many pods run: worlds in which a search that tries sets one after the other finds too many.

The second look here counts pods of each kind on each node, and devices GPU by GPU. It shares with the code that decides
nothing but the model; in what it knows of the rules, it is as dumb as the one for small worlds, and uses that.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide import evicting
from brain.decide.admission import admit
from brain.decide.combine import Steps
from brain.decide.ground import Ground, Land, PodSites
from brain.decide.ledger import Ledger
from brain.decide.reclaim import SHARE, Case, Reclaim, Victim, cheapest
from brain.model.affinity import LabelSelector, Requirement
from brain.model.budget import Budget
from brain.model.mig import Gpu
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names
from tests.examples import examples
from tests.unit.decide.test_reclaim_oracle import GB, Rules, World, asked, decided
from tests.worlds import bound, gpu, node, pod

PLENTY = 10**9
AMOUNTS = {"memory": 1 << 40, "pods": 500}


def quota(namespace: str, least: Mapping[str, int]) -> Quota:
    return Quota(Kind.SINGLE, namespace, "q", (namespace,), least)


def borrower(name: str, item: str, request: Mapping[str, int], created: int = 0, **changes: Any) -> Pod:
    return bound(name, item, namespace="b", request=request, created=created, **changes)


def owner(request: Mapping[str, int]) -> Pod:
    return pod("x", namespace="a", request=request, gates=(names.QUOTA_GATE,), unschedulable=False, created=PLENTY)


def machine(name: str, **amounts: int) -> Node:
    return Node(name, labels={"kubernetes.io/hostname": name}, allocatable={**AMOUNTS, **amounts})


def world(nodes: Sequence[Node], pods: Sequence[Pod], waiting: Pod, least: Mapping[str, int] | None = None) -> World:
    """One quota that owns, and one that borrows all that it has."""
    kinds = dict.fromkeys([name for name in asked(waiting) if asked(waiting)[name]], PLENTY)
    quotas = (quota("a", least or kinds), quota("b", dict.fromkeys(least or kinds, 0)))
    return World(Snapshot(tuple(nodes), (*pods, waiting), quotas), waiting)


# Cases: what was evicted once, ten for one, and what is enough.


def one_big_beside_many_small(count: int) -> World:
    small = [borrower(f"s{i}", "n1", {"cpu": 100}, 100 + i) for i in range(count)]
    other = [
        borrower("big", "n2", {"cpu": 4000}, 1),
        *(borrower(f"t{i}", "n2", {"cpu": 400}, 10 + i) for i in range(10)),
    ]
    return world([machine("n1", cpu=count * 100), machine("n2", cpu=8000)], [*small, *other], owner({"cpu": 4000}))


def three_big_among_many_small() -> World:
    pods = [borrower(f"s{i}", "n1", {"cpu": 1000}, 100 + i) for i in range(58)]
    pods += [borrower(f"m{i}", "n1", {"cpu": 3000}, i) for i in range(3)]
    return world([machine("n1", cpu=67_000)], pods, owner({"cpu": 9000}))


def four_gpus_at_once(count: int) -> World:
    nodes = [machine(f"n{i:02}", **{"cpu": 1, names.GPU: 8}) for i in range(count)] + [machine("z", **{names.GPU: 8})]
    pods = [borrower(f"p{i:02}-{j}", f"n{i:02}", {names.GPU: 1}, 100 + j) for i in range(count) for j in range(8)]
    pods += [borrower("four", "z", {names.GPU: 4}, 1), *(borrower(f"z{j}", "z", {names.GPU: 1}, 99) for j in range(4))]
    return world(nodes, pods, owner({names.GPU: 4}))


def eight_gpus(large: int, wanted: int, least: Mapping[str, int] | None = None) -> World:
    """A node of eight GPUs, the first of which have two pods each, and the others seven."""
    gpus, pods = [], []
    for index in range(8):
        held = ["3g.20gb@0", "3g.20gb@4"] if index < large else [f"1g.5gb@{start}" for start in range(7)]
        gpus.append(gpu(index, " ".join(f"{place}u:b/p{index}{number}" for number, place in enumerate(held))))
        for number, place in enumerate(held):
            device = {names.mig_resource(place.partition("@")[0]): 1}
            pods.append(borrower(f"p{index}{number}", "n1", device, 10 * index + number))
    return world([node("n1", gpus)], pods, owner({names.mig_resource("3g.20gb"): wanted}), least)


CASES = [
    ("one is enough beside 40 small ones elsewhere", one_big_beside_many_small(40), ["big"]),
    ("one is enough beside 100 small ones elsewhere", one_big_beside_many_small(100), ["big"]),
    ("three of 61 on one node", three_big_among_many_small(), ["m0", "m1", "m2"]),
    ("one of 325 on 41 nodes", four_gpus_at_once(40), ["four"]),
    ("two halves of one GPU", eight_gpus(1, 2), ["p00", "p01"]),
    ("three halves of two GPUs", eight_gpus(2, 3), ["p01", "p10", "p11"]),
    ("four halves of two GPUs", eight_gpus(2, 4), ["p00", "p01", "p10", "p11"]),
    (
        "halves of two GPUs, three small ones for the fifth",
        eight_gpus(2, 5),
        ["p00", "p01", "p10", "p11", "p74", "p75", "p76"],
    ),
    (
        "a small one more where the quota lacks as much",
        eight_gpus(0, 1, {names.GPU_MEMORY: 8 * 35}),
        ["p73", "p74", "p75", "p76"],
    ),
]


@pytest.mark.parametrize(("stated", "victims"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_never_more_than_are_needed(stated: World, victims: list[str]) -> None:
    found = decided(stated)
    assert found is not None
    assert [key.partition("/")[2] for key in found[1]] == victims


@pytest.mark.parametrize("stated", [row[1] for row in CASES], ids=[row[0] for row in CASES])
def test_without_time_to_look_at_all_it_is_hardly_more(stated: World) -> None:
    """What is taken first that gives the most, and not what is left when one after the other is left out."""
    best, found = decided(stated), within(stated, 0)
    assert best is not None
    assert found is not None
    assert len(found) == len(best[1])


def within(stated: World, steps: int) -> list[str] | None:
    """The victims found in so many steps."""
    land = Land(stated.snapshot)
    quotas = {namespace: each for each in stated.snapshot.quotas for namespace in each.namespaces}
    victims = [Victim(each, asked(each), quotas[each.namespace]) for each in stated.snapshot.pods if each.node]
    ledger = Ledger(stated.snapshot.quotas)
    for victim in victims:
        ledger.charge(quotas["b"], victim.request)
    refusals = ledger.refusals(quotas["a"], asked(stated.waiting))
    case = Case(quotas["a"], refusals, victims, PodSites(Ground(land), stated.waiting))
    found = cheapest(case, Steps(SHARE * steps))
    return [victim.pod.key for victim in found.victims] if found is not None else None


def test_those_that_wait_share_the_steps_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take a part of what those before have left."""
    left = []

    def watched(case: Case, steps: Steps) -> Reclaim | None:
        left.append(steps.left)
        return cheapest(case, steps)

    monkeypatch.setattr(evicting, "cheapest", watched)
    stated = eight_gpus(2, 3)
    waiting = [replace(stated.waiting, name=f"x{i}", uid=f"x{i}") for i in range(3)]
    pods = tuple(each for each in stated.snapshot.pods if each.node)
    admit(replace(stated.snapshot, pods=(*pods, *waiting)), GB)
    assert left == sorted(set(left), reverse=True)
    assert len(left) == 3


# Who is over-quota by what older pods use.


def beside_cpu(least: Mapping[str, int], *others: Pod, **changes: Any) -> World:
    """One GPU, of a pod that is over-quota by the cpus of an older one, and another quota wants it."""
    pods = [borrower("b1", "n", {"cpu": 2000}, 1), borrower("b2", "n", {names.GPU: 1}, 2), *others]
    quotas = (quota("a", least), quota("b", {names.GPU: 2, "cpu": 1000}), quota("c", {names.GPU: 6}))
    waiting = replace(owner({names.GPU: 1}), **changes)
    item = machine("n", cpu=9000, **{names.GPU: 1 + len(others) - sum("cpu" in each.request for each in others)})
    return World(Snapshot((item,), (*pods, waiting), quotas), waiting)


OF_CPU = bound("a1", "n", namespace="a", request={"cpu": 2000})
OF_GPU = bound("a1", "n", namespace="a", request={names.GPU: 1})


def test_an_owner_takes_from_who_is_over_quota_by_what_older_pods_use() -> None:
    assert decided(beside_cpu({names.GPU: 1})) == ("n", ("b/b2",))
    assert decided(beside_cpu({names.GPU: 1, "cpu": 2000}, OF_CPU)) == ("n", ("b/b2",))


def test_nobody_is_evicted_who_could_evict_back() -> None:
    """An owner would be over-quota in the same way; a borrower is, and the other comes back as an owner."""
    assert decided(beside_cpu({names.GPU: 1, "cpu": 1000}, OF_CPU)) is None
    assert decided(beside_cpu({names.GPU: 1}, OF_GPU)) is None


# Many pods of a few kinds.


def many_alike(seed: int) -> World:
    """40 to 60 pods of two or three kinds on a few nodes that are full."""
    rng = random.Random(seed)  # noqa: S311
    kinds = [
        ({"cpu": cpu, "memory": rng.choice([1, 2])}, {"app": f"k{number}"}, rng.choice([0, 0, 0, 1]))
        for number, cpu in enumerate(rng.sample([500, 1000, 1500, 2000, 3000], rng.choice([2, 3])))
    ]
    count = rng.choice([1, 2, 3, 4])
    pods = []
    for number in range(rng.randint(40, 60)):
        request, labels, priority = rng.choice(kinds)
        item = f"n{rng.randrange(count)}"
        made = borrower(f"p{number:02}", item, request, rng.randrange(40), labels=labels, priority=priority)
        pods.append(made)
    waiting = owner({"cpu": rng.choice([2000, 3000, 4500, 6000]), "memory": rng.choice([1, 3, 5])})
    used = [sum((asked(each) for each in pods if each.node == f"n{i}"), Counter[str]()) for i in range(count)]
    short = rng.choice(["cpu", "memory"])
    nodes = [
        Node(
            f"n{i}",
            allocatable={
                "pods": 500,
                **{n: used[i][n] + (n != short) * rng.choice([0, 9999]) for n in ("cpu", "memory")},
            },
        )
        for i in range(count)
    ]
    lacking = rng.choice([0, 0, 1, 2])
    least = {
        name: sum(each[name] for each in used) + asked(waiting)[name] - lacking * asked(waiting)[name] // 2
        for name in ("cpu", "memory")
    }
    whole = world(nodes, pods, waiting, least)
    selector = LabelSelector((Requirement("app", "In", ("k0",)),))
    budgets = (Budget("b", "some", selector, rng.choice([0, 1, 2])),) if rng.random() < 0.3 else ()
    return World(replace(whole.snapshot, budgets=budgets), waiting)


def by_kinds(stated: World) -> tuple[str, ...] | None:
    """The best set, by how many go of each kind on each node; the newest of each."""
    rules = Rules(stated)
    refused, best = rules.refused(), None
    for item in stated.snapshot.nodes:
        lacked = refused | rules.lacks(item)
        kinds: dict[object, list[Pod]] = {}
        for each in rules.may_go():
            kinds.setdefault((each.labels["app"], each.node == item.name), []).append(each)
        for members in kinds.values():
            members.sort(key=lambda each: (-each.created, each.key))
        for size in range(1, (len(best[1]) if best is not None else 16) + 1):
            answers = []
            for counts in compositions(size, [len(members) for members in kinds.values()]):
                chosen = [
                    each for count, members in zip(counts, kinds.values(), strict=True) for each in members[:count]
                ]
                freed = sum((asked(each) for each in chosen if each.node == item.name), Counter[str]())
                there = sum((asked(each) for each in rules.pods if each.node == item.name), Counter[str]())
                fits = all(
                    there[name] - freed[name] + value <= item.allocatable.get(name, 0)
                    for name, value in stated.waiting.request.items()
                )
                if fits and rules.budgets_hold(chosen) and not rules.refused(frozenset(each.key for each in chosen)):
                    answers.append((order(chosen, lacked, item.name), sorted(each.key for each in chosen)))
            if answers:
                best = min([*answers, best]) if best is not None else min(answers)
                break
    return tuple(best[1]) if best is not None else None


def order(chosen: Sequence[Pod], lacked: set[str], item: str) -> tuple[object, ...]:
    return (
        len(chosen),
        max((each.priority for each in chosen), default=0),
        sum(asked(each)[name] for each in chosen for name in lacked),
        sorted(-each.created for each in chosen),
        sorted(each.key for each in chosen),
        item,
    )


def compositions(total: int, most: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not most:
        if not total:
            yield ()
        return
    for first in range(min(total, most[0]) + 1):
        for rest in compositions(total - first, most[1:]):
            yield first, *rest


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_of_many_pods_alike_the_first_set_that_works(seed: int) -> None:
    stated = many_alike(seed)
    found = decided(stated)
    assert (found[1] if found is not None else None) == by_kinds(stated)


# Several GPUs on several nodes.

FILLINGS = ["1g.5gb 0 1 2 3 4 5 6", "3g.20gb 0 4", "2g.10gb 0 2 4", "7g.40gb 0", "1g.5gb 0 1 2 3", "1g.5gb 4 5 6"]


@dataclass(frozen=True)
class Going:
    """Pods of one GPU that go, and how many instances it could give then."""

    pods: tuple[Pod, ...]
    gives: int


def several_gpus(seed: int) -> World:
    """One to three nodes of two to four GPUs, most of them full of small pods."""
    rng = random.Random(seed)  # noqa: S311
    nodes, pods = [], []
    for number in range(rng.choice([1, 2, 2, 3])):
        gpus = []
        for index in range(rng.choice([2, 3] if number else [2, 3, 4])):
            profile, *starts = rng.choice([*FILLINGS[:4], *FILLINGS]).split()
            held = []
            for start in starts:
                name = f"p{number}-{index}-{start}"
                pods.append(borrower(name, f"n{number}", {names.mig_resource(profile): 1}, rng.randrange(30)))
                held.append(f"{profile}@{start}u:b/{name}")
            gpus.append(gpu(index, " ".join(held)))
        nodes.append(node(f"n{number}", gpus))
    profile = rng.choice(["3g.20gb", "3g.20gb", "2g.10gb"])
    waiting = owner({names.mig_resource(profile): rng.choice([1, 1, 2, 3])})
    if not rng.randrange(3):
        used = sum(asked(each)[names.GPU_MEMORY] for each in pods)
        return world(nodes, pods, waiting, {names.GPU_MEMORY: used + rng.choice([0, 5, 10])})
    return world(nodes, pods, waiting)


def by_gpu(stated: World, most: int) -> tuple[str, ...] | None:
    """The best set of at most so many pods: all combinations of the best of each GPU for what it could give then."""
    rules = Rules(stated)
    refused, best = rules.refused(), None
    ((resource, wanted),) = stated.waiting.request.items()
    if not refused and not all(map(rules.lacks, stated.snapshot.nodes)):
        return None
    for item in stated.snapshot.nodes:
        lacked = refused | rules.lacks(item)
        found: dict[tuple[int, int, int], tuple[Pod, ...]] = {(0, 0, 0): ()}
        for each in stated.snapshot.nodes:
            here = each.name == item.name
            for position in range(len(each.agent.gpus) if each.agent is not None else 0):
                new: dict[tuple[int, int, int], tuple[Pod, ...]] = {}
                for (size, gives, memory), chosen in found.items():
                    for going in ways(stated, each, position, resource, lacked):
                        if size + len(going.pods) > most:
                            continue
                        both = (*chosen, *going.pods)
                        more = sum(asked(one)[names.GPU_MEMORY] for one in going.pods)
                        key = size + len(going.pods), min(wanted, gives + going.gives * here), memory + more
                        if key not in new or order(both, lacked, "") < order(new[key], lacked, ""):
                            new[key] = both
                found = new
        for (_, gives, _), chosen in sorted(found.items()):
            if (
                chosen
                and (gives >= wanted or not rules.lacks(item))
                and not rules.refused(frozenset(one.key for one in chosen))
            ):
                answer = order(chosen, lacked, item.name), sorted(one.key for one in chosen)
                best = min(best, answer) if best is not None else answer
    return tuple(best[1]) if best is not None else None


def ways(stated: World, item: Node, position: int, resource: str, lacked: set[str]) -> list[Going]:
    """For each number of pods of a GPU and of instances that it could give, the best of all sets."""
    assert item.agent is not None
    one = item.agent.gpus[position]
    pods = {each.name: each for each in stated.snapshot.pods}
    there = [pods[i.holder.pod] for i in one.instances if i.holder is not None]
    found: dict[tuple[int, int], Going] = {}
    for size in range(len(there) + 1):
        for chosen in itertools.combinations(there, size):
            gives = given_by(one, {each.name for each in chosen}, resource)
            known = found.get((size, gives))
            if known is None or order(chosen, lacked, "") < order(known.pods, lacked, ""):
                found[size, gives] = Going(chosen, gives)
    return list(found.values())


def given_by(one: Gpu, gone: set[str], resource: str) -> int:
    """How many instances a GPU could give, of a profile whose placements do not overlap each other."""
    staying = [i for i in one.instances if i.holder is None or i.holder.pod not in gone]
    taken = {slot for i in staying for slot in range(i.start, i.start + i.size)}
    profile = next(each for each in one.profiles if each.resource == resource)
    return sum(taken.isdisjoint(range(start, start + profile.size)) for start in profile.starts)


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40))
def test_on_several_gpus_the_first_set_that_works(seed: int) -> None:
    stated = several_gpus(seed)
    found = decided(stated)
    assert (found[1] if found is not None else None) == by_gpu(stated, len(found[1]) if found is not None else 6)
