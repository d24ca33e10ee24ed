"""Letting in, nominating and evicting on a real API server, as the brain's ServiceAccount, under the chart's policies.

No controller, scheduler or kubelet runs here: what they would write the tests write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from brain.act.actor import Actor
from brain.act.events import Teller
from brain.decide.decisions import Decision, Evict, LetIn, Nominate, OpenGate
from brain.kube import Kube
from brain.metrics import Metrics
from brain.model.affinity import LabelSelector, Requirement
from brain.model.budget import Budget
from brain.model.mig import Geometry
from brain.model.pod import Pod
from brain.observe import convert
from n8s import names
from tests.component.apiserver import ApiServer

BRAIN = "rel-nebulnetes-brain"
RESERVATION = '{"node":"n1"}'
OURS = {"name": names.QUOTA_GATE}
OTHER = {"name": "example.com/other"}


class NoOrders:
    """Nobody is ordered anything here."""

    def order(self, node: str, geometries: Mapping[int, Geometry]) -> bool:
        raise AssertionError((node, geometries))

    def request_state(self, node: str) -> None:
        raise AssertionError(node)


class World:
    """The API server, and what comes of the brain's writes there."""

    def __init__(self, server: ApiServer, kubeconfig: Path) -> None:
        self.server = server
        self._kubeconfig = kubeconfig

    async def act(self, decision: Decision) -> str:
        """Carries a decision out as the brain, and returns the result that is counted."""
        metrics = Metrics()
        async with await Kube.load(self._kubeconfig) as kube:
            teller = Teller(kube, metrics, time.monotonic, lambda: datetime.now(UTC))
            actor = Actor(kube, NoOrders(), teller, metrics, lambda: datetime.now(UTC))
            well = await actor.act([decision])
        (result,) = [
            sample.labels["result"]
            for metric in metrics.writes.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.value
        ]
        assert well == (result == "ok")
        return result

    def create(self, name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> str:
        """Creates a pod, and returns its uid."""
        containers = [{"name": "main", "image": "example/work:1"}]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "team", "labels": labels or {}},
            "spec": {"containers": containers, "automountServiceAccountToken": False, **spec},
        }
        made = json.loads(self.server.done("kubectl", "create", "-o", "json", "-f", "-", document=pod))
        uid: str = made["metadata"]["uid"]
        return uid

    def running(self, name: str, labels: Mapping[str, str]) -> str:
        """Creates a pod that runs and is ready, and returns its uid."""
        uid = self.create(name, labels, nodeName="n1", terminationGracePeriodSeconds=7)
        self.status("pod", name, phase="Running", conditions=[{"type": "Ready", "status": "True"}])
        return uid

    def budget(self, name: str, labels: Mapping[str, str]) -> None:
        """Creates a budget."""
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
        }
        self.server.done("kubectl", "create", "-f", "-", document=budget)

    def allow(self, name: str, count: int, *, generation: int) -> None:
        """Has a budget allow evictions, as its controller found them for a generation of its spec."""
        healthy = {"currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
        self.status("pdb", name, disruptionsAllowed=count, observedGeneration=generation, **healthy)

    def status(self, kind: str, name: str, **status: Any) -> None:
        patch = f"--patch={json.dumps({'status': status})}"
        self.server.done("kubectl", "patch", kind, name, "-n", "team", "--subresource=status", "--type=merge", patch)

    def raw(self, kind: str, name: str) -> bytes:
        return self.server.done("kubectl", "get", kind, name, "-n", "team", "-o", "json").encode()

    def stored(self, name: str) -> dict[str, Any]:
        """A pod as the API server has it."""
        found: dict[str, Any] = json.loads(self.raw("pod", name))
        return found

    def pod(self, name: str) -> Pod:
        """A pod as the brain sees it."""
        return convert.pod(self.raw("pod", name))


@pytest.fixture(scope="module")
def world(server: ApiServer) -> World:
    """A namespace without our label: what gates pods have, they are created with."""
    server.done("kubectl", "create", "namespace", "team")
    server.done("kubectl", "create", "serviceaccount", "default", "-n", "team")
    token = server.done("kubectl", "create", "token", BRAIN, "-n", "n8s").strip()
    document = yaml.safe_load(server.kubeconfig.read_text())
    for user in document["users"]:
        user["user"] = {"token": token}
    kubeconfig = server.home / "brain.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    return World(server, kubeconfig)


async def test_a_pod_that_is_let_in_has_no_gate_left(world: World) -> None:
    uid = world.create("let-in", schedulingGates=[OURS])
    assert world.pod("let-in").gates == (names.QUOTA_GATE,)
    assert await world.act(LetIn("team", "let-in", "other", names.IN_QUOTA, RESERVATION)) == "stale"
    assert world.pod("let-in").gates == (names.QUOTA_GATE,)

    let_in = LetIn("team", "let-in", uid, names.IN_QUOTA, RESERVATION)
    assert await world.act(let_in) == "ok"
    pod = world.pod("let-in")
    assert (pod.gates, pod.waiting, pod.reservation) == ((), True, RESERVATION)
    assert pod.labels == {names.CAPACITY_LABEL: names.IN_QUOTA}
    assert "schedulingGates" not in world.stored("let-in")["spec"]
    assert await world.act(let_in) == "ok", "again, to the same end"
    assert world.pod("let-in") == pod


async def test_a_pod_that_has_changed_since_it_was_seen_is_looked_at_again(world: World) -> None:
    uid = world.create("changed", schedulingGates=[OURS])
    seen = world.pod("changed")
    selector = {"spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"}}}
    world.server.done("kubectl", "patch", "pod", "changed", "-n", "team", f"--patch={json.dumps(selector)}")
    now = world.pod("changed")
    assert seen.version
    assert now != seen, "the brain is woken by it"

    assert await world.act(LetIn("team", "changed", uid, names.IN_QUOTA, RESERVATION, version=seen.version)) == "stale"
    assert world.pod("changed") == now
    assert await world.act(LetIn("team", "changed", uid, names.IN_QUOTA, RESERVATION, version=now.version)) == "ok"
    after = world.pod("changed")
    assert (after.gates, after.version) == ((), ""), "once it is in, its changes wake nobody for nothing"


async def test_gates_of_others_stay(world: World) -> None:
    uid = world.create("two", schedulingGates=[OTHER, OURS])
    assert await world.act(LetIn("team", "two", uid, names.OVER_QUOTA, "")) == "ok"
    assert world.pod("two").gates == (OTHER["name"],)


async def test_opening_a_gate_changes_nothing_else(world: World) -> None:
    uid = world.create("opened", schedulingGates=[OURS])
    before = world.stored("opened")
    assert await world.act(OpenGate("team", "opened", "other")) == "stale"
    assert await world.act(OpenGate("team", "opened", uid)) == "ok"
    after = world.stored("opened")
    del before["spec"]["schedulingGates"]
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("labels") == before["metadata"].get("labels")
    assert after["metadata"].get("annotations") == before["metadata"].get("annotations")


async def test_nominating(world: World) -> None:
    uid = world.create("nominated")
    assert await world.act(Nominate("team", "nominated", "other", "n1")) == "stale"
    assert not world.pod("nominated").nominated
    assert await world.act(Nominate("team", "nominated", uid, "n1")) == "ok"
    assert world.pod("nominated").nominated == "n1"


async def test_evicting_keeps_to_the_uid_and_the_pod_s_own_grace_period(world: World) -> None:
    uid = world.running("victim", {})
    assert await world.act(Evict("team", "victim", "other", "a/owner", "")) == "stale"
    assert not world.pod("victim").terminating
    assert await world.act(Evict("team", "victim", uid, "a/owner", "")) == "ok"
    assert world.pod("victim").terminating
    assert world.stored("victim")["metadata"]["deletionGracePeriodSeconds"] == 7
    assert await world.act(Evict("team", "nobody", uid, "a/owner", "")) == "stale"


async def test_evicting_keeps_to_budgets_and_the_brain_knows_what_they_allow(world: World) -> None:
    labels = {"app": "guarded"}
    uid = world.running("guarded", labels)
    pending = world.create("pending", labels, nodeName="n1")
    world.budget("budget", labels)
    evict = Evict("team", "guarded", uid, "a/owner", "")

    def known() -> Budget:
        return convert.budget(world.raw("pdb", "budget"))

    assert known() == Budget("team", "budget", LabelSelector((Requirement("app", "In", ("guarded",)),)), 0)
    assert known().guards(world.pod("guarded"))
    assert await world.act(evict) == "held", "nobody has looked at the budget yet"
    world.allow("budget", 1, generation=0)
    assert known().allowed == 0
    assert await world.act(evict) == "held", "what is allowed is about an older spec"
    world.allow("budget", 0, generation=1)
    assert await world.act(evict) == "held"
    assert not world.pod("guarded").terminating

    assert not known().guards(world.pod("pending"))
    assert await world.act(Evict("team", "pending", pending, "a/owner", "")) == "ok", "it has not started"

    world.allow("budget", 1, generation=1)
    assert known().allowed == 1
    assert await world.act(evict) == "ok"
    assert world.pod("guarded").terminating
    assert known().allowed == 0, "the API server counts it at once"
    assert not known().guards(world.pod("guarded"))


async def test_a_pod_of_two_budgets_cannot_be_evicted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever they allow, and however long one waits: a failure, told in the API server's words."""
    labels = {"app": "twice"}
    uid = world.running("twice", labels)
    for name in ("one", "two"):
        world.budget(name, labels)
        world.allow(name, 1, generation=1)
    assert await world.act(Evict("team", "twice", uid, "a/owner", "")) == "failed"
    assert not world.pod("twice").terminating
    (record,) = [record for record in caplog.records if record.name == "brain.act.actor"]
    assert "more than one PodDisruptionBudget" in record.__dict__["problem"]
