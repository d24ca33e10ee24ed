"""Each thing that the planner must respect, alone in a small world, for small clusters' plans and for large ones'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from brain.decide import batch, wide
from brain.decide.partition import Plan, plan
from brain.model.affinity import AffinityTerm, LabelSelector, Requirement
from brain.model.mig import Gpu, Placement, Profile
from brain.model.node import Failure, Node, Taint
from brain.model.pod import NodeSelectorTerm, Pod, Toleration
from brain.model.snapshot import Snapshot
from n8s import names
from tests.unit.decide.test_partition import ONE_GPU, REFUSED
from tests.worlds import bound, gpu, node, pod


@pytest.fixture(autouse=True, params=["small", "large", "singly"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The planner's ways: the program alone, the way of large clusters, and that of pods to whom others matter."""
    if request.param == "small":
        monkeypatch.setattr(wide, "spread", lambda *_: pytest.fail("the program alone finds all that there is"))
    if request.param == "large":
        monkeypatch.setattr(batch, "EXACT_COLUMNS", 0)
    return str(request.param)


def social(each: Pod) -> Pod:
    """A pod that is not indifferent to others, but whom it avoids there is not."""
    nobody = AffinityTerm("kubernetes.io/hostname", LabelSelector((Requirement("app", "In", ("?",)),)), frozenset("z"))
    return replace(each, anti_affinity=(nobody,))


@dataclass
class World:
    """Nodes and pods, and which of the pods are served, each with its node; ``*`` where any of them will do.

    ``geometries`` is what GPUs hold that change, written ``node/index: profile@start ...``; None where it is not asked.
    ``singly`` is whether the same is to be expected of pods that come in turn.
    """

    shows: str
    nodes: Sequence[Node]
    pods: Sequence[Pod]
    served: dict[str, str]
    geometries: dict[str, str] | None = None
    singly: bool = True


def written(result: Plan) -> dict[str, str]:
    return {
        f"{name}/{index}": " ".join(f"{p.profile}@{p.start}" for p in geometry)
        for name, gpus in result.geometries.items()
        for index, geometry in gpus.items()
    }


def several(count: int, mig: dict[str, int], prefix: str = "p", **changes: Any) -> list[Pod]:
    return [pod(f"{prefix}{number}", mig, created=number, **changes) for number in range(count)]


def small(name: str, gpus: Sequence[Gpu], **amounts: int) -> Node:
    return node(name, gpus, allocatable={"cpu": 64_000, "memory": 256 << 30, "pods": 110} | amounts)


def port(number: int, protocol: str = "TCP", address: str = "0.0.0.0") -> frozenset[tuple[str, str, int]]:
    return frozenset({(protocol, address, number)})


ONE, TWO, THREE, FOUR, ALL = ({name: 1} for name in ("1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"))
A, B = node("a", [gpu(0)]), node("b", [gpu(0)])
TAINTED: dict[str, Any] = {"taints": (Taint(names.REPARTITIONING_TAINT),), "tainted_seconds": 2.0}
BROKEN = replace(gpu(0, "1g.5gb@0f"), problem="serves virtual machines")
LOST = replace(gpu(0, "1g.5gb@0?:team/b 1g.5gb@1?"), profiles=(), problem="GPU is lost", problem_code="gpu-lost")

# A model that only its agent knows: `1s` up to twice anywhere on four slots, `2s` at 0 and 2, `2x` at 0 only.
PROFILES = (Profile("1s", 1, (0, 1, 2, 3), 2), Profile("2s", 2, (0, 2), 2), Profile("2x", 2, (0,), 1))


def unheard(instances: str = "") -> Gpu:
    known = {profile.name: profile for profile in PROFILES}
    plain = gpu(0, instances.replace("1s", "1g.5gb").replace("2s", "2g.10gb").replace("2x", "2g.10gb"))
    texts = [text.partition("@")[0] for text in instances.split()]
    made = tuple(
        replace(instance, profile=name, size=known[name].size)
        for instance, name in zip(plain.instances, texts, strict=True)
    )
    return Gpu(0, "Unheard", 4, PROFILES, made)


LONE = Gpu(0, "Unheard", 4, (Profile("1s", 1, (0, 1, 2, 3), 4),), ())

WORLDS = [
    # What stays.
    World("used, in the middle", [node("a", [gpu(0, "1g.5gb@3u 1g.5gb@0f")])], several(2, THREE), {"p0": "a"}),
    World("unknown, in the middle", [node("a", [gpu(0, "1g.5gb@3? 1g.5gb@0f")])], several(2, THREE), {"p0": "a"}),
    World(
        "promised to two bound pods of which the kubelet shows one",
        [node("a", [gpu(0, "1g.5gb@0u:team/b 1g.5gb@4f 1g.5gb@5f")])],
        [bound("b", "a", ONE), bound("c", "a", ONE), *several(1, THREE)],
        {},
    ),
    World(
        "shown is not promised again",
        [node("a", [gpu(0, "1g.5gb@0u:team/b 1g.5gb@4f")])],
        [bound("b", "a", ONE), *several(1, THREE)],
        {"p0": "a"},
        {"a/0": "1g.5gb@0 3g.20gb@4"},
    ),
    World(
        "what is promised is given to nobody",
        [node("a", [gpu(0, "3g.20gb@0f 3g.20gb@4f")])],
        [bound("b", "a", THREE), *several(2, THREE)],
        {"p0": "a"},
        {},
    ),
    World(
        "an order under way counts as carried out",
        [node("a", [gpu(0, "7g.40gb@0f")], {"ordered": {0: (Placement(0, "3g.20gb"), Placement(4, "3g.20gb"))}})],
        several(3, THREE),
        {"p0": "a", "p1": "a"},
        {},
    ),
    World(
        "an order under way: what it destroys is nobody's",
        [node("a", [gpu(0, "7g.40gb@0f")], {"ordered": {0: (Placement(0, "3g.20gb"),)}})],
        several(1, ALL),
        {},
    ),
    # What the hardware takes.
    World("no more slots than there are", [A], several(9, ONE), {f"p{n}": "a" for n in range(7)}),
    World("no overlap of large ones", [A], several(3, THREE), {"p0": "a", "p1": "a"}),
    World(
        "starts of an unheard model",
        [node("a", [unheard("1s@1u")])],
        several(2, {"2s": 1}),
        {"p0": "a"},
        {"a/0": "1s@1 2s@2"},
    ),
    World("starts: nowhere left", [node("a", [unheard("1s@0u 1s@3u")])], several(1, {"2s": 1}), {}),
    World("starts: at 0 only", [node("a", [unheard("1s@1u")])], several(1, {"2x": 1}), {}),
    World("counts, slots aside", [node("a", [unheard()])], several(4, {"1s": 1}), {"p0": "a", "p1": "a"}),
    World("counts, of used ones too", [node("a", [unheard("1s@0u")])], several(3, {"1s": 1}), {"p0": "a"}),
    World("one +me", [A], several(2, {"1g.5gb+me": 1}), {"p0": "a"}),
    World("one +me: of a used one", [node("a", [gpu(0, "1g.5gb+me@0u")])], several(1, {"1g.5gb+me": 1}), {}),
    World(
        "+me beside plain ones",
        [A],
        [*several(1, {"1g.5gb+me": 1}), *several(6, ONE, "q")],
        {"p0": "a"} | {f"q{n}": "a" for n in range(6)},
    ),
    World(
        "+me.all beside -me only",
        [node("a", [gpu(0, "1g.24gb+me.all@0u", "RTX-PRO-6000-96GB")])],
        [*several(1, {"1g.24gb": 1}), *several(1, {"1g.24gb-me": 1}, "q"), *several(1, {"1g.24gb+me": 1}, "r")],
        {"q0": "a"},
        {"a/0": "1g.24gb+me.all@0 1g.24gb-me@3"},
    ),
    World(
        "+me.all goes for a plain one",
        [node("a", [gpu(0, "1g.24gb+me.all@0f", "RTX-PRO-6000-96GB")])],
        several(4, {"1g.24gb": 1}),
        {f"p{n}": "a" for n in range(4)},
    ),
    # What the node allows.
    World("a GPU with a problem gives what it has", [node("a", [BROKEN])], several(2, ONE), {"p0": "a"}, {}),
    World("beside a lost GPU nothing is changed", [node("a", [LOST, gpu(1)])], several(1, ONE), {}),
    World(
        "beside a lost GPU what is there is there",
        [node("a", [LOST, gpu(1, "3g.20gb@0f")])],
        several(2, THREE),
        {"p0": "a"},
        {},
    ),
    World(
        "the scheduler takes a device as taken for a pod on a lost GPU",
        [node("a", [LOST, gpu(1, "1g.5gb@0f 1g.5gb@1f")])],
        [bound("b", "a", ONE), *several(2, ONE)],
        {"p0": "a"},
        {},
    ),
    World(
        "a GPU with a problem leaves the others alone",
        [node("a", [BROKEN, gpu(1)])],
        several(1, ALL),
        {"p0": "a"},
        {"a/1": "7g.40gb@0"},
    ),
    World(
        "devices of a node that is not ours, less what is bound",
        [replace(small("a", [], **{"nvidia.com/mig-1g.5gb": 3}), agent=None, labels={})],
        [bound("b", "a", ONE), *several(3, ONE)],
        {"p0": "a", "p1": "a"},
        {},
    ),
    World(
        "devices of a node that is not ours: all that one pod wants",
        [replace(small("a", [], **{"nvidia.com/mig-1g.5gb": 3}), agent=None, labels={})],
        several(2, {"1g.5gb": 2}),
        {"p0": "a"},
        {},
    ),
    World(
        "devices of a node that is not ours: cpu",
        [replace(small("a", [], cpu=2500, **{"nvidia.com/mig-1g.5gb": 3}), agent=None, labels={})],
        several(3, ONE, request={"cpu": 1000}),
        {"p0": "a", "p1": "a"},
        {},
    ),
    World(
        "a silent agent's node gives what is free, and the other changes",
        [node("a", [gpu(0, "1g.5gb@0f")], {"connected": False}), B],
        several(1, ALL),
        {"p0": "b"},
    ),
    World(
        "a silent agent's free instance",
        [node("a", [gpu(0, "1g.5gb@0f")], {"connected": False})],
        several(2, ONE),
        {"p0": "a"},
        {},
    ),
    World(
        "retry later", [node("a", [gpu(0)], {"failure": Failure("failed", "x", 3.0)}), B], several(1, ALL), {"p0": "b"}
    ),
    World(
        "retry is over", [node("a", [gpu(0)], {"failure": Failure("failed", "x", 0.0)})], several(1, ALL), {"p0": "a"}
    ),
    World("applied under this taint", [node("a", [gpu(0)], {"applied_seconds": 1.0}, **TAINTED)], several(1, ALL), {}),
    World(
        "applied before this taint",
        [node("a", [gpu(0)], {"applied_seconds": 3.0}, **TAINTED)],
        several(1, ALL),
        {"p0": "a"},
    ),
    # What the scheduler counts.
    World("cpu", [small("a", [gpu(0)], cpu=2500)], several(3, ONE, request={"cpu": 1000}), {"p0": "a", "p1": "a"}),
    World(
        "cpu, of bound pods too",
        [small("a", [gpu(0)], cpu=2500)],
        [bound("b", "a", request={"cpu": 1000}), *several(3, ONE, request={"cpu": 1000})],
        {"p0": "a"},
    ),
    World(
        "memory",
        [small("a", [gpu(0)], memory=5 << 30)],
        several(3, ONE, request={"memory": 2 << 30}),
        {"p0": "a", "p1": "a"},
    ),
    World("number of pods", [small("a", [gpu(0)], pods=2)], several(3, ONE), {"p0": "a", "p1": "a"}),
    World(
        "number of pods, bound ones too",
        [small("a", [gpu(0)], pods=2)],
        [bound("b", "a"), *several(3, ONE)],
        {"p0": "a"},
    ),
    World(
        "other devices",
        [small("a", [gpu(0)], **{"example.com/fpga": 1})],
        several(2, ONE, request={"example.com/fpga": 1}),
        {"p0": "a"},
    ),
    World("host ports of alike pods", [A, B], several(3, ONE, host_ports=port(80)), {"p0": "*", "p1": "*"}),
    World(
        "host ports of different pods",
        [A],
        [*several(1, ONE, host_ports=port(80)), *several(1, TWO, "q", host_ports=port(80))],
        {"*": "a"},
    ),
    World(
        "host ports of bound pods",
        [A, B],
        [bound("b", "a", host_ports=port(80)), *several(2, ONE, host_ports=port(80))],
        {"p0": "b"},
    ),
    World(
        "host ports of other protocols and addresses",
        [A],
        [
            *several(1, ONE, host_ports=port(80)),
            *several(1, ONE, "q", host_ports=port(80, "UDP", "10.0.0.1")),
            *several(1, ONE, "r", host_ports=port(80, "UDP", "10.0.0.2")),
        ],
        {"p0": "a", "q0": "a", "r0": "a"},
    ),
    World(
        "host ports on all addresses and on one",
        [A],
        [*several(1, ONE, host_ports=port(80)), *several(1, ONE, "q", host_ports=port(80, address="10.0.0.1"))],
        {"*": "a"},
    ),
    # What one pod is.
    World("all of one node", [A, B], several(1, {"7g.40gb": 2}), {}),
    World("all of one node, over its GPUs", [A, node("b", [gpu(0), gpu(1)])], several(2, {"7g.40gb": 2}), {"p0": "b"}),
    World(
        "different profiles of one node",
        [node("a", [gpu(0, "4g.20gb@0u")]), node("b", [gpu(0, "3g.20gb@4u")])],
        several(1, {"4g.20gb": 1, "3g.20gb": 1}),
        {},
    ),
    World(
        "several that exist",
        [node("a", [gpu(0, "3g.20gb@0f 3g.20gb@4f")])],
        several(1, {"3g.20gb": 2}),
        {"p0": "a"},
        {},
    ),
    # Who is alike.
    World(
        "alike but for the node selector",
        [A, B],
        [*several(1, ALL, node_selector={"kubernetes.io/hostname": "b"}), *several(2, ALL, "q")],
        {"p0": "b", "q0": "a"},
    ),
    World(
        "alike but for the node affinity",
        [A, B],
        [
            *several(1, ALL, node_affinity=(NodeSelectorTerm(fields=(Requirement("metadata.name", "In", ("b",)),)),)),
            *several(2, ALL, "q"),
        ],
        {"p0": "b", "q0": "a"},
    ),
    World(
        "alike but for the tolerations",
        [A, node("b", [gpu(0)], taints=(Taint("k"),))],
        [*several(2, ALL), *several(1, ALL, "q", tolerations=(Toleration("k", "Exists"),))],
        {"p0": "a", "q0": "b"},
    ),
    World(
        "alike but for cpu",
        [small("a", [gpu(0)], cpu=500), small("b", [gpu(0)], cpu=1000)],
        [*several(1, ALL, request={"cpu": 1000}), *several(1, ALL, "q", request={"cpu": 500})],
        {"p0": "b", "q0": "a"},
    ),
    World(
        "alike but for host ports",
        [A],
        [*several(2, ONE, host_ports=port(80)), *several(2, ONE, "q")],
        {"p0": "a", "q0": "a", "q1": "a"},
    ),
    # Who comes first.
    World("priority before age", [A], [*several(1, ALL), *several(1, ALL, "q", priority=1)], {"q0": "a"}),
    World("priority before number", [A], [*several(2, THREE), *several(1, ALL, "q", priority=1)], {"q0": "a"}),
    World("number before age", [A], [*several(1, ALL), *several(2, THREE, "q")], {"q0": "a", "q1": "a"}, singly=False),
    World("age among alike ones", [A], [pod("young", ALL, created=9), pod("old", ALL, created=1)], {"old": "a"}),
    World(
        "each priority in turn",
        [A],
        [*several(3, ONE, priority=2), *several(1, FOUR, "q", priority=1), *several(2, TWO, "r")],
        {"p0": "a", "p1": "a", "p2": "a", "q0": "a"},
    ),
    World(
        "who may be bound at any moment keeps what it would take",
        [node("a", [gpu(0, "3g.20gb@4f 1g.5gb@0u")])],
        [*several(1, THREE, unschedulable=False), *several(1, THREE, "q", priority=1)],
        {"p0": "a"},
        {},
    ),
    World(
        "who may be bound at any moment gets nothing made",
        [A],
        several(1, ONE, unschedulable=False),
        {},
        {},
    ),
    World(
        "alike but for priority",
        [node("a", [gpu(0), gpu(1)])],
        [*several(1, ALL, priority=1), *several(1, ALL, "q"), *several(2, THREE, "r")],
        {"p0": "a", "r0": "a", "r1": "a"},
        singly=False,
    ),
    World("the name, where all else is equal", [A], [pod("x", ALL), pod("w", ALL), pod("y", ALL)], {"w": "a"}),
    # Who may have been bound under the taint.
    World(
        "nominated under the taint",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@4u")], **TAINTED)],
        [*several(1, ONE, nominated="a"), *several(1, THREE, "q", priority=1)],
        {"p0": "a"},
        {},
    ),
    World(
        "tolerant of the taint",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@4u")], **TAINTED)],
        [*several(1, ONE, tolerations=(Toleration("", "Exists"),)), *several(1, THREE, "q", priority=1)],
        {"p0": "a"},
        {},
    ),
    World(
        "nominated elsewhere, under the taint",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@4u")], **TAINTED)],
        [*several(1, ONE, nominated="z"), *several(1, THREE, "q", priority=1)],
        {"p0": "a", "q0": "a"},
    ),
    World(
        "untried under the taint, but not for this node",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@4u")], **TAINTED)],
        [*several(1, ONE, unschedulable=False, node_selector={"zone": "b"}), *several(1, THREE, "q")],
        {"q0": "a"},
    ),
    World(
        "untried under the taint, and better served elsewhere",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@4u")], **TAINTED), node("b", [gpu(0, "4g.20gb@0u 2g.10gb@4u 1g.5gb@6f")])],
        [*several(1, ONE, unschedulable=False), *several(1, THREE, "q")],
        {"p0": "b"},
        {},
    ),
    # What is disturbed.
    World(
        "no change where pods fit",
        [node("a", [gpu(0, "3g.20gb@0f 3g.20gb@4f")]), B],
        several(2, THREE),
        {"p0": "a", "p1": "a"},
        {},
    ),
    World(
        "few are destroyed",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@1f 1g.5gb@2f 1g.5gb@3f 2g.10gb@4f 1g.5gb@6u")])],
        several(1, {"1g.10gb": 1}),
        {"p0": "a"},
        {"a/0": "1g.5gb@0 1g.5gb@1 1g.5gb@2 1g.5gb@3 1g.10gb@4 1g.5gb@6"},
    ),
    World(
        "nothing is destroyed where that spares more than it spoils",
        [node("a", [gpu(0, "1g.10gb@6f")])],
        several(1, ONE),
        {"p0": "a"},
        {"a/0": "1g.5gb@4 1g.10gb@6"},
    ),
    World(
        "one that exists, though another would spoil less",
        [node("a", [gpu(0, "1g.5gb@0f")])],
        several(1, ONE),
        {"p0": "a"},
        {},
    ),
    World(
        "one GPU rather than two, all else equal",
        [node("a", [LONE, replace(LONE, index=1)], **TAINTED)],
        several(2, {"1s": 1}),
        {"p0": "a", "p1": "a"},
        {"a/0": "1s@0 1s@1"},
    ),
    World(
        "a node that may not be changed keeps what is broken",
        [node("a", [gpu(0, "1g.5gb@0b")], {"connected": False})],
        [],
        {},
        {},
    ),
    World(
        "few are made",
        [node("a", [gpu(0, "3g.20gb@0f")])],
        several(2, THREE),
        {"p0": "a", "p1": "a"},
        {"a/0": "3g.20gb@0 3g.20gb@4"},
    ),
    World(
        "few GPUs are touched",
        [node("a", [gpu(0, "1g.5gb@6u 2g.10gb@4u"), gpu(1, "1g.5gb@6u 2g.10gb@4u")])],
        several(1, {"2g.10gb": 2}),
        {"p0": "a"},
        {"a/0": "2g.10gb@0 2g.10gb@2 2g.10gb@4 1g.5gb@6"},
    ),
    World(
        "a node that is tainted for a change already goes on",
        [A, node("b", [gpu(0)], **TAINTED)],
        several(1, ONE),
        {"p0": "b"},
        {"b/0": "1g.5gb@6"},
        singly=False,
    ),
    World(
        "a small pod goes where little is left",
        [A, node("b", [gpu(0, "4g.20gb@0u 2g.10gb@4u")])],
        several(1, ONE),
        {"p0": "b"},
        {"b/0": "4g.20gb@0 2g.10gb@4 1g.5gb@6"},
    ),
    World(
        "of free instances that exist the one that spoils least is given",
        [node("a", [gpu(0, "1g.5gb@0f 1g.5gb@6f")])],
        [*several(1, ONE), *several(1, FOUR, "q")],
        {"p0": "a", "q0": "a"},
        {"a/0": "4g.20gb@0 1g.5gb@6"},
    ),
]


def planned(way: str, nodes: Sequence[Node], pods: Sequence[Pod]) -> Plan:
    """The plan, which is the same whatever the order of nodes and pods."""
    asking = tuple(social(each) if each.waiting and way == "singly" else each for each in pods)
    result = plan(Snapshot(tuple(nodes), asking))
    assert plan(Snapshot(tuple(nodes)[::-1], asking[::-1])) == result
    assert result.bound >= len(result.assigned)
    return result


@pytest.mark.parametrize("world", WORLDS, ids=[world.shows for world in WORLDS])
def test_worlds(world: World, way: str) -> None:
    if way == "singly" and not world.singly:
        return
    result = planned(way, world.nodes, world.pods)
    given = {key.removeprefix("team/"): where for key, where in result.assigned.items()}
    if "*" in world.served:
        assert list(given.values()) == list(world.served.values())
    else:
        assert given.keys() == world.served.keys()
        assert all(world.served[name] in {where, "*"} for name, where in given.items())
    if world.geometries is not None:
        assert written(result) == world.geometries


@pytest.mark.parametrize(("text", "mig", "geometry"), [row[1:] for row in ONE_GPU], ids=[row[0] for row in ONE_GPU])
def test_one_gpu(text: str, mig: list[dict[str, int]], geometry: str | None, way: str) -> None:
    result = planned(way, [node("n1", [gpu(0, text)])], [pod(f"p{number}", each) for number, each in enumerate(mig)])
    assert written(result) == ({"n1/0": geometry} if geometry is not None else {})


@pytest.mark.parametrize(
    ("node_is", "agent_is", "pod_is"), [row[1:4] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(node_is: dict[str, Any], agent_is: dict[str, Any], pod_is: dict[str, Any], way: str) -> None:
    result = planned(way, [node("n1", [gpu(0)], agent_is, **node_is)], [pod("p", ONE, **pod_is)])
    assert (result.assigned, result.geometries) == ({}, {})
