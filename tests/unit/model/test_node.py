"""Nodes."""

from __future__ import annotations

from dataclasses import fields, replace

from brain.model.node import Agent, Node, Plugin, Taint
from brain.model.pod import Pod


def test_what_a_brain_sees_of_a_node_leaves_the_rest_as_it_is() -> None:
    node = Node(
        "a",
        uid="u",
        labels={"l": "1"},
        annotations={"n": "1"},
        taints=(Taint("t", "", "NoSchedule"),),
        unschedulable=True,
        ready=False,
        capacity={"cpu": 2},
        allocatable={"cpu": 1},
        unknown="why",
    )
    agent = Agent(connected=True, silent_seconds=0.0, gpus=())
    plugin = Plugin(Pod("gpu-operator", "p", "u"), 4.0, 3.0)
    seen = {"agent", "plugin", "tainted_seconds", "untainted_seconds"}
    plain = Node("b")
    assert all(getattr(node, each.name) != getattr(plain, each.name) for each in fields(Node) if each.name not in seen)
    expected = replace(node, agent=agent, plugin=plugin, tainted_seconds=1.0, untainted_seconds=2.0)
    assert node.seen(agent, plugin, 1.0, 2.0) == expected
