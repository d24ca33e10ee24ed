"""What the scheduler counts for a pod. The rules and most cases are those of KEP-753 and KEP-2837."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from brain.model import resources
from brain.model.request import Container, pod_request
from n8s import names


def c(sidecar: bool = False, limits: dict[str, int] | None = None, **requests: int) -> Container:  # noqa: FBT002
    return Container(requests, limits or {}, sidecar)


CASES: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("nothing", {"containers": [c()]}, {}),
    ("containers add up", {"containers": [c(cpu=1, memory=5), c(cpu=2)]}, {"cpu": 3, "memory": 5}),
    ("zeros go", {"containers": [c(cpu=0, memory=1)]}, {"memory": 1}),
    (
        "a limit stands in for a missing request",
        {"containers": [c(limits={"cpu": 4, "x": 1}, cpu=1)]},
        {"cpu": 1, "x": 1},
    ),
    (
        "the largest init container counts",
        {"containers": [c(cpu=2)], "init_containers": [c(cpu=5), c(cpu=3)]},
        {"cpu": 5},
    ),
    ("by resource", {"containers": [c(cpu=2, memory=9)], "init_containers": [c(cpu=5)]}, {"cpu": 5, "memory": 9}),
    ("init containers do not add up", {"containers": [c(cpu=2)], "init_containers": [c(cpu=1), c(cpu=1)]}, {"cpu": 2}),
    ("sidecars run on", {"containers": [c(cpu=2)], "init_containers": [c(sidecar=True, cpu=3)]}, {"cpu": 5}),
    (
        "an init container runs beside the sidecars before it",
        {"containers": [c(cpu=1)], "init_containers": [c(sidecar=True, cpu=2), c(cpu=5)]},
        {"cpu": 7},
    ),
    (
        "and not beside those after it",
        {"containers": [c(cpu=1)], "init_containers": [c(cpu=5), c(sidecar=True, cpu=2)]},
        {"cpu": 5},
    ),
    (
        "several sidecars",
        {
            "containers": [c(cpu=1)],
            "init_containers": [c(sidecar=True, cpu=1), c(cpu=3), c(sidecar=True, cpu=2), c(cpu=4)],
        },
        {"cpu": 7},
    ),
    ("overhead on top", {"containers": [c(cpu=1)], "init_containers": [c(cpu=3)], "overhead": {"cpu": 2}}, {"cpu": 5}),
    (
        "the pod's own request replaces",
        {"containers": [c(cpu=1, memory=4)], "pod_level": c(cpu=7)},
        {"cpu": 7, "memory": 4},
    ),
    (
        "the pod's own limit only where no container asks",
        {"containers": [c(cpu=1)], "pod_level": c(limits={"cpu": 9, "memory": 8})},
        {"cpu": 1, "memory": 8},
    ),
    (
        "devices are not the pod's own",
        {"containers": [Container({names.GPU: 1})], "pod_level": Container({names.GPU: 5, "hugepages-2Mi": 3})},
        {names.GPU: 1, "hugepages-2Mi": 3},
    ),
    ("overhead beside the pod's own", {"containers": [], "pod_level": c(cpu=7), "overhead": {"cpu": 1}}, {"cpu": 8}),
]


@pytest.mark.parametrize(("given", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_request(given: dict[str, Any], expected: dict[str, int]) -> None:
    assert pod_request(**given) == expected


def _sourced() -> list[dict[str, Any]]:
    path = Path(__file__).parents[2] / "data" / "quota_cases.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    return [case for case in cases if case.get("kind") == "request"]


@pytest.mark.parametrize("case", _sourced(), ids=lambda case: str(case["name"]))
def test_gpu_memory_of_worked_cases(case: dict[str, Any]) -> None:
    request = pod_request([Container(case["input"]["resources"])])
    counted = resources.with_gpu_memory(request, case["gpu_memory_gb"])
    assert counted[names.GPU_MEMORY] == case["expected"]["gpu_memory"]
