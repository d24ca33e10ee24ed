"""When a workload counts as rolled out."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.local.chart import rolled_out


def deployment(**status: int) -> dict[str, Any]:
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}


def daemon_set(**status: int) -> dict[str, Any]:
    return {"metadata": {"generation": 1}, "spec": {}, "status": status}


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (deployment(observedGeneration=2, replicas=2, updatedReplicas=2, readyReplicas=2), True),
        (deployment(observedGeneration=1, replicas=2, updatedReplicas=2, readyReplicas=2), False),
        (deployment(observedGeneration=2, replicas=3, updatedReplicas=2, readyReplicas=3), False),
        (deployment(observedGeneration=2, replicas=2, updatedReplicas=2), False),
        (deployment(), False),
        (daemon_set(observedGeneration=1, desiredNumberScheduled=0), True),
        (daemon_set(observedGeneration=1, desiredNumberScheduled=2, updatedNumberScheduled=2, numberReady=2), True),
        (daemon_set(observedGeneration=1, desiredNumberScheduled=2, updatedNumberScheduled=1, numberReady=2), False),
        (daemon_set(), False),
    ],
)
def test_rolled_out(workload: dict[str, Any], *, expected: bool) -> None:
    assert rolled_out(workload) is expected
