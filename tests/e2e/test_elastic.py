"""Quotas that are kept: who is let in, who borrows, who must go; judged by the real scheduler and kubelets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from n8s import names
from tests.e2e.lab import Lab, fresh_namespace, pod, quota

pytestmark = pytest.mark.e2e

HALF = {names.GPU_MEMORY: 20}
"""Half of the A100 of 40 GB."""


@pytest.fixture
def teams(lab: Lab, namespace: str) -> Iterator[tuple[str, str]]:
    """Two namespaces that own half of the A100 each, and no other quotas."""
    lab.until("quotas of earlier tests are gone", lambda: not lab.cluster.api.items("elasticquotas"))
    with fresh_namespace(lab.cluster, f"{namespace}-b") as second:
        for each in (namespace, second):
            lab.create(each, json.loads(quota("team", HALF)))
        for each in (namespace, second):
            lab.until("its pods get the gate", partial(gated, lab, each))
        yield namespace, second


def gated(lab: Lab, namespace: str) -> bool:
    """Whether a pod that is created now gets the gate."""
    made = lab.dry_run(namespace, pod("probe"))
    return {"name": names.QUOTA_GATE} in made["spec"].get("schedulingGates", [])


def deployment(name: str, profile: str, replicas: int, node: str, **spec: Any) -> dict[str, Any]:
    """A Deployment whose pods ask for one instance each."""
    template = pod(name, {profile: 1}, node=node, **spec)
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }


def pods(lab: Lab, namespace: str, app: str) -> list[dict[str, Any]]:
    return lab.cluster.api.items("pods", namespace=namespace, labels=f"app={app}")


def running(lab: Lab, namespace: str, app: str) -> list[str]:
    """Names of the Running pods of an app that are not on their way out."""
    return [
        each["metadata"]["name"]
        for each in pods(lab, namespace, app)
        if each["status"]["phase"] == "Running" and "deletionTimestamp" not in each["metadata"]
    ]


def waiting(lab: Lab, namespace: str, app: str) -> list[str]:
    """Names of the pods of an app that still have the gate."""
    return [each["metadata"]["name"] for each in pods(lab, namespace, app) if each["spec"].get("schedulingGates")]


def count(lab: Lab, namespace: str, app: str, number: int) -> Callable[[], bool]:
    return lambda: len(running(lab, namespace, app)) == number


def borrow_all(lab: Lab, namespace: str, *, stop_seconds: int) -> None:
    """The A100's halves go to pods first and second, in this order, that take so long to stop."""
    slow = {"FAKE_STOP_SECONDS": str(stop_seconds)}
    for name in ("first", "second"):
        lab.create(namespace, pod(name, {"3g.20gb": 1}, node="a100", environ=slow, terminationGracePeriodSeconds=30))
        lab.running(namespace, name)


def test_a_team_borrows_and_gives_back_with_a_repartition(lab: Lab, teams: tuple[str, str]) -> None:
    owner, borrower = teams
    lab.enable("a100")
    lab.create(borrower, deployment("large", "3g.20gb", 2, "a100"))
    lab.until("it borrows the other half", count(lab, borrower, "large", 2))
    lab.create(owner, deployment("small", "1g.5gb", 3, "a100"))  # slots 4 to 6
    lab.until("the owner has its half", count(lab, owner, "small", 3))
    lab.until("one of the borrower's is left", count(lab, borrower, "large", 1))
    lab.until("the other waits behind the gate", lambda: len(waiting(lab, borrower, "large")) == 1)
    (again,) = waiting(lab, borrower, "large")
    lab.event(borrower, again, "QuotaWaiting", "of 40 n8s.nebuly.ai/gpu-memory, and this asks for 20")
    lab.cluster.kubectl("scale", "-n", owner, "deployment/small", "--replicas=0")
    lab.until("it borrows again", count(lab, borrower, "large", 2))


def test_an_older_rival_outside_quotas_does_not_take_what_was_reclaimed(lab: Lab, teams: tuple[str, str]) -> None:
    owner, borrower = teams
    lab.enable("a100")
    borrow_all(lab, borrower, stop_seconds=3)
    with fresh_namespace(lab.cluster) as outside:
        lab.create(outside, pod("rival", {"3g.20gb": 1}, node="a100"))
        lab.unschedulable(outside, "rival")
        lab.create(owner, pod("owner", {"3g.20gb": 1}, node="a100"))
        lab.running(owner, "owner")
        assert lab.pod(outside, "rival")["spec"].get("nodeName") is None
        left = {
            each["metadata"]["name"]
            for each in lab.cluster.api.items("pods", namespace=borrower)
            if each["status"]["phase"] == "Running"
        }
        assert left == {"first"}, "the newest went"


def test_a_budget_holds(lab: Lab, teams: tuple[str, str]) -> None:
    owner, borrower = teams
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "all"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "large"}}},
    }
    lab.enable("a100")
    lab.create(borrower, budget, deployment("large", "3g.20gb", 2, "a100"))
    lab.until("it borrows", count(lab, borrower, "large", 2))
    lab.create(owner, pod("owner", {"3g.20gb": 1}, node="a100"))
    held = f"waits: PodDisruptionBudget {borrower}/all allows no eviction of {borrower}/large-"
    lab.event(owner, "owner", "QuotaWaiting", held)
    assert len(running(lab, borrower, "large")) == 2
    lab.cluster.kubectl("delete", "pdb", "all", "-n", borrower)
    lab.running(owner, "owner")


def test_the_brain_dies_between_eviction_and_admission(lab: Lab, teams: tuple[str, str]) -> None:
    owner, borrower = teams
    lab.enable("a100")
    borrow_all(lab, borrower, stop_seconds=3)
    lab.create(owner, pod("owner", {"1g.5gb": 1}, node="a100"))
    lab.until(
        "somebody is evicted",
        lambda: any(
            "deletionTimestamp" in each["metadata"] for each in lab.cluster.api.items("pods", namespace=borrower)
        ),
    )
    lab.kill("brain")
    lab.running(owner, "owner", seconds=60)


def test_the_brain_dies_while_the_gate_stays_shut(lab: Lab, teams: tuple[str, str]) -> None:
    """kube-scheduler would preempt for the owner, so its gate is there until its room is: another brain opens it."""
    owner, borrower = teams
    lab.enable("a100")
    borrow_all(lab, borrower, stop_seconds=3)
    high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": owner}, "value": 1000}
    lab.cluster.kubectl("create", "-f", "-", stdin=json.dumps(high))
    try:
        lab.create(owner, pod("owner", {"3g.20gb": 1}, node="a100", priorityClassName=owner))
        lab.until("the newest must go", lambda: "deletionTimestamp" in lab.pod(borrower, "second")["metadata"])
        lab.kill("brain")
        spec = lab.pod(owner, "owner")["spec"]
        assert (spec["preemptionPolicy"], spec["priority"]) == ("PreemptLowerPriority", 1000)
        assert spec["schedulingGates"] == [{"name": names.QUOTA_GATE}]
        lab.running(owner, "owner", seconds=60)
        lab.running(borrower, "first")
    finally:
        lab.cluster.kubectl("delete", "priorityclass", owner)


def test_a_quota_that_comes_after_its_pods_which_take_5_s_to_stop(lab: Lab, namespace: str) -> None:
    lab.until("quotas of earlier tests are gone", lambda: not lab.cluster.api.items("elasticquotas"))
    lab.enable("a100")
    with fresh_namespace(lab.cluster, f"{namespace}-b") as borrower:
        slow = {"environ": {"FAKE_STOP_SECONDS": "5"}, "terminationGracePeriodSeconds": 30}
        lab.create(borrower, deployment("large", "3g.20gb", 2, "a100", **slow))
        lab.until("they run", count(lab, borrower, "large", 2))
        for each in (borrower, namespace):
            lab.create(each, json.loads(quota("team", HALF)))
        lab.until("new pods get the gate", lambda: gated(lab, borrower) and gated(lab, namespace))

        def labels() -> list[str | None]:
            return sorted(each["metadata"]["labels"].get(names.CAPACITY_LABEL) for each in pods(lab, borrower, "large"))

        lab.until("what they have borrowed is told", lambda: labels() == [names.IN_QUOTA, names.OVER_QUOTA])
        lab.create(namespace, pod("owner", {"3g.20gb": 1}, node="a100"))
        lab.until("the next pod waits", lambda: len(waiting(lab, borrower, "large")) == 1)
        (again,) = waiting(lab, borrower, "large")
        told = f"and this asks for 20; owner of min in team has 1 pod leave to make room for {namespace}/owner"
        lab.event(borrower, again, "QuotaWaiting", told)
        leaving = [each for each in pods(lab, borrower, "large") if "deletionTimestamp" in each["metadata"]]
        assert [each["metadata"]["labels"][names.CAPACITY_LABEL] for each in leaving] == [names.OVER_QUOTA]
        assert "nodeName" not in lab.pod(namespace, "owner")["spec"], "its room is not there yet"
        lab.running(namespace, "owner")
        assert len(running(lab, borrower, "large")) == 1
        assert waiting(lab, borrower, "large") == [again]


def test_gates_come_off_with_the_quota(lab: Lab, teams: tuple[str, str]) -> None:
    owner, _ = teams
    lab.enable("a100")
    limited = quota("team", {names.GPU_MEMORY: 20}, {names.GPU_MEMORY: 20})
    lab.cluster.kubectl("apply", "-n", owner, "-f", "-", stdin=limited)
    lab.create(owner, pod("over", {"7g.40gb": 1}, node="a100"))
    lab.event(owner, "over", "QuotaWaiting", "of max 20 n8s.nebuly.ai/gpu-memory")
    lab.cluster.kubectl("delete", "eq", "team", "-n", owner)
    lab.running(owner, "over")


def test_a_job_goes_in_together(lab: Lab, teams: tuple[str, str]) -> None:
    owner, borrower = teams
    lab.enable("a100")
    template = pod("job", {"1g.5gb": 1}, node="a100")
    spec = {**template["spec"], "restartPolicy": "Never"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": {
            "parallelism": 3,
            "completions": 3,
            "template": {"metadata": {"labels": {"app": "job"}}, "spec": spec},
        },
    }
    lab.create(borrower, deployment("large", "3g.20gb", 2, "a100"))
    lab.until("it borrows the other half", count(lab, borrower, "large", 2))
    lab.create(owner, job)
    lab.until("all of the job runs", count(lab, owner, "job", 3))


def test_a_victim_that_keeps_a_finalizer(lab: Lab, teams: tuple[str, str]) -> None:
    """Its room is not free while it stops, nobody else gets it then, and its object alone holds nothing."""
    owner, borrower = teams
    lab.enable("a100")
    slow = {"FAKE_STOP_SECONDS": "2"}
    for name in ("first", "second"):
        kept = pod(name, {"3g.20gb": 1}, node="a100", environ=slow, terminationGracePeriodSeconds=30)
        kept["metadata"]["finalizers"] = ["example.com/kept"]
        lab.create(borrower, kept)
        lab.running(borrower, name)
    lab.create(borrower, pod("rival", {"1g.5gb": 1}, node="a100"))
    lab.event(borrower, "rival", "QuotaWaiting", "quotas lend 0 of 40")
    lab.create(owner, pod("owner", {"3g.20gb": 1}, node="a100"))
    try:
        lab.until("the newest must go", lambda: "deletionTimestamp" in lab.pod(borrower, "second")["metadata"])
        assert lab.pod(owner, "owner")["spec"].get("nodeName") is None
        lab.running(owner, "owner")
        assert lab.pod(borrower, "second")["status"]["phase"] in {"Succeeded", "Failed"}
        assert "nodeName" not in lab.pod(borrower, "rival")["spec"]
        lab.running(borrower, "first")
    finally:
        for name in ("first", "second"):
            lab.cluster.kubectl("patch", "pod", name, "-n", borrower, '--patch={"metadata":{"finalizers":null}}')


def test_a_job_that_ignores_disruptions_is_not_failed_by_an_eviction(lab: Lab, teams: tuple[str, str]) -> None:
    owner, borrower = teams
    lab.enable("a100")
    # One that ended with 0 when it is told to stop would have done its work.
    template = pod("job", {"7g.40gb": 1}, node="a100", environ={"FAKE_STOP_SECONDS": "60"})
    rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [rule]},
            "template": {
                "metadata": {"labels": {"app": "job"}},
                "spec": {**template["spec"], "restartPolicy": "Never"},
            },
        },
    }
    lab.create(borrower, job)
    lab.until("it borrows", count(lab, borrower, "job", 1))
    lab.create(owner, pod("owner", {"1g.5gb": 1}, node="a100"))
    lab.running(owner, "owner")
    lab.until("its next pod waits", lambda: len(waiting(lab, borrower, "job")) == 1)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = lab.cluster.api.get("jobs", "job", namespace=borrower)["status"]
        return found

    lab.until("its controller counts the next pod", lambda: status().get("active") == 1)
    assert status().get("failed", 0) == 0
    lab.delete(owner, "owner")
    lab.until("it borrows again", count(lab, borrower, "job", 1))


def test_a_quota_is_changed_while_pods_wait(lab: Lab, teams: tuple[str, str]) -> None:
    owner, _ = teams

    def change(least: str, most: str) -> None:
        lab.cluster.kubectl("apply", "-n", owner, "-f", "-", stdin=quota("team", {"cpu": least}, {"cpu": most}))

    change("1", "1")
    lab.create(owner, pod("waits", request={"cpu": "1500m"}), pod("more", request={"cpu": "1"}))
    lab.running(owner, "more")
    lab.event(owner, "waits", "QuotaWaiting", "of max 1 cpu, and this asks for 1500m")
    change("3", "3")
    lab.running(owner, "waits")
    change("1", "3")

    def label() -> str | None:
        found: str | None = lab.pod(owner, "waits")["metadata"]["labels"].get(names.CAPACITY_LABEL)
        return found

    lab.until("what is beyond min is over-quota", lambda: label() == names.OVER_QUOTA)
