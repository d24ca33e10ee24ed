"""The walk through of doc/elastic-quota.md, with the objects that stand there: what it says is what happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from n8s import names
from tests.e2e.lab import Lab

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "doc" / "elastic-quota.md"
RESEARCH, BATCH, SERVING = TEAMS = ("team-research", "team-batch", "team-serving")


def blocks() -> list[str]:
    """The YAML blocks of the walk through."""
    section = PAGE.read_text().split("\n## A walk through\n")[1].split("\n## ")[0]
    return re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def teams(lab: Lab) -> Iterator[None]:
    """The three namespaces, and the H100s."""
    for name in TEAMS:
        lab.cluster.create_namespace(name)
    lab.enable("h100")
    yield
    for name in TEAMS:
        lab.cluster.kubectl("delete", "eq,deployments,jobs,pods", "--all", "-n", name, "--wait=true")
    for name in TEAMS:
        lab.cluster.kubectl("delete", "namespace", name, "--wait=false")


def pods(lab: Lab, namespace: str, app: str) -> list[tuple[str, str]]:
    """Name and capacity label of the Running pods of an app that are not on their way out, oldest first."""
    found = [
        each["metadata"]
        for each in lab.cluster.api.items("pods", namespace=namespace, labels=f"app={app}")
        if each["status"]["phase"] == "Running" and "deletionTimestamp" not in each["metadata"]
    ]
    found.sort(key=lambda metadata: (metadata["creationTimestamp"], metadata["name"]))
    return [(each["name"], each["labels"].get(names.CAPACITY_LABEL, "")) for each in found]


def run(lab: Lab, namespace: str, app: str, *labels: str) -> None:
    """Waits until as many pods of an app run, with such labels."""
    lab.until(
        f"{app}: {', '.join(labels)}", lambda: [label for _, label in pods(lab, namespace, app)] == list(labels), 60
    )


def status(lab: Lab, namespace: str, field: str) -> int:
    (quota,) = lab.cluster.api.items("elasticquotas", namespace=namespace)
    return int(quota["status"].get(field, {}).get(names.GPU_MEMORY, 0))


def evictions(lab: Lab) -> float:
    return sum(lab.metric(f'n8s_brain_evictions_total{{reason="{reason}"}}') for reason in ("min", "share"))


def waits(lab: Lab, text: str) -> None:
    """Waits until a model behind the gate is told such a reason."""

    def told() -> bool:
        items = lab.cluster.api.items("events", namespace=SERVING, fields="reason=QuotaWaiting")
        return any(text in item["message"] for item in items)

    lab.until(text, told)


@pytest.mark.usefixtures("teams")
def test_the_walk_through(lab: Lab) -> None:
    quotas, model, notebook, train, tune = blocks()
    before = evictions(lab)
    lab.cluster.apply(quotas)
    for name in TEAMS:
        lab.cluster.kubectl("wait", f"ns/{name}", "--for=jsonpath={.metadata.labels.n8s\\.nebuly\\.ai/quota}=true")
    lab.cluster.apply(model)
    run(lab, SERVING, "model", names.IN_QUOTA, *[names.OVER_QUOTA] * 3)
    lab.until("120 are borrowed", lambda: status(lab, SERVING, "borrowed") == 120)

    lab.cluster.apply(notebook)
    run(lab, RESEARCH, "notebook", *[names.IN_QUOTA] * 3)
    run(lab, SERVING, "model", names.IN_QUOTA, *[names.OVER_QUOTA] * 2)
    waits(lab, "n8s.nebuly.ai/gpu-memory, and this asks for 40")
    assert evictions(lab) == before + 1

    lab.cluster.apply(train)
    run(lab, BATCH, "train", names.IN_QUOTA)
    run(lab, SERVING, "model", names.IN_QUOTA, names.OVER_QUOTA)
    lab.until("batch has its share", lambda: status(lab, BATCH, "guaranteedOverQuota") == 21)
    lab.until("and serving", lambda: status(lab, SERVING, "guaranteedOverQuota") == 12)
    lab.until("it is counted", lambda: [status(lab, name, "used") for name in TEAMS] == [30, 40, 80])

    lab.cluster.apply(tune)
    run(lab, BATCH, "tune", names.OVER_QUOTA)
    run(lab, SERVING, "model", names.IN_QUOTA)
    assert evictions(lab) == before + 3
    assert [len(pods(lab, team, app)) for team, app in ((RESEARCH, "notebook"), (BATCH, "train"))] == [3, 1]

    lab.cluster.kubectl("delete", "jobs", "--all", "-n", BATCH)
    run(lab, SERVING, "model", names.IN_QUOTA, *[names.OVER_QUOTA] * 2)
