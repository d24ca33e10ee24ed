"""All decisions of one snapshot together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brain.decide.decisions import AnnotateNode, EmitEvent, OrderGeometry, TaintNode
from brain.decide.loop import Settings, decide
from brain.model.node import Failure, Taint
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import gpu, node, pod


def test_a_waiting_pod_leads_to_a_taint_and_is_told_where() -> None:
    world = Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]),), (pod("p", {"1g.5gb": 1}), pod("q", {"9g.9gb": 1})))
    result = decide(world, Settings())
    assert TaintNode("n1") in result.decisions
    told = {decision.name: decision for decision in result.decisions if isinstance(decision, EmitEvent)}
    assert told["p"].message == "Making room on node n1: 1g.5gb at slot 6 of GPU 0"
    assert told["q"].reason == "MigNoRoom"
    shown = next(decision for decision in result.decisions if isinstance(decision, AnnotateNode))
    assert shown.annotations["n8s.nebuly.ai/spec-gpu-0-1g.5gb"] == "1"
    assert list(result.plan.why) == ["team/q"]
    assert result.plan.gap == 0


def test_nothing_is_decided_of_a_world_at_rest() -> None:
    at_rest = decide(Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]),)), Settings()).decisions
    assert [type(decision) for decision in at_rest] == [AnnotateNode]


FREE = (node("n1", [gpu(0, "4g.20gb@0f 3g.20gb@4u")]),)


def test_a_pod_that_fits_as_things_are_keeps_its_instance_for_a_while() -> None:
    pods = (pod("p", {"4g.20gb": 1}), pod("q", {"1g.5gb": 1}, created=5))
    first = decide(Snapshot(FREE, pods), Settings())
    assert (first.fitting, first.wake_seconds) == (frozenset({"team/p"}), 15.0)
    assert TaintNode("n1") not in first.decisions
    later = decide(Snapshot(FREE, pods, fitting={"team/p": 14.0}), Settings())
    assert later.fitting == {"team/p"}
    assert later.wake_seconds == pytest.approx(1.0)


def test_then_it_is_told_what_the_scheduler_says_and_others_get_the_room() -> None:
    says = '0/1 nodes are available: persistentvolumeclaim "data" not found.'
    pods = (pod("p", {"4g.20gb": 1}, scheduler_message=says), pod("q", {"1g.5gb": 1}, created=5))
    result = decide(Snapshot(FREE, pods, fitting={"team/p": 15.0}), Settings())
    assert result.fitting == {"team/p"}, "it stays so while it fits"
    assert TaintNode("n1") in result.decisions
    told = {decision.name: decision for decision in result.decisions if isinstance(decision, EmitEvent)}
    assert told["p"].reason == "MigSufficient"
    assert told["p"].message == f"fits on node n1 as it is, but is not bound to it: {says}"
    assert told["q"].reason == "MigRepartitioning"
    alone = decide(Snapshot(FREE, pods[:1], fitting={"team/p": 15.0}), Settings())
    assert (alone.wake_seconds, alone.plan.gap) == (None, 0)


def test_a_pod_whose_node_is_closed_to_the_scheduler_does_not_fit_yet() -> None:
    closed = replace(FREE[0], taints=(Taint(names.REPARTITIONING_TAINT),), tainted_seconds=30.0)
    stale = node("n1", FREE[0].agent.gpus if FREE[0].agent else (), {"allocatable": {}})
    for item in (closed, stale):
        result = decide(Snapshot((item,), (pod("p", {"4g.20gb": 1}),), fitting={"team/p": 14.0}), Settings())
        assert result.fitting == frozenset()
        assert result.plan.why == {}


def test_what_is_not_kept_for_it_stays_so_until_it_is_gone() -> None:
    pods = (pod("p", {"4g.20gb": 1}), pod("q", {"1g.5gb": 1}, created=5))
    settled = replace(FREE[0], taints=(Taint(names.REPARTITIONING_TAINT),), tainted_seconds=1.0)
    result = decide(Snapshot((settled,), pods, fitting={"team/p": 16.0}), Settings())
    assert [decision for decision in result.decisions if isinstance(decision, OrderGeometry)]


def test_once_it_no_longer_fits_room_is_made_for_it_again() -> None:
    item = node("n1", [gpu(0, "7g.40gb@0f")])
    result = decide(Snapshot((item,), (pod("p", {"4g.20gb": 1}),), fitting={"team/p": 99.0}), Settings())
    assert result.fitting == frozenset()
    assert TaintNode("n1") in result.decisions


def test_where_the_scheduler_lacks_devices_elsewhere_room_is_made_there() -> None:
    says = "0/2 nodes are available: 1 Insufficient nvidia.com/mig-1g.5gb, 1 node(s) had volume node affinity conflict."
    here, there = node("n1", [gpu(0, "1g.5gb@6f")]), node("n2", [gpu(0, "7g.40gb@0f")])
    pods = (pod("p", {"1g.5gb": 1}, scheduler_message=says),)
    result = decide(Snapshot((here, there), pods, fitting={"team/p": 20.0}), Settings())
    assert TaintNode("n2") in result.decisions
    assert result.fitting == {"team/p"}, "else it would be given what it cannot have on n1 again"
    full = node("n2", [gpu(0, "7g.40gb@0u")])
    given_up = decide(Snapshot((here, full), pods, fitting={"team/p": 20.0}), Settings())
    told = {decision.name: decision for decision in given_up.decisions if isinstance(decision, EmitEvent)}
    assert (told["p"].reason, told["p"].message) == (
        "MigSufficient",
        f"fits on node n1 as it is, but is not bound to it: {says}",
    )
    made = node("n2", [gpu(0, "1g.5gb@6f")], untainted_seconds=2.0)
    waits = decide(Snapshot((here, made), pods, fitting={"team/p": 20.0}), Settings())
    assert waits.plan.unplaced == {}, "what was made for it is still to be tried"


def test_a_node_whose_plugin_shows_nothing_serves_nobody() -> None:
    late = {"allocatable": {}, "failure": Failure("plugin-late", "x", 60.0)}
    dead = node("n1", [gpu(0, "1g.5gb@6f")], late, allocatable={"cpu": 64_000, "memory": 1 << 40, "pods": 110})
    pods = (pod("p", {"1g.5gb": 1}),)
    alone = decide(Snapshot((dead,), pods), Settings())
    assert "has a device plugin that does not show its MIG devices (n1)" in alone.plan.unplaced["team/p"]
    other = node("n2", [gpu(0, "7g.40gb@0f")])
    assert TaintNode("n2") in decide(Snapshot((dead, other), pods), Settings()).decisions


def test_a_node_that_is_closed_for_what_its_kubelet_shows_serves_nobody() -> None:
    """Its status has devices for the pod; so has its GPU, where nothing may be changed now."""
    ghosts = {"nvidia.com/mig-1g.5gb": frozenset({"MIG-0-1g.5gb-6", "MIG-old"})}
    closed = {"allocatable": ghosts, "failure": Failure("plugin-late", "x", 60.0)}
    taints = (Taint(names.REPARTITIONING_TAINT),)
    item = node("n1", [gpu(0, "1g.5gb@6f")], closed, taints=taints, tainted_seconds=40.0)
    pods = (pod("p", {"1g.5gb": 1}),)
    alone = decide(Snapshot((item,), pods), Settings())
    assert "is closed while its kubelet shows MIG devices that are gone (n1)" in alone.plan.unplaced["team/p"]
    assert TaintNode("n2") in decide(Snapshot((item, node("n2", [gpu(0, "7g.40gb@0f")])), pods), Settings()).decisions
