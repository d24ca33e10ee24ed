"""The planner on whole worlds: what is in the cluster, what each GPU should hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brain.decide.partition import plan
from brain.model.affinity import Requirement
from brain.model.mig import Placement
from brain.model.node import Failure, Taint
from brain.model.pod import NodeSelectorTerm, Toleration
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import bound, gpu, node, pod


def wanted(snapshot: Snapshot) -> dict[str, dict[int, str]]:
    """The plan's geometries, written as in the worlds."""
    result = plan(snapshot)
    return {
        name: {index: " ".join(f"{p.profile}@{p.start}" for p in geometry) for index, geometry in gpus.items()}
        for name, gpus in result.geometries.items()
    }


# (what it shows, instances of GPU 0, pods' profiles, geometry wanted of GPU 0 or None when it stays)
ONE_GPU = [
    ("a 1g goes where it spoils least", "7g.40gb@0f", [{"1g.5gb": 1}], "1g.5gb@6"),
    ("what fits as it is changes nothing", "7g.40gb@0f", [{"7g.40gb": 1}], None),
    ("seven 1g fill the GPU", "7g.40gb@0f", [{"1g.5gb": 1}] * 7, " ".join(f"1g.5gb@{i}" for i in range(7))),
    ("3g prefers slot 4", "", [{"3g.20gb": 1}], "3g.20gb@4"),
    ("a used 1g at 4 sends 3g to 0", "1g.5gb@4u 1g.5gb@0f", [{"3g.20gb": 1}], "3g.20gb@0 1g.5gb@4"),
    ("an unknown instance stays too", "1g.5gb@4? 1g.5gb@0f", [{"3g.20gb": 1}], "3g.20gb@0 1g.5gb@4"),
    ("fewest free ones destroyed", "1g.5gb@0f 1g.5gb@1f 2g.10gb@4f", [{"3g.20gb": 1}], "1g.5gb@0 1g.5gb@1 3g.20gb@4"),
    ("no room around what is used", "1g.5gb@0u 1g.5gb@4u", [{"3g.20gb": 1}], None),
    ("4g only at 0, a used 1g at 6 stays", "1g.5gb@6u", [{"4g.20gb": 1}], "4g.20gb@0 1g.5gb@6"),
    ("4g beside 3g", "", [{"4g.20gb": 1}, {"3g.20gb": 1}], "4g.20gb@0 3g.20gb@4"),
    ("one 1g+me at most", "1g.5gb+me@0u", [{"1g.5gb+me": 1}], None),
    ("a broken instance goes", "1g.5gb@0b 1g.5gb@1u", [], "1g.5gb@1"),
    ("several instances of one pod", "7g.40gb@0f", [{"3g.20gb": 2}], "3g.20gb@0 3g.20gb@4"),
    ("different instances of one pod", "", [{"4g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1}], "4g.20gb@0 2g.10gb@4 1g.5gb@6"),
]


@pytest.mark.parametrize(
    ("instances", "pods", "geometry"), [row[1:] for row in ONE_GPU], ids=[row[0] for row in ONE_GPU]
)
def test_one_gpu(instances: str, pods: list[dict[str, int]], geometry: str | None) -> None:
    world = Snapshot((node("n1", [gpu(0, instances)]),), tuple(pod(f"p{i}", mig) for i, mig in enumerate(pods)))
    assert wanted(world) == ({"n1": {0: geometry}} if geometry is not None else {})


def test_a_pod_over_two_gpus_of_one_node() -> None:
    world = Snapshot(
        (node("n1", [gpu(0, "1g.5gb@0u"), gpu(1, "7g.40gb@0f")]),), (pod("p", {"4g.20gb": 1, "3g.20gb": 2}),)
    )
    assert plan(world).unplaced == {}
    assert wanted(world) == {"n1": {0: "1g.5gb@0 3g.20gb@4", 1: "4g.20gb@0 3g.20gb@4"}}


def test_a_node_that_destroys_nothing_is_preferred() -> None:
    world = Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]), node("n2", [gpu(0)])), (pod("p", {"1g.5gb": 1}),))
    assert wanted(world) == {"n2": {0: "1g.5gb@6"}}


def test_a_plan_made_again_keeps_to_the_node_that_is_tainted_for_it() -> None:
    tainted = node("n2", [gpu(0, "7g.40gb@0f")], taints=(Taint(names.REPARTITIONING_TAINT),), tainted_seconds=0.5)
    world = Snapshot((node("n1", [gpu(0, "7g.40gb@0f")]), tainted), (pod("p", {"1g.5gb": 1}),))
    assert wanted(world) == {"n2": {0: "1g.5gb@6"}}


def test_priority_then_age_come_first() -> None:
    pods = (
        pod("young", {"7g.40gb": 1}, created=2),
        pod("old", {"7g.40gb": 1}, created=1),
        pod("urgent", {"3g.20gb": 1}, created=3, priority=10),
    )
    nodes = (node("n1", [gpu(0)]), node("n2", [gpu(0)]))
    result = plan(Snapshot(nodes, pods))
    assert set(result.assigned) == {"team/urgent", "team/old"}
    assert "1 nvidia.com/mig-7g.40gb: has too few free slots" in result.unplaced["team/young"]


def test_what_bound_pods_were_promised_stays() -> None:
    """A pod is bound but the kubelet does not show its device yet: one free 1g is its."""
    nodes = (node("n1", [gpu(0, "1g.5gb@0f 1g.5gb@4f")]),)
    pods = (bound("b", "n1", {"1g.5gb": 1}), pod("p", {"3g.20gb": 1}))
    geometries = plan(Snapshot(nodes, pods)).geometries["n1"][0]
    assert Placement(0, "1g.5gb") in geometries or Placement(4, "1g.5gb") in geometries
    shown = (node("n1", [gpu(0, "1g.5gb@0u:team/b 1g.5gb@4f")]),)
    assert wanted(Snapshot(shown, pods)) == {"n1": {0: "1g.5gb@0 3g.20gb@4"}}


def test_an_ended_pod_still_listed_takes_nothing_from_a_new_one() -> None:
    nodes = (node("n1", [gpu(0, "1g.5gb@0u:team/ended 1g.5gb@4f")]),)
    pods = (
        bound("ended", "n1", {"1g.5gb": 1}, phase="Succeeded"),
        bound("new", "n1", {"1g.5gb": 1}),
        pod("p", {"3g.20gb": 1}),
    )
    assert plan(Snapshot(nodes, pods)).geometries == {}


def test_what_others_may_be_bound_to_stays() -> None:
    """A pod the scheduler has not tried yet fits on the free 1g: it is not destroyed for the waiting one."""
    nodes = (node("n1", [gpu(0, "1g.5gb@0f 1g.5gb@4u")]),)
    pods = (pod("new", {"1g.5gb": 1}, unschedulable=False, created=1), pod("p", {"3g.20gb": 1}, created=2))
    assert plan(Snapshot(nodes, pods)).geometries == {}


def test_under_the_taint_untried_pods_hold_even_before_more_urgent_ones() -> None:
    tainted = node(
        "n1", [gpu(0, "1g.5gb@0f 1g.5gb@4u")], taints=(Taint(names.REPARTITIONING_TAINT),), tainted_seconds=2
    )
    pods = (pod("new", {"1g.5gb": 1}, unschedulable=False), pod("p", {"3g.20gb": 1}, priority=5))
    assert plan(Snapshot((tainted,), pods)).geometries == {}
    refused = (replace(pods[0], unschedulable=True), pods[1])
    assert wanted(Snapshot((tainted,), refused)) == {"n1": {0: "3g.20gb@0 1g.5gb@4 1g.5gb@5"}}
    tolerant = (replace(refused[0], tolerations=(Toleration(operator="Exists"),)), pods[1])
    assert plan(Snapshot((tainted,), tolerant)).geometries == {}


# (what it shows, changes of the node, changes of its agent, changes of the pod, part of the reason)
REFUSED = [
    ("not labelled", {"labels": {}}, {}, {}, "is not labelled n8s.nebuly.ai/auto-mig-enabled=true (n1)"),
    ("silent agent", {}, {"connected": False}, {}, "has a silent agent (n1)"),
    ("agent with a problem", {}, {"problem": "kubelet gone"}, {}, "has an agent with a problem: kubelet gone (n1)"),
    ("failed just now", {}, {"failure": Failure("failed", "x", 3.0)}, {}, "could not be repartitioned a moment ago"),
    (
        "mig-manager",
        {"labels": {names.AUTO_MIG_LABEL: "true", names.MIG_CONFIG_LABEL: "all-1g.5gb"}},
        {},
        {},
        "mig-manager",
    ),
    ("cordoned", {"unschedulable": True}, {}, {}, "is cordoned (n1)"),
    ("not ready", {"ready": False}, {}, {}, "is not ready (n1)"),
    ("tainted", {"taints": (Taint("team", "a"),)}, {}, {}, "has taint team that the pod does not tolerate (n1)"),
    ("node selector", {}, {}, {"node_selector": {"zone": "b"}}, "does not match the pod's node selector"),
    ("affinity", {}, {}, {"node_affinity": (NodeSelectorTerm((Requirement("zone", "In", ("b",)),)),)}, "node affinity"),
    ("cpu", {}, {}, {"request": {"cpu": 65_000}}, "has too little cpu (n1)"),
    ("memory", {}, {}, {"request": {"memory": 300 << 30}}, "has too little memory (n1)"),
    ("pods", {"allocatable": {"cpu": 1000, "pods": 0}}, {}, {}, "has too little pods (n1)"),
]


@pytest.mark.parametrize(
    ("node_is", "agent_is", "pod_is", "reason"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused_with_a_reason(node_is: dict, agent_is: dict, pod_is: dict, reason: str) -> None:  # type: ignore[type-arg]
    world = Snapshot((node("n1", [gpu(0)], agent_is, **node_is),), (pod("p", {"1g.5gb": 1}, **pod_is),))
    result = plan(world)
    assert result.geometries == {}
    assert reason in result.unplaced["team/p"]


def test_no_such_profile_does_not_stop_others() -> None:
    world = Snapshot((node("n1", [gpu(0)]),), (pod("bad", {"9g.99gb": 1}, priority=9), pod("good", {"2g.10gb": 1})))
    result = plan(world)
    assert result.assigned == {"team/good": "n1"}
    assert "has no GPU that can hold nvidia.com/mig-9g.99gb (n1)" in result.unplaced["team/bad"]


def test_cpu_is_counted_over_all_that_is_planned() -> None:
    small = node("n1", [gpu(0)], allocatable={"cpu": 3000, "memory": 1 << 30, "pods": 10})
    pods = tuple(pod(f"p{i}", {"1g.5gb": 1}, request={"cpu": 1000}) for i in range(4))
    assert len(plan(Snapshot((small,), pods)).assigned) == 3
    crowded = (bound("b", "n1", request={"cpu": 1500}), *pods)
    assert len(plan(Snapshot((small,), crowded)).assigned) == 1


def test_what_is_ordered_counts_as_if_it_were_there() -> None:
    ordered = {0: (Placement(6, "1g.5gb"),)}
    busy = node("n1", [gpu(0, "7g.40gb@0f")], {"ordered": ordered})
    result = plan(Snapshot((busy,), (pod("a", {"1g.5gb": 1}), pod("b", {"1g.5gb": 1}))))
    assert result.assigned == {"team/a": "n1"}
    assert result.geometries == {}
    assert result.deferred == {"team/b"}


def test_gated_ended_and_bound_pods_want_nothing() -> None:
    pods = (
        pod("gated", {"1g.5gb": 1}, gates=("g",)),
        pod("going", {"1g.5gb": 1}, terminating=True),
        bound("running", "n2", {"1g.5gb": 1}),
    )
    assert plan(Snapshot((node("n1", [gpu(0)]),), pods)).geometries == {}


def test_other_models_have_their_own_grids() -> None:
    nodes = (
        node("a30", [gpu(0, "4g.24gb@0f", "A30-24GB")]),
        node("rtx", [gpu(0, "", "RTX-PRO-6000-96GB")]),
    )
    pods = (pod("p", {"2g.12gb": 2}), pod("q", {"1g.24gb": 4}))
    assert wanted(Snapshot(nodes, pods)) == {
        "a30": {0: "2g.12gb@0 2g.12gb@2"},
        "rtx": {0: "1g.24gb@0 1g.24gb@3 1g.24gb@6 1g.24gb@9"},
    }


def test_a_higher_priority_is_not_passed_over_for_a_group() -> None:
    """A world in which the solver once handed back the start that it was given."""
    nodes = (
        node("n02", [gpu(0, "", "A30-24GB")]),
        node("n03", [gpu(0)]),
        node("n04", [gpu(0, "", "A30-24GB"), gpu(1, "", "A30-24GB")]),
    )
    pods = (
        pod("g-1", {"1g.6gb+me": 1}, group="group/team/g1"),
        pod("g-2", {"1g.6gb+me": 1}, group="group/team/g1"),
        pod("mid", {"2g.12gb": 1}, priority=10),
        pod("low", {"4g.20gb": 1}),
        pod("high", {"4g.20gb": 1}, priority=10),
    )
    result = plan(Snapshot(nodes, pods))
    assert sorted(result.assigned) == ["team/g-1", "team/g-2", "team/high", "team/mid"]


def test_a_promise_is_kept_first_where_nothing_can_change() -> None:
    stuck = replace(gpu(1, "1g.5gb@0f"), problem="broken")
    item = node("n1", [gpu(0, "1g.5gb@0f"), stuck])
    pods = (bound("b", "n1", {"1g.5gb": 1}), pod("p", {"7g.40gb": 1}))
    assert plan(Snapshot((item,), pods)).assigned == {"team/p": "n1"}
