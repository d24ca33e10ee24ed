"""How a pod stands by one round of decisions: a table of worlds, one pod in each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brain.decide.loop import Settings, decide
from brain.decide.standing import Explanation, Standing, explain
from brain.decide.why import Help, Lack
from brain.model.mig import Placement
from brain.model.node import Node, Taint
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import bound, gpu, node, pod

FREE = node("n1", [gpu(0, "4g.20gb@0f 3g.20gb@4u")])
WHOLE = node("n1", [gpu(0, "7g.40gb@0f")])
FULL = node("n1", [gpu(0, "7g.40gb@0u:team/holder")])
CLOSED = (Taint(names.REPARTITIONING_TAINT),)
ORDERED = node("n1", [gpu(0, "7g.40gb@0f")], {"ordered": {0: (Placement(6, "1g.5gb"),)}}, taints=CLOSED)
TAINTED = replace(FREE, taints=CLOSED)
ONE = {"1g.5gb": 1}
FOUR = {"4g.20gb": 1}

STANDINGS = [
    ("no MIG devices", FREE, pod("p"), Standing.NO_MIG, "asks for no MIG devices", ""),
    ("ended", FREE, replace(bound("p", "n1", ONE), phase="Failed"), Standing.ENDED, "has ended: Failed", "n1"),
    ("deleted in time", FREE, pod("p", ONE, terminating=True), Standing.ENDED, "is being deleted and never had", ""),
    ("gated", FREE, pod("p", ONE, gates=("g",)), Standing.GATED, "has scheduling gates left", ""),
    ("bound", FREE, bound("p", "n1", ONE), Standing.BOUND, "is bound to node n1", "n1"),
    ("bound, leaving", FREE, bound("p", "n1", ONE, terminating=True), Standing.BOUND, "and is being deleted", "n1"),
    ("fits", FREE, pod("p", FOUR), Standing.FITS, "fits on node n1 as it is", "n1"),
    ("made", WHOLE, pod("p", ONE), Standing.MAKING_ROOM, "node n1: 1g.5gb at slot 6 of GPU 0", "n1"),
    ("ordered", ORDERED, pod("p", ONE), Standing.MAKING_ROOM, "node n1: the change is under way", "n1"),
    ("its node is closed", TAINTED, pod("p", FOUR), Standing.MAKING_ROOM, "node n1: the change is under way", "n1"),
    ("waits", FULL, pod("p", ONE), Standing.WAITS, "no node has room for 1 nvidia.com/mig-1g.5gb: ", ""),
    ("untried", WHOLE, pod("p", ONE, unschedulable=False), Standing.UNTRIED, "nothing free suits it", ""),
]


def explained(item: Node, asked: Pod, *others: Pod, fits_for: float = 0.0) -> Explanation:
    world = Snapshot((item,), (asked, *others), fitting={asked.key: fits_for})
    return explain(asked, decide(world, Settings()))


@pytest.mark.parametrize(
    ("item", "asked", "standing", "text", "where"), [row[1:] for row in STANDINGS], ids=[row[0] for row in STANDINGS]
)
def test_a_pod_stands(item: Node, asked: Pod, standing: Standing, text: str, where: str) -> None:
    result = explained(item, asked)
    assert (result.standing, result.node) == (standing, where)
    assert text in result.text


def test_what_a_pod_behind_the_gate_waits_for_is_told() -> None:
    team = Quota(Kind.SINGLE, "team", "q", ("team",), {names.GPU_MEMORY: 0})
    waits = pod("p", ONE, gates=(names.QUOTA_GATE,))
    world = Snapshot((FREE,), (waits,), (team,))
    result = explain(waits, decide(world, Settings()))
    text = "waits: quotas lend 0 of 0 n8s.nebuly.ai/gpu-memory, and this asks for 5"
    assert (result.standing, result.text) == (Standing.GATED, text)


def test_the_quota_that_governs_a_pod_is_told_until_the_pod_has_ended() -> None:
    single = Quota(Kind.SINGLE, "team", "q", ("team",), {"cpu": 1})
    both = Quota(Kind.COMPOSITE, "x", "c", ("team", "other"), {"cpu": 1})
    runs, done = bound("p", "n1"), replace(bound("q", "n1"), phase="Succeeded")
    decisions = decide(Snapshot((FREE,), (runs, done), (single, both)), Settings())
    assert explain(runs, decisions, (single,)).quota is single
    assert explain(runs, decisions, (single, both)).quota is both
    assert explain(runs, decisions).quota is None
    assert explain(done, decisions, (single,)).quota is None


def test_what_is_made_is_told_in_parts() -> None:
    assert explained(WHOLE, pod("p", ONE)).made == ((0, Placement(6, "1g.5gb")),)


def test_why_a_pod_waits_is_told_in_parts_and_the_text_says_them() -> None:
    result = explained(FULL, pod("p", ONE), bound("holder", "n1", {"7g.40gb": 1}))
    assert result.reason is not None
    assert result.reason.lacks == (Lack("has too few free slots beside what is in use or promised", 1, ("n1",)),)
    assert result.reason.helps == Help("n1", "team/holder")
    assert result.text == (
        "no node has room for 1 nvidia.com/mig-1g.5gb: "
        "has too few free slots beside what is in use or promised (n1); node n1 would have room if team/holder ended"
    )


def test_the_nodes_nearest_to_having_room_come_first() -> None:
    others = (node("n0", [gpu(0, model="A30-24GB")]), replace(FULL, name="n2", unschedulable=True))
    in_pieces = node("n3", [gpu(0, "1g.5gb@0u 1g.5gb@3u 1g.5gb@4u")])
    world = Snapshot((FULL, in_pieces, *others), (pod("p", FOUR),))
    reason = decide(world, Settings()).plan.why["team/p"]
    assert [lack.names for lack in reason.lacks] == [("n3",), ("n1",), ("n0",), ("n2",)]


def test_many_nodes_are_counted_and_a_few_are_named() -> None:
    world = Snapshot(tuple(replace(FULL, name=f"n{number}") for number in range(5)), (pod("p", ONE),))
    reason = decide(world, Settings()).plan.why["team/p"]
    assert [(lack.nodes, lack.names) for lack in reason.lacks] == [(5, ("n0", "n1", "n2"))]
    assert "(n0, n1, n2 and 2 more)" in reason.text


def test_a_wait_for_a_change_under_way_says_so() -> None:
    changing = node("n1", [gpu(0, "7g.40gb@0f")], {"ordered": {0: (Placement(0, "7g.40gb"),)}})
    result = explained(changing, pod("p", ONE))
    assert result.standing is Standing.WAITS
    assert result.reason is not None
    assert result.reason.later


def test_a_pod_that_the_scheduler_leaves_is_told_what_that_says() -> None:
    result = explained(FREE, pod("p", FOUR, scheduler_message="no volume"), fits_for=15.0)
    assert (result.standing, result.node) == (Standing.OVERDUE, "n1")
    assert result.text == "fits on node n1 as it is, but is not bound to it: no volume"
