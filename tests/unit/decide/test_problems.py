"""What is wrong with a node, from every kind of node that something is wrong with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brain.decide import eligibility, problems
from brain.decide.decisions import AnnotateNode
from brain.decide.loop import Settings, decide
from brain.model.node import Failure, Node, Plugin, Taint
from brain.model.pod import Toleration
from brain.model.snapshot import Snapshot
from n8s import names
from tests.worlds import gpu, node, plugin

LABELS = node("n1").labels
NOTE = names.PROBLEM_ANNOTATION
PLUGIN = Plugin(plugin("n1"), float("inf"), float("inf"))
PICKY = Plugin(plugin("n1", tolerations=(Toleration("nvidia.com/gpu", "Exists"),)), float("inf"), float("inf"))
UNTOLD: dict[str, Any] = {"plugin_problem": "no process is seen"}
STALE: dict[str, Any] = {"allocatable": {}}
LATE: dict[str, Any] = {"failure": Failure("plugin-late", "the kubelet knows 0 devices", 2.0)}
TAINTED: dict[str, Any] = {"taints": (Taint(names.REPARTITIONING_TAINT),)}


def world(agent: dict[str, Any] | None = None, **changes: Any) -> Node:
    return node("n1", [gpu(0, "7g.40gb@0f"), gpu(1)], agent, **{"plugin": PLUGIN, **changes})


def labelled(label: str, value: str) -> Node:
    return world(labels={**LABELS, label: value})


def with_gpus(*wrong: tuple[str, str]) -> Node:
    """A node whose GPUs have problems, by text and code."""
    return node("n1", [replace(gpu(i), problem=text, problem_code=code) for i, (text, code) in enumerate(wrong)])


# (what it shows, node, reasons, parts of the first one's text, why its GPUs cannot be changed)
PROBLEMS: list[tuple[str, Node, list[str], list[str], str]] = [
    ("nothing", world(), [], [], ""),
    (
        "mig-manager drives it",
        labelled(names.MIG_CONFIG_LABEL, "all-1g.5gb"),
        ["MigManagerNode"],
        ["nvidia.com/mig.config=all-1g.5gb", "all-disabled"],
        "mig-manager",
    ),
    ("mig-manager is told to leave it", labelled(names.MIG_CONFIG_LABEL, "all-disabled"), [], [], ""),
    (
        "the plugin gives MIG devices no resources of their own",
        labelled(names.MIG_STRATEGY_LABEL, "single"),
        ["MigStrategy"],
        ["nvidia.com/mig.strategy=single", "mig.strategy", "migStrategy"],
        "MIG strategy single",
    ),
    ("the right strategy", labelled(names.MIG_STRATEGY_LABEL, "mixed"), [], [], ""),
    ("the agent is in trouble", world({"problem": "no kubelet"}), ["MigAgentProblem"], ["no kubelet"], "no kubelet"),
    ("a silent agent's trouble is over", world({"problem": "no kubelet", "connected": False}), [], [], "silent"),
    ("no agent yet", replace(world(), agent=None), [], [], "no agent"),
    (
        "two models",
        node("n1", [gpu(0), gpu(1, model="A30-24GB")]),
        ["MigMixedModels"],
        ["NVIDIA-A100-SXM4-40GB, NVIDIA-A30"],
        "more than one model",
    ),
    (
        "one of them without MIG, as for a display",
        node("n1", [gpu(0), replace(gpu(1, model="A30-24GB"), profiles=(), problem="x", problem_code="no-mig")]),
        [],
        [],
        "",
    ),
    (
        "nobody sees a plugin",
        world(UNTOLD, plugin=None),
        ["MigPluginMissing"],
        ["no process is seen", "Install", "brain.devicePluginContainers"],
        "nobody can have look again",
    ),
    ("a plugin that is no pod, which the agent sees", world(plugin=None), [], [], ""),
    ("the brain can replace a plugin that the agent does not see", world(UNTOLD), [], [], ""),
    (
        "nobody can have it look again",
        world(UNTOLD, plugin=PICKY),
        ["MigPluginOutOfReach"],
        [
            "no process is seen",
            "gpu-operator/nvidia-device-plugin-daemonset",
            "{key: n8s.nebuly.ai/repartitioning, operator: Exists, effect: NoSchedule}",
            "daemonsets.tolerations",
            "agent.hostPID",
        ],
        "nobody can have look again",
    ),
    (
        "one that is new, and that the agent may not have noticed",
        world(UNTOLD, plugin=replace(PICKY, ready_seconds=4.0)),
        [],
        [],
        "nobody can have look again",
    ),
    ("one that would not come back, but is signalled", world(plugin=PICKY), [], [], ""),
    ("one that is being replaced", world(UNTOLD, plugin=None, **TAINTED), [], [], ""),
    (
        "one that does not come back, under the taint",
        world(UNTOLD, plugin=PICKY, **TAINTED),
        ["MigPluginOutOfReach"],
        [],
        "nobody",
    ),
    (
        "a plugin that did not come back in time",
        world(LATE | STALE),
        ["MigPluginLate"],
        ["gpu-operator/nvidia-device-plugin-daemonset", "the kubelet knows 0 devices", "log"],
        "a moment ago",
    ),
    (
        "a kubelet that shows what is gone",
        world(LATE | {"allocatable": {"nvidia.com/mig-7g.40gb": frozenset({"MIG-old"})}}),
        ["MigPluginLate"],
        ["takes no new pods", "the kubelet knows 0 devices", "restart the kubelet"],
        "a moment ago",
    ),
    ("one that came back after all", world(LATE), [], [], "a moment ago"),
    ("another failure is no lasting problem", world({"failure": Failure("in-use", "x", 2.0)}), [], [], "a moment ago"),
    (
        "MIG mode off, on all",
        with_gpus(("MIG is off", "mig-off"), ("MIG is off", "mig-off")),
        ["MigModeOff"],
        ["GPUs 0, 1 cannot be partitioned: MIG is off"],
        "",
    ),
    (
        "each GPU another problem",
        with_gpus(("may not", "no-permission"), ("lost", "gpu-lost"), ("as an older agent says it", "")),
        ["MigNoPermission", "MigGpuProblem", "MigGpuProblem"],
        ["GPU 0 cannot be partitioned: may not"],
        "",
    ),
    (
        "no GPU with MIG",
        with_gpus(("no MIG", "no-mig"), ("no MIG", "no-mig")),
        ["MigUnsupported"],
        ["off this node"],
        "",
    ),
    ("not ours", world(UNTOLD, plugin=None, labels={names.MIG_STRATEGY_LABEL: "single"}), [], [], "is not labelled"),
]


@pytest.mark.parametrize(
    ("item", "reasons", "parts", "unchangeable"), [row[1:] for row in PROBLEMS], ids=[row[0] for row in PROBLEMS]
)
def test_problems(item: Node, reasons: list[str], parts: list[str], unchangeable: str) -> None:
    found = problems.problems(item)
    assert [problem.reason for problem in found] == reasons
    assert [part for part in parts if part not in found[0].text] == []
    assert unchangeable in eligibility.unchangeable(item)
    assert bool(unchangeable) == bool(eligibility.unchangeable(item))


def test_the_annotation_comes_changes_and_goes_with_the_problems() -> None:
    both = labelled(names.MIG_STRATEGY_LABEL, "none")
    both = replace(both, labels={**both.labels, names.MIG_CONFIG_LABEL: "all-1g.5gb"})
    told = problems.shown(both)
    assert told is not None
    text = told.annotations[NOTE]
    assert text is not None
    first, second = text.split("\n")
    assert (first[:16], second[:13]) == ("MigManagerNode: ", "MigStrategy: ")
    assert problems.shown(replace(both, annotations={NOTE: text})) is None
    assert problems.shown(
        replace(labelled(names.MIG_STRATEGY_LABEL, "none"), annotations={NOTE: text})
    ) == AnnotateNode("n1", {NOTE: second})
    for mended in (world(), world(labels={})):
        assert problems.shown(mended) is None
        assert problems.shown(replace(mended, annotations={NOTE: text})) == AnnotateNode("n1", {NOTE: None})


def test_free_devices_that_the_plugin_will_not_show_are_nobodys() -> None:
    for item in (
        world(STALE | UNTOLD, plugin=PICKY),
        world(STALE, labels={**LABELS, names.MIG_STRATEGY_LABEL: "single"}),
        world(STALE | LATE),
        world(STALE | {"connected": False}),
    ):
        assert "does not show its MIG devices" in eligibility.unshown(item)
    for item in (world(STALE), world(UNTOLD, plugin=PICKY), labelled(names.MIG_STRATEGY_LABEL, "single")):
        assert eligibility.unshown(item) == ""


def test_events_name_what_to_do() -> None:
    item = node(
        "n1",
        [replace(gpu(0), problem="MIG is off")],
        {"failure": Failure("in-use", "held by pid 3", 2.0)},
        labels={**LABELS, names.MIG_CONFIG_LABEL: "all-1g.5gb"},
    )
    events = list(problems.events(item))
    assert [event.reason for event in events] == ["MigManagerNode", "MigGpuProblem", "MigApplyFailed"]
    assert "all-disabled" in events[0].message
    assert "held by pid 3" in events[2].message
    assert list(problems.events(replace(item, labels={}))) == []
    late = [event.reason for event in problems.events(world(LATE | STALE))]
    assert late == ["MigPluginLate", "MigApplyFailed"]


def test_that_nobody_can_have_the_plugin_look_again_is_told_once_it_is_no_longer_new() -> None:
    new = replace(PICKY, ready_seconds=4.0)
    assert problems.wake_seconds(world(UNTOLD, plugin=new)) == 1.0
    for at_rest in (
        world(UNTOLD, plugin=PICKY),
        world(plugin=new),
        world(UNTOLD),
        world(UNTOLD, plugin=None),
        world(UNTOLD, plugin=new, labels={}),
        world(UNTOLD, plugin=Plugin(replace(PICKY.pod, ready=False), 9.0, 0.0)),
    ):
        assert problems.wake_seconds(at_rest) is None
    decided = decide(Snapshot(nodes=(world(UNTOLD, plugin=new),)), Settings())
    assert decided.wake_seconds == 1.0
