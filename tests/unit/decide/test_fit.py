"""What the scheduler would say of a pod on a node."""

from __future__ import annotations

import pytest

from brain.decide import fit
from brain.model.affinity import Requirement
from brain.model.node import Taint
from brain.model.pod import NodeSelectorTerm, Toleration
from n8s import names
from tests.worlds import bound, node, pod

# (operator, values, whether label rank=5 matches)
OPERATORS = [
    ("In", ("4", "5"), True),
    ("In", ("4",), False),
    ("NotIn", ("4",), True),
    ("NotIn", ("5",), False),
    ("Exists", (), True),
    ("DoesNotExist", (), False),
    ("Gt", ("4",), True),
    ("Gt", ("5",), False),
    ("Lt", ("6",), True),
    ("Lt", ("x",), False),
    ("Unheard", ("5",), False),
]


@pytest.mark.parametrize(("operator", "values", "matches"), OPERATORS)
def test_operators(operator: str, values: tuple[str, ...], matches: bool) -> None:
    term = NodeSelectorTerm((Requirement("rank", operator, values),))
    item = node("n1", labels={"rank": "5"})
    assert (fit.unsuitable(pod("p", node_affinity=(term,)), item) == "") == matches


def test_affinity_terms_are_alternatives_and_an_empty_one_matches_nothing() -> None:
    here = NodeSelectorTerm(fields=(Requirement("metadata.name", "In", ("n1",)),))
    there = NodeSelectorTerm(fields=(Requirement("metadata.name", "In", ("n2",)),))
    assert fit.unsuitable(pod("p", node_affinity=(there, here)), node("n1")) == ""
    assert fit.unsuitable(pod("p", node_affinity=(there,)), node("n1")) != ""
    assert fit.unsuitable(pod("p", node_affinity=(NodeSelectorTerm(),)), node("n1")) != ""
    assert fit.unsuitable(pod("p", node_affinity=()), node("n1")) != ""


# (taint, toleration, whether the pod may run)
TOLERATIONS = [
    (Taint("k", "v"), Toleration("k", "Equal", "v"), True),
    (Taint("k", "v"), Toleration("k", "Equal", "w"), False),
    (Taint("k", "v"), Toleration("k", "Exists"), True),
    (Taint("k", "v"), Toleration("", "Exists"), True),
    (Taint("k", "v"), Toleration("k", "Equal", "v", "NoExecute"), False),
    (Taint("k", "v", "NoExecute"), Toleration("k", "Equal", "v", "NoExecute"), True),
    (Taint("k", "v", "NoExecute"), Toleration("other"), False),
    (Taint("k", "v", "PreferNoSchedule"), Toleration("other"), True),
    (Taint(names.REPARTITIONING_TAINT), Toleration("other"), True),
]


@pytest.mark.parametrize(("taint", "toleration", "may"), TOLERATIONS)
def test_tolerations(taint: Taint, toleration: Toleration, may: bool) -> None:
    assert (fit.unsuitable(pod("p", tolerations=(toleration,)), node("n1", taints=(taint,))) == "") == may


def test_a_cordon_can_be_tolerated() -> None:
    cordoned = node("n1", unschedulable=True)
    assert fit.unsuitable(pod("p"), cordoned) == "is cordoned"
    tolerant = pod("p", tolerations=(Toleration("node.kubernetes.io/unschedulable", "Exists"),))
    assert fit.unsuitable(tolerant, cordoned) == ""


def test_room_is_what_bound_pods_leave() -> None:
    free = fit.free_resources(
        node("n1", allocatable={"cpu": 1000, "pods": 2}), [bound("b", "n1", request={"cpu": 600})]
    )
    assert fit.too_small(pod("p", request={"cpu": 400}), free) == ""
    assert (
        fit.too_small(pod("p", request={"cpu": 401, "example.com/fpga": 1}), free)
        == "has too little cpu, example.com/fpga"
    )
    fit.take(free, pod("p"))
    assert fit.too_small(pod("q"), free) == "has too little pods"


def test_host_ports() -> None:
    holder = bound("b", "n1", host_ports=frozenset({("TCP", "0.0.0.0", 80)}))
    assert (
        fit.ports_taken(pod("p", host_ports=frozenset({("TCP", "10.0.0.1", 80)})), [holder]) == "has host port 80 taken"
    )
    assert fit.ports_taken(pod("p", host_ports=frozenset({("UDP", "0.0.0.0", 80)})), [holder]) == ""
