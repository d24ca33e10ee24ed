"""All decisions of one snapshot together."""

from __future__ import annotations

from brain.decide.decisions import AnnotateNode, EmitEvent, TaintNode
from brain.decide.loop import Settings, decide
from brain.model.snapshot import Snapshot
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
    assert list(result.waiting) == ["team/q"]
    assert result.gap == 0


def test_nothing_is_decided_of_a_world_at_rest() -> None:
    at_rest = decide(Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]),)), Settings()).decisions
    assert [type(decision) for decision in at_rest] == [AnnotateNode]
