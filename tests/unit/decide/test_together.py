"""What other pods mean for a plan: groups all or nothing, affinity, anti-affinity, topology spread."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide import batch
from brain.decide.groups import Groups
from brain.decide.kinds import kinds_of
from brain.decide.neighbours import Neighbours
from brain.decide.partition import Plan, plan
from brain.decide.rooms import Grids, Room
from brain.model.affinity import AffinityTerm, LabelSelector, Requirement, SpreadConstraint
from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from tests.examples import examples
from tests.unit.decide.test_partition_oracle import check, random_world
from tests.worlds import bound, gpu, node, pod

HOST = "kubernetes.io/hostname"
ONE = {"1g.5gb": 1}


def selects(app: str) -> LabelSelector:
    return LabelSelector((Requirement("app", "In", (app,)),))


def term(app: str, key: str = HOST) -> tuple[AffinityTerm, ...]:
    return (AffinityTerm(key, selects(app), frozenset({"team"})),)


def spread(app: str, key: str = HOST, skew: int = 1) -> tuple[SpreadConstraint, ...]:
    return (SpreadConstraint(key, skew, selects(app)),)


def empty(*names_: str) -> tuple[Node, ...]:
    return tuple(node(name, [gpu(0)]) for name in names_)


def grouped(count: int, mig: dict[str, int], group: str = "group/team/g", least: int = 0, first: int = 0) -> list[Pod]:
    return [
        pod(f"{group[-1]}{number}", mig, group=group, group_min=least, created=first + number)
        for number in range(count)
    ]


def test_a_group_gets_room_for_all_or_for_none() -> None:
    fits, too_many = grouped(4, {"4g.20gb": 1}), grouped(5, {"4g.20gb": 1})
    nodes = empty("n1", "n2", "n3", "n4")
    assert len(plan(Snapshot(nodes, tuple(fits))).assigned) == 4
    result = plan(Snapshot(nodes, tuple(too_many)))
    assert (result.assigned, result.geometries) == ({}, {})
    assert result.unplaced["team/g0"] == (
        "no room for 5 pods of its group together, this one with 1 nvidia.com/mig-4g.20gb: "
        "has room, but not for enough of the group (n1, n2, n3 and 1 more)"
    )


@pytest.mark.parametrize("columns", [batch.EXACT_COLUMNS, 0])
def test_what_a_group_cannot_use_others_get(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "EXACT_COLUMNS", columns)
    others = [pod(f"p{number}", {"4g.20gb": 1}, created=100) for number in range(3)]
    result = plan(Snapshot(empty("n1", "n2"), (*grouped(3, {"4g.20gb": 1}), *others)))
    assert sorted(result.assigned) == ["team/p0", "team/p1"]


def test_a_least_number_is_enough() -> None:
    result = plan(Snapshot(empty("n1", "n2"), tuple(grouped(5, {"4g.20gb": 1}, least=2))))
    assert sorted(result.assigned) == ["team/g0", "team/g1"]


def test_what_was_to_go_for_a_group_stays_where_it_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "EXACT_COLUMNS", 0)
    result = plan(Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]),), tuple(grouped(2, {"4g.20gb": 1}))))
    assert (result.assigned, result.geometries) == ({}, {})


def test_who_stands_on_a_group_that_is_not_whole_falls_with_it() -> None:
    members = [replace(each, labels={"app": "g"}) for each in grouped(2, {"4g.20gb": 1})]
    near = pod("near", {"1g.5gb": 1}, affinity=term("g"), created=50)
    assert plan(Snapshot(empty("n1"), (*members, near))).assigned == {}
    assert len(plan(Snapshot((node("n1", [gpu(0), gpu(1)]),), (*members, near))).assigned) == 3


def test_one_that_wants_no_neighbours_does_not_keep_out_two() -> None:
    loner = pod("loner", {"1g.5gb": 1}, anti_affinity=term("web"))
    web = [pod(f"web{number}", {"1g.5gb": 1}, labels={"app": "web"}, created=9) for number in range(2)]
    assert sorted(plan(Snapshot(empty("n1"), (loner, *web))).assigned) == ["team/web0", "team/web1"]


def test_members_that_run_count_and_so_do_those_without_devices() -> None:
    runs = replace(bound("g9", "n1", {"7g.40gb": 1}), group="group/team/g")
    launcher = replace(pod("launcher"), group="group/team/g")
    nodes = (node("n1", [gpu(0, "7g.40gb@0u:team/g9"), gpu(1)]),)
    two = grouped(2, {"7g.40gb": 1}, least=3)
    assert Groups((runs, launcher, *two)).needs == {}, "one more is enough, so each stands alone"
    result = plan(Snapshot(nodes, (runs, launcher, *two)))
    assert list(result.assigned) == ["team/g0"]
    ended = replace(runs, phase="Succeeded", node="")
    assert plan(Snapshot(nodes, (ended, launcher, *two))).assigned == {}


@pytest.mark.parametrize("columns", [batch.EXACT_COLUMNS, 0])
def test_of_two_groups_the_older_goes_first_and_none_is_halved(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "EXACT_COLUMNS", columns)
    old = grouped(3, {"4g.20gb": 1}, "group/team/a")
    new = grouped(3, {"4g.20gb": 1}, "group/team/b", first=10)
    result = plan(Snapshot(empty("n1", "n2", "n3", "n4", "n5"), (*old, *new)))
    assert sorted(result.assigned) in (["team/a0", "team/a1", "team/a2"], ["team/b0", "team/b1", "team/b2"])
    if not columns:
        assert "team/a0" in result.assigned


def test_members_on_one_node_each() -> None:
    members = [replace(each, labels={"app": "g"}, anti_affinity=term("g")) for each in grouped(3, {"1g.5gb": 1})]
    assert sorted(plan(Snapshot(empty("n1", "n2", "n3"), tuple(members))).assigned.values()) == ["n1", "n2", "n3"]
    result = plan(Snapshot(empty("n1", "n2"), tuple(members)))
    assert (result.assigned, result.geometries) == ({}, {})


def test_anti_affinity_to_what_runs_is_named_as_the_reason() -> None:
    runs = replace(bound("db", "n1"), labels={"app": "db"})
    alone = pod("p", {"1g.5gb": 1}, anti_affinity=term("db"))
    result = plan(Snapshot(empty("n1"), (runs, alone)))
    assert result.unplaced["team/p"].endswith(": does not satisfy the pod's anti-affinity to other pods (n1)")
    assert plan(Snapshot(empty("n1", "n2"), (runs, alone))).assigned == {"team/p": "n2"}


def test_a_plain_pod_is_kept_from_where_one_runs_that_wants_no_such_neighbour() -> None:
    loner = replace(bound("loner", "n1"), anti_affinity=term("web"))
    web = pod("p", {"1g.5gb": 1}, labels={"app": "web"})
    assert plan(Snapshot(empty("n1", "n2"), (loner, web))).assigned == {"team/p": "n2"}


def test_affinity_to_a_pod_that_is_served_in_the_same_plan() -> None:
    near = pod("a-near", {"1g.5gb": 1}, affinity=term("db"), created=0)
    db = pod("db", {"7g.40gb": 1}, labels={"app": "db"}, created=5, node_selector={HOST: "n2"})
    nodes = (node("n1", [gpu(0)]), node("n2", [gpu(0), gpu(1)]))
    assert plan(Snapshot(nodes, (near, db))).assigned == {"team/a-near": "n2", "team/db": "n2"}
    assert plan(Snapshot(nodes, (near,))).assigned == {}


def test_affinity_to_a_pod_of_lower_priority() -> None:
    near = pod("near", {"1g.5gb": 1}, affinity=term("db"), priority=9)
    db = pod("db", {"4g.20gb": 1}, labels={"app": "db"})
    assert plan(Snapshot(empty("n1", "n2"), (near, db))).assigned.keys() == {"team/near", "team/db"}


def test_spread_over_nodes_limits_what_one_node_gets() -> None:
    pods = [pod(f"p{n}", {"1g.5gb": 1}, labels={"app": "w"}, spread=spread("w"), created=n) for n in range(9)]
    result = plan(Snapshot((*empty("n1", "n2"), node("n3", [gpu(0, "7g.40gb@0u")])), tuple(pods)))
    assert Counter(result.assigned.values()) == {"n1": 1, "n2": 1}, "n3 has none, so the others may have one"
    assert "topology spread" in result.unplaced["team/p8"] or "skew" in result.unplaced["team/p8"]


def test_pods_of_higher_priority_come_before_those_that_others_matter_to() -> None:
    pods = (
        pod("social", {"7g.40gb": 1}, labels={"app": "s"}, anti_affinity=term("s"), created=0),
        pod("urgent", {"7g.40gb": 1}, priority=5, created=9),
    )
    assert plan(Snapshot(empty("n1"), pods)).assigned == {"team/urgent": "n1"}


def test_a_pod_that_others_keep_away_from_its_free_instance_keeps_it_from_nobody() -> None:
    runs = replace(bound("db", "n1"), labels={"app": "db"})
    away = pod("away", {"7g.40gb": 1}, anti_affinity=term("db"), unschedulable=False)
    result = plan(Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]),), (runs, away, pod("p", {"1g.5gb": 1}))))
    assert result.assigned == {"team/p": "n1"}


# (what it shows, changes of a third pod, least number that each pod names, how many of two more must be served)
MEMBERS = [
    ("it waits too", {}, 0, 3),
    ("ended", {"phase": "Succeeded"}, 0, 2),
    ("on its way out", {"node": "n1", "terminating": True}, 0, 2),
    ("gated", {"gates": ("g",)}, 0, 2),
    ("runs", {"node": "n1"}, 3, 2),
    ("runs, but goes", {"node": "n1", "terminating": True}, 3, 3),
    ("has run", {"node": "n1", "phase": "Failed"}, 3, 3),
    ("without devices", {"request": {"cpu": 1}}, 3, 2),
]


@pytest.mark.parametrize(("third", "least", "need"), [row[1:] for row in MEMBERS], ids=[row[0] for row in MEMBERS])
def test_who_counts_in_a_group(third: dict[str, Any], least: int, need: int) -> None:
    first, second, last = grouped(3, {"1g.5gb": 1}, least=least)
    assert Groups((first, second, replace(last, **third))).needs == {"group/team/g": need}


def test_a_job_that_is_still_creating_pods_gets_no_room_yet() -> None:
    pods = tuple(grouped(2, {"1g.5gb": 1}, group="job/team/u"))
    result = plan(Snapshot(empty("n1"), pods, jobs={"job/team/u": 3}))
    assert (result.assigned, result.geometries) == ({}, {})
    told = "waits for 1 more pod of its group: 3 are of use only together"
    assert result.unplaced == {"team/u0": told, "team/u1": told}
    whole = tuple(grouped(3, {"1g.5gb": 1}, group="job/team/u"))
    assert len(plan(Snapshot(empty("n1"), whole, jobs={"job/team/u": 3})).assigned) == 3


def test_where_a_group_says_different_numbers_the_largest_counts() -> None:
    first, second, third = grouped(3, {"1g.5gb": 1}, least=2)
    assert Groups((first, replace(second, group_min=3), third)).needs == {"group/team/g": 3}


def test_a_group_is_as_old_as_its_oldest() -> None:
    old, young = pod("g0", ONE, group="g", created=1), pod("g1", ONE, group="g", created=9)
    between, urgent = pod("p", ONE, created=5), pod("u", ONE, created=10, priority=1)
    pods = [young, between, old, urgent]
    assert Groups(pods).ranked(pods) == [urgent, old, young, between]


def test_the_program_begins_no_group_that_it_cannot_finish() -> None:
    pods = [each for name in "abc" for each in grouped(2, {"4g.20gb": 1}, f"group/team/{name}")]
    tags = {each.key: each.group for each in pods}
    grids = Grids()
    rooms = [Room.of(item, (), grids) for item in empty("n1", "n2", "n3")]
    share = batch.share(rooms, kinds_of(pods, tags), dict.fromkeys(tags.values(), 2))
    assert share is not None
    assert (len(share.assigned), share.bound) == (2, 2)
    assert len({each.group for each, _ in share.assigned}) == 1


def test_a_group_of_which_only_some_mind_others() -> None:
    first, second = grouped(2, {"4g.20gb": 1})
    picky = replace(first, anti_affinity=term("db"))
    for priority in (0, 1):
        pods = (picky, replace(second, priority=priority))
        assert plan(Snapshot(empty("n1", "n2"), pods)).assigned.keys() == {"team/g0", "team/g1"}


def test_a_group_that_was_tried_in_vain_keeps_nobody_away() -> None:
    members = [replace(each, labels={"app": "g"}, anti_affinity=term("g")) for each in grouped(3, ONE)]
    late = pod("late", {"1g.5gb": 1}, anti_affinity=term("g"), created=99)
    result = plan(Snapshot(empty("n1", "n2"), (*members, late)))
    assert result.assigned.keys() == {"team/late"}


def test_a_group_of_which_one_may_be_bound_at_any_moment() -> None:
    """That one keeps the instance that it would take, room for the other or not; nobody else may have it."""
    first, second = grouped(2, {"3g.20gb": 1})
    first = replace(first, unschedulable=False)
    other = pod("other", {"7g.40gb": 1}, created=9)
    full = node("n1", [gpu(0, "3g.20gb@0u 3g.20gb@4f")])
    result = plan(Snapshot((full,), (first, second, other)))
    assert (result.assigned, result.geometries) == ({first.key: "n1"}, {})
    assert set(result.why) == {second.key, other.key}
    result = plan(Snapshot((full, *empty("n2")), (first, second)))
    assert result.assigned == {first.key: "n1", second.key: "n2"}


def test_a_chain_of_pods_each_of_which_wants_the_next() -> None:
    pods = [
        pod(f"p{n}", {"1g.5gb": 1}, labels={"app": f"c{n}"}, affinity=term(f"c{n + 1}"), created=n) for n in range(5)
    ]
    last = pod("last", {"1g.5gb": 1}, labels={"app": "c5"}, created=9)
    assert len(plan(Snapshot(empty("n1"), (*pods, last))).assigned) == 6


# Random worlds.


def social_world(seed: int) -> Snapshot:
    """A random world in which pods have labels, demands and groups."""
    rng = random.Random(seed)  # noqa: S311
    world = random_world(seed)
    nodes = [
        replace(item, labels={**item.labels, HOST: item.name, "zone": rng.choice(["a", "b"])}) for item in world.nodes
    ]
    return Snapshot(tuple(nodes), tuple(_social(each, rng) for each in world.pods))


def _social(each: Pod, rng: random.Random) -> Pod:
    app, other = rng.choice("xyz"), rng.choice("xyz")
    key = rng.choice([HOST, "zone"])
    changes: dict[str, object] = {"labels": {"app": app}}
    if rng.random() < 0.3:
        changes["anti_affinity"] = term(other, key)
    if rng.random() < 0.2:
        changes["affinity"] = term(other, key)
    if rng.random() < 0.2:
        changes["spread"] = spread(app, key, rng.choice([1, 2]))
    if rng.random() < 0.4:
        changes |= {"group": f"group/team/{rng.choice('gh')}", "group_min": rng.choice([0, 2])}
    return replace(each, **changes)  # type: ignore[arg-type]


def check_social(world: Snapshot, result: Plan) -> None:
    """The scheduler can bind the assigned pods one after the other, and groups are whole."""
    neighbours = Neighbours(world)
    pods = {each.key: each for each in world.pods}
    left = dict(result.assigned)
    while left:
        goes = [key for key, where in left.items() if not neighbours.refusal(pods[key], where)]
        assert goes, f"the scheduler refuses {left}"
        neighbours.place(pods[goes[0]], left.pop(goes[0]))
    groups = Groups(world.pods)
    for group, need in groups.needs.items():
        count = groups.served(group, result.assigned)
        assert count == 0 or count >= need, f"{group} is halved"


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40), st.booleans())
def test_no_promise_is_made_that_the_scheduler_would_refuse(seed: int, large: bool) -> None:
    world = social_world(seed)
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(batch, "EXACT_COLUMNS", 0)
        result = plan(world)
    check(world, result)
    check_social(world, result)
    assert len(result.assigned) <= result.bound


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(min_value=0, max_value=1 << 40), st.randoms(use_true_random=False))
def test_order_means_nothing_to_social_plans(seed: int, rng: random.Random) -> None:
    world = social_world(seed)
    nodes, pods = list(world.nodes), list(world.pods)
    rng.shuffle(nodes)
    rng.shuffle(pods)
    assert plan(world) == plan(Snapshot(tuple(nodes), tuple(pods)))
