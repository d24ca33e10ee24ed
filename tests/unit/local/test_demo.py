"""What the demo shows is what the documents say."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import yaml

from brain.decide.gpumemory import GpuMemory
from brain.decide.labels import capacity_labels
from brain.model import resources
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.observe import convert
from deploy.local.demo import OBJECTS
from n8s import names

DOCUMENTS = list(yaml.safe_load_all(OBJECTS.read_text()))
USED = {document["metadata"]["namespace"] for document in DOCUMENTS if document["kind"] == "Pod"}
QUOTAS = [each for each in DOCUMENTS if each["kind"] != "Pod" and each["metadata"]["namespace"] in USED]
MEMORY = GpuMemory(32)


def pod(document: dict[str, Any], second: int) -> Pod:
    stamp = f"2026-01-01T00:00:{second:02}Z"
    return convert.pod(
        json.dumps({**document, "metadata": {**document["metadata"], "creationTimestamp": stamp}}).encode()
    )


@pytest.mark.parametrize("per_second", [1, 3, 100])
@pytest.mark.parametrize("document", QUOTAS, ids=lambda document: str(document["metadata"]["name"]))
def test_no_label_changes_whichever_pod_runs_first(document: dict[str, Any], per_second: int) -> None:
    namespace = document["metadata"]["namespace"]
    quota = Quota(Kind.SINGLE, namespace, "q", (namespace,), min=resources.parse(document["spec"]["min"]))
    created = [pod(each, place // per_second) for place, each in enumerate(DOCUMENTS) if each["kind"] == "Pod"]
    pods = [each for each in created if each.namespace == namespace]
    final = capacity_labels(quota, pods, MEMORY)
    assert set(final.values()) == {names.IN_QUOTA, names.OVER_QUOTA}
    at_once = [each for each in pods if each.name == "train"]
    others = [each for each in pods if each.name != "train"]
    for count in range(len(others) + 1):
        for running in combinations(others, count):
            shown = capacity_labels(quota, [*at_once, *running], MEMORY)
            assert shown.items() <= final.items()
