"""Pods that fit as things are and that the scheduler does not bind: they keep nothing, and are told so."""

from __future__ import annotations

from dataclasses import replace

from brain.decide.overdue import OVERDUE_SECONDS
from brain.decide.partition import Plan, plan
from brain.model.affinity import AffinityTerm, LabelSelector, Requirement
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from tests.worlds import bound, gpu, node, pod

STUCK = pod("stuck", {"3g.20gb": 1}, scheduler_message="volume missing", created=1)
NEEDS = pod("needs", {"4g.20gb": 1}, created=2)


def planned(seconds: float, *pods: Pod, here: str = "3g.20gb@0f 1g.5gb@4u") -> Plan:
    return plan(Snapshot((node("a", [gpu(0, here)]),), pods, fitting={"team/stuck": seconds}))


def test_what_it_would_take_is_for_others_once_the_scheduler_had_its_time() -> None:
    early = planned(OVERDUE_SECONDS - 0.1, STUCK, NEEDS)
    assert (set(early.overdue), dict(early.assigned), dict(early.geometries)) == (set(), {"team/stuck": "a"}, {})
    late = planned(OVERDUE_SECONDS, STUCK, NEEDS)
    assert (set(late.overdue), dict(late.assigned)) == ({"team/stuck"}, {"team/needs": "a"})
    assert late.unplaced["team/stuck"] == "fits on node a as it is, but is not bound to it: volume missing"


def test_only_one_that_fits_now_is_overdue() -> None:
    assert planned(60.0, STUCK, here="1g.5gb@4u").overdue == {}
    assert planned(60.0, replace(STUCK, node_selector={"zone": "b"})).overdue == {}
    assert planned(60.0, pod("stuck", {"9g.99gb": 1})).overdue == {}


def test_nor_is_one_that_other_pods_keep_away() -> None:
    db = replace(bound("db", "a"), labels={"app": "db"})
    apart = AffinityTerm(
        "kubernetes.io/hostname", LabelSelector((Requirement("app", "In", ("db",)),)), frozenset({"team"})
    )
    assert planned(60.0, db, STUCK).overdue == {"team/stuck": "a"}
    assert planned(60.0, db, replace(STUCK, anti_affinity=(apart,))).overdue == {}


def test_the_scheduler_that_says_nothing() -> None:
    said = planned(60.0, replace(STUCK, scheduler_message="")).unplaced["team/stuck"]
    assert said.endswith("its scheduler has not said why")


def test_no_room_is_made_elsewhere_for_what_is_no_lack_of_devices() -> None:
    nodes = (node("a", [gpu(0, "3g.20gb@0f")]), node("b", [gpu(0, "7g.40gb@0f")]))
    assert plan(Snapshot(nodes, (STUCK,), fitting={"team/stuck": 60.0})).geometries == {}
