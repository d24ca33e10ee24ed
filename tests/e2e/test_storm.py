"""No pod is lost to a repartition, however fast pods come; ``python -m tests.bench storm`` goes on for longer."""

from __future__ import annotations

import pytest

from tests.e2e.lab import Lab
from tests.e2e.storm import Storm

pytestmark = pytest.mark.e2e

SECONDS = 12.0
LEAST = 5
"""Repartitions without which nothing was shown."""


def test_no_pod_is_lost_to_repartitions(lab: Lab, namespace: str) -> None:
    lab.enable(*lab.cluster.nodes)
    figures = Storm(lab, namespace).run(seconds=SECONDS)
    print(figures)
    assert figures.failed == []
    assert figures.wrong == []
    assert figures.repartitions >= LEAST
