from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nodeagent.geometry import diff, objection
from nodeagent.gpu.driver import Instance, Placement
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver

if TYPE_CHECKING:
    from pathlib import Path

    from nodeagent.gpu.driver import Gpu

Wanted = list[tuple[str, int]]


def gpu(path: Path, model: str, holds: Wanted, broken: Wanted) -> Gpu:
    node = SimulatedNode.install(path, [(model, 1)], geometry=[holds])
    for instance in SimulatedDriver(node).read()[0].instances:
        if (instance.placement.profile, instance.placement.start) in broken:
            node.destroy_compute_instance(0, instance.id)
    return SimulatedDriver(node).read()[0]


def as_placements(pairs: Wanted) -> list[Placement]:
    return [Placement(start, profile) for profile, start in pairs]


def pairs(found: tuple[Instance, ...]) -> Wanted:
    return [(instance.placement.profile, instance.placement.start) for instance in found]


# What the GPU holds (of it without compute instance), what is wanted -> (destroys, repairs, creates).
DIFFS: list[tuple[Wanted, Wanted, Wanted, tuple[Wanted, Wanted, Wanted]]] = [
    ([], [], [], ([], [], [])),
    ([("7g.40gb", 0)], [], [("7g.40gb", 0)], ([], [], [])),
    ([("7g.40gb", 0)], [], [("3g.20gb", 4), ("1g.5gb", 0)], ([("7g.40gb", 0)], [], [("1g.5gb", 0), ("3g.20gb", 4)])),
    ([("3g.20gb", 4), ("1g.5gb", 0)], [], [("3g.20gb", 4)], ([("1g.5gb", 0)], [], [])),
    ([("3g.20gb", 0)], [], [("3g.20gb", 4)], ([("3g.20gb", 0)], [], [("3g.20gb", 4)])),
    ([("3g.20gb", 0)], [], [("4g.20gb", 0)], ([("3g.20gb", 0)], [], [("4g.20gb", 0)])),
    ([("3g.20gb", 4)], [("3g.20gb", 4)], [("3g.20gb", 4)], ([], [("3g.20gb", 4)], [])),
    ([("3g.20gb", 4)], [("3g.20gb", 4)], [], ([("3g.20gb", 4)], [], [])),
    ([("1g.5gb", 0), ("1g.5gb", 1)], [("1g.5gb", 1)], [], ([("1g.5gb", 0), ("1g.5gb", 1)], [], [])),
]


@pytest.mark.parametrize(("holds", "broken", "wanted", "expected"), DIFFS)
def test_diff(
    tmp_path: Path, holds: Wanted, broken: Wanted, wanted: Wanted, expected: tuple[Wanted, Wanted, Wanted]
) -> None:
    change = diff(gpu(tmp_path, "A100-40GB", holds, broken), as_placements(wanted))
    creates = [(placement.profile, placement.start) for placement in change.creates]
    assert (pairs(change.destroys), pairs(change.repairs), creates) == expected
    assert bool(change) == any(expected)


# Model, wanted, part of the objection ("" = none).
OBJECTIONS: list[tuple[str, Wanted, str]] = [
    ("A100-40GB", [], ""),
    ("A100-40GB", [("4g.20gb", 0), ("3g.20gb", 4)], ""),
    ("A100-40GB", [("3g.20gb", 0), ("4g.20gb", 0)], "4g.20gb at 0 overlaps 3g.20gb at 0"),
    ("A100-40GB", [("4g.20gb", 4)], "4g.20gb cannot start at 4"),
    ("A100-40GB", [("1g.6gb", 0)], "NVIDIA-A100-SXM4-40GB has no profile 1g.6gb"),
    ("A100-40GB", [("1g.5gb", 0), ("1g.5gb", 0)], "overlaps"),
    ("A100-40GB", [("1g.5gb", s) for s in range(7)], ""),
    ("A100-40GB", [("1g.5gb", 6), ("1g.10gb", 6)], "overlaps"),
    ("A100-40GB", [("1g.5gb+me", 0), ("1g.5gb+me", 1)], "1 times at most"),
    ("A30-24GB", [("1g.6gb+me", 0), ("2g.12gb+me", 2)], "media extensions"),
    ("RTX-PRO-6000-96GB", [("1g.24gb+me.all", 0), ("1g.24gb", 3)], "media engines"),
    ("RTX-PRO-6000-96GB", [("1g.24gb+me.all", 0), ("1g.24gb-me", 3)], ""),
    ("RTX-PRO-6000-96GB", [("1g.24gb+me.all", 0), ("2g.48gb+me.all", 6)], "media engines"),
    ("RTX-PRO-6000-96GB", [("2g.48gb", 6), ("1g.24gb", 0), ("1g.24gb+gfx", 3)], ""),
]


@pytest.mark.parametrize(("model", "wanted", "part"), OBJECTIONS)
def test_objection(tmp_path: Path, model: str, wanted: Wanted, part: str) -> None:
    reason = objection({0: gpu(tmp_path, model, [], [])}, [(0, as_placements(wanted))])
    assert part in (reason or "")
    assert (reason is None) == (not part)


def test_gpus_must_exist_and_be_named_once(tmp_path: Path) -> None:
    gpus = {0: gpu(tmp_path, "A100-40GB", [], [])}
    assert objection(gpus, [(1, [])]) == "the node has no GPU 1"
    assert objection(gpus, [(0, []), (0, [])]) == "GPU 0 is named 2 times"
