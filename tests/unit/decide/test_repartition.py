"""What happens to a node next, from every situation a brain may find it in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brain.decide import repartition
from brain.decide.decisions import (
    AskState,
    Decision,
    EmitEvent,
    OrderGeometry,
    PublishDevices,
    ReplacePlugin,
    TaintNode,
    UntaintNode,
)
from brain.decide.partition import Plan
from brain.model.mig import Geometry, Instance, InstanceState, Placement
from brain.model.node import Failure, Node, Plugin, Taint
from brain.model.pod import Pod
from n8s import names
from tests.worlds import bound, gpu, node, plugin

WANT: dict[int, Geometry] = {0: (Placement(6, "1g.5gb"),)}
SAME: dict[int, Geometry] = {0: (Placement(0, "7g.40gb"),)}
TAINT = (Taint(names.REPARTITIONING_TAINT),)
SEVEN = "nvidia.com/mig-7g.40gb"
ONE = "nvidia.com/mig-1g.5gb"


def situation(agent: dict[str, Any] | None = None, **changes: Any) -> Node:
    return node("n1", [gpu(0, "7g.40gb@0f")], agent, **changes)


OTHER_STRATEGY = {names.AUTO_MIG_LABEL: "true", names.MIG_STRATEGY_LABEL: "single"}


def beside(allocatable: dict[str, frozenset[str]], *, lost: bool) -> Node:
    """A node that has settled, with a GPU that has a problem and one that has none; each has a device."""
    code = "gpu-lost" if lost else "other"
    gpus = [replace(gpu(0, "7g.40gb@0?"), problem="x", problem_code=code), gpu(1, "7g.40gb@0f")]
    settled: dict[str, Any] = {} if lost else {"taints": TAINT, "tainted_seconds": 2.0}
    return node("n1", gpus, {"allocatable": allocatable}, **settled)


IDS = frozenset({"MIG-0-7g.40gb-0", "MIG-1-7g.40gb-0"})
STALE: dict[str, Any] = {"allocatable": {SEVEN: frozenset({"MIG-old"})}}

AWAITED: dict[str, Any] = STALE | {"ordered": WANT, "plugin_problem": "no process is seen", "awaited_seconds": 3.0}
SILENT: dict[str, Any] = STALE | {"connected": False, "ordered": WANT}
TAINTED: dict[str, Any] = {"taints": TAINT, "tainted_seconds": 5.0}
INFINITE = float("inf")
OPEN = UntaintNode("n1")
REPLACE = ReplacePlugin("n1", "gpu-operator", "plugin-x", "uid-plugin-x")


def silent(seconds: float) -> dict[str, Any]:
    """An agent that ended its session so long ago."""
    return {"connected": False, "silent_seconds": seconds}


def ready(seconds: float, known: float | None = None, **changes: Any) -> Plugin:
    """The device plugin, Ready for so long, and known for a second longer unless that is told."""
    return Plugin(plugin("n1", **changes), seconds + 1.0 if known is None else known, seconds)


# (what it shows, node, wanted, waiting pod fits as it is, decision or None, wake seconds or None)
STEPS: list[tuple[str, Node, dict[int, Geometry], bool, Decision | None, float | None]] = [
    ("at rest", situation(), {}, False, None, None),
    ("wanted: taint first", situation(), WANT, False, TaintNode("n1"), None),
    ("tainted: wait until it has settled", situation(taints=TAINT, tainted_seconds=0.25), WANT, False, None, 0.75),
    ("settled: order", situation(taints=TAINT, tainted_seconds=1.0), WANT, False, OrderGeometry("n1", WANT), None),
    ("no longer wanted: open", situation(taints=TAINT, tainted_seconds=1.0), {}, False, UntaintNode("n1"), None),
    (
        "order under way: nothing",
        situation({"ordered": WANT}, taints=TAINT, tainted_seconds=3),
        WANT,
        False,
        None,
        None,
    ),
    (
        "applied: publish before opening",
        situation({"applied_seconds": 0.1}, taints=TAINT, tainted_seconds=1.5, allocatable={ONE: 7}),
        {},
        False,
        PublishDevices("n1", {ONE: 0, SEVEN: 1}),
        None,
    ),
    (
        "applied once under this taint: open before the next order",
        situation({"applied_seconds": 0.1}, taints=TAINT, tainted_seconds=1.5),
        WANT,
        False,
        UntaintNode("n1"),
        None,
    ),
    (
        "an order of an earlier taint does not count",
        situation({"applied_seconds": 9.0}, taints=TAINT, tainted_seconds=1.5),
        WANT,
        False,
        OrderGeometry("n1", WANT),
        None,
    ),
    ("just opened and pods fit: let them in first", situation(untainted_seconds=0.5), WANT, True, None, 0.5),
    ("just opened but nobody fits", situation(untainted_seconds=0.5), WANT, False, TaintNode("n1"), None),
    ("pods fit but do not come", situation(untainted_seconds=5), WANT, True, TaintNode("n1"), None),
    (
        "no device is shown anywhere: nothing to lose, so no taint",
        situation({"allocatable": {}}, allocatable={"cpu": 4_000, SEVEN: 0}),
        {},
        False,
        OrderGeometry("n1", SAME, closed=False),
        None,
    ),
    ("plugin stale: taint, then order what is there", situation(STALE), {}, False, TaintNode("n1"), None),
    (
        "plugin stale and settled",
        situation(STALE, taints=TAINT, tainted_seconds=2),
        {},
        False,
        OrderGeometry("n1", SAME),
        None,
    ),
    ("a lost GPU's devices are shown", beside({SEVEN: IDS}, lost=True), {}, False, None, None),
    (
        "a lost GPU's devices are not shown",
        beside({SEVEN: IDS - {"MIG-0-7g.40gb-0"}}, lost=True),
        {},
        False,
        None,
        None,
    ),
    (
        "plugin stale beside a GPU that cannot be ordered anything",
        beside({SEVEN: IDS, ONE: frozenset({"MIG-old"})}, lost=False),
        {},
        False,
        OrderGeometry("n1", {1: SAME[0]}),
        None,
    ),
    (
        "an instance that somebody else has filled is no device",
        node(
            "n1",
            [replace(gpu(0), problem="x", instances=(Instance("7g.40gb", 0, 8, InstanceState.UNKNOWN),))],
            {"allocatable": {}},
        ),
        {},
        False,
        None,
        None,
    ),
    (
        "failed: leave it alone, open it, look again later",
        situation({"failure": Failure("in-use", "x", 4.0)}, taints=TAINT, tainted_seconds=2),
        WANT,
        False,
        UntaintNode("n1"),
        4.0,
    ),
    ("failed and waited", situation({"failure": Failure("in-use", "x", 0.0)}), WANT, False, TaintNode("n1"), None),
    (
        "plugin did not come back: the kubelet's word counts",
        situation(
            {"allocatable": {}, "failure": Failure("plugin-late", "x", 8.0)},
            taints=TAINT,
            tainted_seconds=40,
            allocatable={SEVEN: 0},
        ),
        {},
        False,
        UntaintNode("n1"),
        8.0,
    ),
    (
        "the kubelet shows what is gone: closed, whatever it shows besides",
        situation(
            {
                "allocatable": {SEVEN: frozenset({"MIG-0-7g.40gb-0", "MIG-old"})},
                "failure": Failure("plugin-late", "x", 8.0),
            },
            taints=TAINT,
            tainted_seconds=40,
        ),
        {},
        False,
        None,
        8.0,
    ),
    (
        "and after a while once more",
        situation(STALE | {"failure": Failure("plugin-late", "x", 0.0)}, taints=TAINT, tainted_seconds=48),
        {},
        False,
        OrderGeometry("n1", SAME),
        None,
    ),
    (
        "agent silent under the taint: wait",
        situation({"connected": False, "silent_seconds": 10.0}, taints=TAINT),
        WANT,
        False,
        None,
        20.0,
    ),
    (
        "agent silent for long",
        situation({"connected": False, "silent_seconds": 61.0}, taints=TAINT),
        WANT,
        False,
        UntaintNode("n1"),
        None,
    ),
    ("agent silent, no taint", situation({"connected": False}), WANT, False, None, None),
    ("label gone under the taint", situation(labels={}, taints=TAINT), {}, False, UntaintNode("n1"), None),
    (
        "label gone: publish what the agent last saw",
        situation({"connected": False}, labels={}, taints=TAINT, allocatable={ONE: 7}),
        {},
        False,
        PublishDevices("n1", {ONE: 0, SEVEN: 1}),
        None,
    ),
    (
        "label gone in the middle of an order",
        situation({"ordered": WANT}, labels={}, taints=TAINT, tainted_seconds=90.0),
        WANT,
        False,
        None,
        None,
    ),
    (
        "label gone, and the agent in the middle of an order",
        situation({"ordered": WANT, "connected": False, "silent_seconds": 10.0}, labels={}, taints=TAINT),
        WANT,
        False,
        None,
        20.0,
    ),
    (
        "label gone before the plugin looked again",
        situation(STALE | {"connected": False, "silent_seconds": 10.0}, labels={}, taints=TAINT),
        {},
        False,
        None,
        20.0,
    ),
    (
        "label gone, the plugin never looked again",
        situation(STALE, labels={}, taints=TAINT, tainted_seconds=90.0),
        {},
        False,
        UntaintNode("n1"),
        None,
    ),
    (
        "the kubelet does not answer the agent: its devices are not known",
        situation({"problem": "x", "allocatable": {}}, taints=TAINT, tainted_seconds=10.0),
        {},
        False,
        None,
        20.0,
    ),
    (
        "the kubelet has not answered for long",
        situation({"problem": "x", "allocatable": {}}, taints=TAINT, tainted_seconds=90.0),
        {},
        False,
        UntaintNode("n1"),
        None,
    ),
    (
        "the strategy was changed under the taint: open",
        situation(labels=OTHER_STRATEGY, taints=TAINT, tainted_seconds=2.0),
        WANT,
        False,
        UntaintNode("n1"),
        None,
    ),
    (
        "the strategy was changed, and the plugin shows nothing any more",
        situation(STALE, labels=OTHER_STRATEGY, taints=TAINT, tainted_seconds=2.0),
        WANT,
        False,
        None,
        28.0,
    ),
    ("the strategy is another: nothing", situation(STALE, labels=OTHER_STRATEGY), WANT, False, None, None),
    ("not labelled", situation(labels={}), WANT, False, None, None),
    ("no agent", replace(situation(), agent=None), WANT, False, None, None),
    (
        "an agent that this brain has never heard, under the taint",
        replace(situation(taints=TAINT, tainted_seconds=5.0), agent=None),
        {},
        False,
        None,
        25.0,
    ),
    (
        "a brain that comes after an order: publish what it has made",
        situation(taints=TAINT, tainted_seconds=0.1, allocatable={ONE: 7}),
        {},
        False,
        PublishDevices("n1", {ONE: 0, SEVEN: 1}),
        None,
    ),
    (
        "a brain that comes before an order: settle anew",
        situation(taints=TAINT, tainted_seconds=0.1),
        WANT,
        False,
        None,
        0.9,
    ),
    (
        "a brain that comes when neither label nor agent are there any more",
        replace(situation(labels={}, taints=TAINT, tainted_seconds=90.0), agent=None),
        {},
        False,
        UntaintNode("n1"),
        None,
    ),
    (
        "an agent that never came back",
        replace(situation(taints=TAINT, tainted_seconds=90.0), agent=None),
        {},
        False,
        UntaintNode("n1"),
        None,
    ),
]


@pytest.mark.parametrize(
    ("item", "wanted", "expected", "decision", "wake"), [row[1:] for row in STEPS], ids=[r[0] for r in STEPS]
)
def test_next_step(
    item: Node,
    wanted: dict[int, Geometry],
    expected: bool,
    decision: Decision | None,
    wake: float | None,
) -> None:
    plan = Plan(geometries={"n1": wanted} if wanted else {})
    step = repartition.step(item, (), plan, expected=expected, settle_seconds=1.0)
    done = tuple(each for each in step.decisions if not isinstance(each, EmitEvent))
    assert done == ((decision,) if decision else ())
    assert step.wake_seconds == (pytest.approx(wake) if wake is not None else None)


# What becomes of the device plugin's pod. (what it shows, node, decision or None, wake seconds or None)
REPLACING: list[tuple[str, Node, Decision | None, float | None]] = [
    ("awaited, and Ready since before that", situation(AWAITED, **TAINTED, plugin=ready(100.0)), REPLACE, None),
    ("it has come since the taint", situation(AWAITED, **TAINTED, plugin=ready(2.5, 4.0)), REPLACE, None),
    ("it came before, and is Ready since", situation(AWAITED, **TAINTED, plugin=ready(2.0, 4.0)), REPLACE, None),
    ("it came before, and has not looked yet", situation(AWAITED, **TAINTED, plugin=ready(0.5, 4.0)), None, 1.5),
    ("Ready since before this brain", situation(AWAITED, **TAINTED, plugin=ready(INFINITE)), REPLACE, None),
    (
        "the agent could tell it",
        situation(AWAITED | {"awaited_seconds": None}, **TAINTED, plugin=ready(100.0)),
        None,
        None,
    ),
    ("there is no taint yet", situation(AWAITED, plugin=ready(100.0)), TaintNode("n1"), None),
    ("the taint is new", situation(AWAITED, taints=TAINT, tainted_seconds=0.25, plugin=ready(100.0)), None, 0.75),
    ("it is on its way out", situation(AWAITED, **TAINTED, plugin=ready(100.0, terminating=True)), None, None),
    ("between two", situation(AWAITED, **TAINTED), None, None),
    ("the next is not Ready yet", situation(AWAITED, **TAINTED, plugin=ready(0.0, ready=False)), None, None),
    ("the next is Ready: not once more", situation(AWAITED, **TAINTED, plugin=ready(2.0, 2.9)), None, None),
    ("it would not come back", situation(AWAITED, **TAINTED, plugin=ready(100.0, tolerations=())), None, None),
    ("it is new and would not", situation(AWAITED, **TAINTED, plugin=ready(5.5, tolerations=())), None, None),
    ("label gone meanwhile", situation(AWAITED, labels={}, **TAINTED, plugin=ready(100.0)), REPLACE, None),
    ("silent, not for long", situation(SILENT | silent(29.0), taints=TAINT, plugin=ready(100.0)), None, 1.0),
    ("silent for long", situation(SILENT | silent(31.0), taints=TAINT, plugin=ready(100.0)), REPLACE, 59.0),
    (
        "silent, on its way out",
        situation(SILENT | silent(40.0), taints=TAINT, plugin=ready(100.0, terminating=True)),
        None,
        50.0,
    ),
    ("silent, between two", situation(SILENT | silent(40.0), taints=TAINT), None, 50.0),
    ("silent, the next is starting", situation(SILENT | silent(40.0), taints=TAINT, plugin=ready(0.0)), None, 50.0),
    ("silent, the next looks", situation(SILENT | silent(40.0), taints=TAINT, plugin=ready(5.0)), None, 10.0),
    ("silent, the next shows", situation(SILENT | silent(50.0), taints=TAINT, plugin=ready(16.0)), OPEN, None),
    ("silent, no next one", situation(SILENT | silent(90.0), taints=TAINT), OPEN, None),
    (
        "silent, the plugin is gone, and the kubelet says so",
        situation(SILENT | silent(31.0), taints=TAINT, allocatable={SEVEN: 0}),
        OPEN,
        None,
    ),
    (
        "silent, the eviction was refused",
        situation(SILENT | silent(90.0), taints=TAINT, plugin=ready(500.0)),
        OPEN,
        None,
    ),
    (
        "silent, the plugin would not come back",
        situation(SILENT | silent(31.0), taints=TAINT, plugin=ready(100.0, tolerations=())),
        OPEN,
        None,
    ),
    (
        "silent, and the plugin would end beside a lost GPU",
        node(
            "n1",
            [gpu(0, "7g.40gb@0f"), replace(gpu(1), problem_code="gpu-lost")],
            SILENT | silent(31.0),
            taints=TAINT,
            plugin=ready(100.0),
        ),
        OPEN,
        None,
    ),
    (
        "silent, but nothing was under way and the plugin was right",
        situation(silent(31.0), taints=TAINT, plugin=ready(100.0)),
        OPEN,
        None,
    ),
    ("silent, not tainted", situation(SILENT | silent(31.0), plugin=ready(100.0)), None, None),
    (
        "an agent that never came",
        replace(situation(taints=TAINT, tainted_seconds=31.0, plugin=ready(INFINITE)), agent=None),
        REPLACE,
        59.0,
    ),
    (
        "label gone, the plugin never looked again",
        situation(STALE, labels={}, taints=TAINT, tainted_seconds=31.0, plugin=ready(100.0)),
        REPLACE,
        59.0,
    ),
]


@pytest.mark.parametrize(("item", "decision", "wake"), [row[1:] for row in REPLACING], ids=[r[0] for r in REPLACING])
def test_the_device_plugins_pod_is_replaced(item: Node, decision: Decision | None, wake: float | None) -> None:
    step = repartition.step(item, (), Plan(geometries={"n1": WANT}), expected=False, settle_seconds=1.0)
    done = tuple(each for each in step.decisions if not isinstance(each, EmitEvent))
    assert done == ((decision,) if decision else ())
    assert step.wake_seconds == (pytest.approx(wake) if wake is not None else None)


@pytest.mark.parametrize(
    ("item", "reason", "parts"),
    [
        (
            situation(AWAITED, **TAINTED, plugin=ready(100.0)),
            "MigPluginReplaced",
            ["gpu-operator/plugin-x", "no process is seen"],
        ),
        (
            situation(SILENT | silent(31.0), taints=TAINT, plugin=ready(100.0)),
            "MigPluginReplaced",
            ["gpu-operator/plugin-x", "no agent has answered"],
        ),
        (
            situation(SILENT | silent(31.0), taints=TAINT, plugin=ready(100.0, tolerations=())),
            "MigOpenedUnseen",
            ["gpu-operator/nvidia-device-plugin-daemonset", "toleration {key: n8s.nebuly.ai/repartitioning"],
        ),
        (
            situation(SILENT | silent(90.0), taints=TAINT, plugin=ready(0.0)),
            "MigOpenedUnseen",
            ["No new pod of it has become Ready"],
        ),
    ],
)
def test_what_is_done_about_the_device_plugin_is_told(item: Node, reason: str, parts: list[str]) -> None:
    (told,) = (
        each
        for each in repartition.step(item, (), Plan(), expected=False, settle_seconds=1.0).decisions
        if isinstance(each, EmitEvent)
    )
    assert (told.kind, told.name, told.reason) == ("Node", "n1", reason)
    assert [part for part in parts if part not in told.message] == []


# (what it shows, what the node holds, pod, seconds that the taint has stood, wake seconds or None: the order goes out)
ADMISSIONS: list[tuple[str, str, Pod, float, float | None]] = [
    ("has its device", "1g.5gb@0u:team/a", bound("a", "n1", {"1g.5gb": 1}, phase="Pending"), 1.0, None),
    ("has none yet", "1g.5gb@0f", bound("a", "n1", {"1g.5gb": 1}, phase="Pending"), 1.0, 10.0),
    ("has one of two", "1g.5gb@0u:team/a", bound("a", "n1", {"1g.5gb": 2}, phase="Pending"), 3.5, 7.5),
    ("has none for too long", "1g.5gb@0f", bound("a", "n1", {"1g.5gb": 1}, phase="Pending"), 11.0, None),
    ("runs", "1g.5gb@0f", bound("a", "n1", {"1g.5gb": 1}), 1.0, None),
    ("asks for none", "1g.5gb@0f", bound("a", "n1", phase="Pending"), 1.0, None),
    ("goes", "1g.5gb@0f", bound("a", "n1", {"1g.5gb": 1}, phase="Pending", terminating=True), 1.0, None),
]


@pytest.mark.parametrize(
    ("holds", "pod", "tainted", "wake"), [row[1:] for row in ADMISSIONS], ids=[r[0] for r in ADMISSIONS]
)
def test_an_order_waits_until_the_kubelet_has_given_bound_pods_their_devices(
    holds: str, pod: Pod, tainted: float, wake: float | None
) -> None:
    item = node("n1", [gpu(0, holds)], taints=TAINT, tainted_seconds=tainted)
    step = repartition.step(item, (pod,), Plan(geometries={"n1": WANT}), expected=False, settle_seconds=1.0)
    assert step.decisions == ((OrderGeometry("n1", WANT),) if wake is None else ())
    assert step.wake_seconds == wake


def test_the_agent_is_asked_where_its_report_is_behind_the_api_server() -> None:
    shown = node("n1", [gpu(0, "1g.5gb@0u:team/a")])
    running, gone = [bound("a", "n1", {"1g.5gb": 1})], list[Pod]()
    assert repartition.outdated(shown, running) is None
    assert repartition.outdated(shown, [*running, bound("other", "n1")]) is None
    assert repartition.outdated(shown, gone) == AskState("n1")
    assert repartition.outdated(shown, [*running, bound("b", "n1", {"1g.5gb": 1})]) == AskState("n1")
    assert repartition.outdated(replace(shown, labels={}), gone) is None
    assert repartition.outdated(node("n1", [gpu(0, "1g.5gb@0u:team/a")], {"connected": False}), gone) is None


def test_annotations_follow_state_and_plan() -> None:
    item = node(
        "n1",
        [gpu(0, "1g.5gb@0u 1g.5gb@1f 1g.5gb+me@2f")],
        annotations={
            f"{names.GROUP}/status-gpu-0-7g.40gb-free": "1",
            f"{names.GROUP}/status-gpu-0-1g.5gb-used": "1",
            f"{names.GROUP}/other": "kept",
        },
    )
    decision = repartition.shown_geometry(item, Plan(geometries={"n1": {0: (Placement(0, "1g.5gb"),)}}))
    assert decision is not None
    assert decision.annotations == {
        f"{names.GROUP}/spec-gpu-0-1g.5gb": "1",
        f"{names.GROUP}/status-gpu-0-1g.5gb-free": "1",
        f"{names.GROUP}/status-gpu-0-1g.5gb.me-free": "1",
        f"{names.GROUP}/status-gpu-0-7g.40gb-free": None,
    }
    present = {key: value for key, value in decision.annotations.items() if value is not None}
    settled = replace(item, annotations={**present, f"{names.GROUP}/status-gpu-0-1g.5gb-used": "1"})
    assert repartition.shown_geometry(settled, Plan(geometries={"n1": {0: (Placement(0, "1g.5gb"),)}})) is None
    assert repartition.shown_geometry(replace(item, labels={}), Plan()) is None
