"""Pods that are bound to a node after the last look before its GPUs change."""

from __future__ import annotations

from dataclasses import replace

from brain.decide.decisions import EmitEvent, OrderGeometry, TaintNode, UntaintNode
from brain.decide.late import late_binds
from brain.decide.loop import Settings, decide
from brain.model.node import Node, Taint
from brain.model.pod import Pod, Toleration
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import bound, gpu, node, pod

KNOWN = bound("known", "n1", {"1g.5gb": 1})
LATE = bound("late", "n1", {"1g.5gb": 1}, phase="Pending")
TOLERANT = (Toleration(names.REPARTITIONING_TAINT, "Exists"),)


def world(*pods: Pod, looks: dict[str, frozenset[str]] | None = None, tainted: bool = True) -> Snapshot:
    taints = (Taint(names.REPARTITIONING_TAINT),) if tainted else ()
    nodes: tuple[Node, ...] = (node("n1", [gpu(0)], taints=taints), node("n2", [gpu(0)], taints=taints))
    return Snapshot(nodes, pods, looks=looks or {})


def test_who_comes_after_the_look_at_a_node_that_is_ordered_to_change_is_late() -> None:
    elsewhere = bound("elsewhere", "n2", {"1g.5gb": 1})
    found, looks = late_binds(world(KNOWN, elsewhere), ["n1"])
    assert found == []
    assert looks == {"n1": frozenset({KNOWN.uid})}
    found, looks = late_binds(world(KNOWN, LATE, elsewhere, looks={"n1": frozenset({KNOWN.uid})}), [])
    assert found == [LATE], "n2 has no order"
    assert late_binds(world(KNOWN, LATE, looks=dict(looks)), ["n1"]) == ([], looks), "each once"


def test_one_that_the_kubelet_has_failed_already_is_late_too() -> None:
    failed = replace(LATE, phase="Failed")
    before = bound("before", "n1", {"1g.5gb": 1}, phase="Failed")
    _, looks = late_binds(world(before), ["n1"])
    others = bound("elsewhere", "n2", {"1g.5gb": 1}, phase="Failed"), bound("without", "n1", phase="Failed")
    assert late_binds(world(before, failed, *others, looks=dict(looks)), [])[0] == [failed]


def test_who_is_not_kept_away_by_the_taint_is_not_late() -> None:
    looks = {"n1": frozenset[str]()}
    without = bound("without", "n1", phase="Pending")
    assert late_binds(world(replace(LATE, tolerations=TOLERANT), without, looks=looks), [])[0] == []
    assert late_binds(world(replace(LATE, node=""), looks=looks), [])[0] == []


def test_once_the_taint_is_gone_nobody_is_late() -> None:
    assert late_binds(world(LATE, looks={"n1": frozenset()}, tainted=False), []) == ([], {})


def test_from_the_order_to_the_event() -> None:
    closed = node("n1", [gpu(0, "7g.40gb@0f")], taints=(Taint(names.REPARTITIONING_TAINT),), tainted_seconds=1.0)
    ordered = decide(Snapshot((closed,), (pod("p", {"1g.5gb": 1}),)), Settings())
    assert [each for each in ordered.decisions if isinstance(each, OrderGeometry)]
    assert (ordered.looks, ordered.late) == ({"n1": frozenset()}, 0)

    late = bound("late", "n1", {"7g.40gb": 1}, phase="Failed")
    result = decide(Snapshot((closed,), (late,), looks=ordered.looks), Settings())
    (told,) = (each for each in result.decisions if isinstance(each, EmitEvent))
    assert (told.reason, told.name, told.warning) == ("MigLateBind", "late", True)
    assert told.message.startswith("bound to node n1 while its GPUs were being changed")
    assert result.late == 1
    assert result.looks == {"n1": frozenset({late.uid})}
    assert UntaintNode("n1") in result.decisions

    opened = replace(closed, taints=(), tainted_seconds=0.0)
    again = decide(Snapshot((opened,), (pod("p", {"1g.5gb": 1}),), looks=result.looks), Settings())
    assert TaintNode("n1") in again.decisions
    assert (again.looks, again.late) == ({}, 0)
