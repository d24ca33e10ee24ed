"""Carrying decisions out against a stand-in API server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from brain.act import events
from brain.act.actor import AT_ONCE, Actor
from brain.act.events import Teller
from brain.decide.decisions import (
    AnnotateNode,
    AskState,
    Decision,
    EmitEvent,
    Evict,
    LabelNamespace,
    LabelPod,
    LetIn,
    Nominate,
    OpenGate,
    OrderGeometry,
    PublishDevices,
    ReplacePlugin,
    TaintNode,
    UntaintNode,
    UpdateQuota,
)
from brain.kube import Kube
from brain.metrics import Metrics
from brain.model.mig import Geometry, Placement
from brain.model.quota import Condition, Kind, Quota, QuotaStatus
from n8s import names
from tests.component.brain.fakeapi import FakeApi, Object, running, until

NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/a/pods"
EVENTS = "/api/v1/namespaces/a/events"
NODE_EVENTS = "/api/v1/namespaces/default/events"
QUOTAS = "/apis/n8s.nebuly.ai/v1alpha1/namespaces/a/elasticquotas"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OTHERS = [{"key": "x", "effect": "NoSchedule", "timeAdded": "t"}, {"key": "x", "effect": "NoExecute"}]
OURS = {"key": names.REPARTITIONING_TAINT, "effect": "NoSchedule"}


class Orders:
    """The way to the agents: keeps what was ordered."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[int, Geometry]]] = []
        self.asked: list[str] = []
        self.reachable = True

    def order(self, node: str, geometries: Mapping[int, Geometry]) -> bool:
        self.sent.append((node, geometries))
        return self.reachable

    def request_state(self, node: str) -> None:
        self.asked.append(node)


class World:
    """An actor and what it acts on."""

    def __init__(self, api: FakeApi, kube: Kube) -> None:
        self.api = api
        self.now = 0.0
        self.orders = Orders()
        self.metrics = Metrics()
        self.teller = Teller(kube, self.metrics, lambda: self.now, lambda: NOW)
        self.actor = Actor(kube, self.orders, self.teller, self.metrics, lambda: NOW)

    async def act(self, *decisions: Decision) -> bool:
        return await self.actor.act(decisions)

    def node(self) -> Object:
        return self.api.collections[NODES]["n1"]

    def pod(self) -> Object:
        return self.api.collections[PODS]["p"]

    def writes(self, kind: str, result: str) -> float:
        value = self.metrics.registry.get_sample_value("n8s_brain_writes_total", {"type": kind, "result": result})
        return value or 0.0


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with running(NAMESPACES, NODES, PODS, EVENTS, NODE_EVENTS, QUOTAS) as (api, kube):
        await api.put(NODES, {"metadata": {"name": "n1", "uid": "u1"}, "spec": {"taints": OTHERS}, "status": {}})
        yield World(api, kube)


async def test_the_taint_goes_on_and_off_and_others_stay() -> None:
    async with world() as it:
        for _ in range(2):
            assert await it.act(TaintNode("n1"))
            assert it.node()["spec"]["taints"] == [*OTHERS, OURS]
        for _ in range(2):
            assert await it.act(UntaintNode("n1"))
            assert it.node()["spec"]["taints"] == OTHERS
        assert it.api.count("PATCH") == 2, "what is as wanted is not written"


async def test_a_taint_is_written_only_on_the_node_that_was_read() -> None:
    async with world() as it:
        fault = it.api.fail("PATCH", "n1", 409, times=2, reason="Conflict")
        assert await it.act(TaintNode("n1"))
        assert fault.times == 0
        assert it.api.count("GET /api/v1/nodes/n1") == 3
        assert all(body["metadata"]["resourceVersion"] for body in it.api.bodies)
        it.api.fail("PATCH", "n1", 409, times=9, reason="Conflict")
        assert not await it.act(UntaintNode("n1")), "left to the next round"


async def test_many_decisions_do_not_hold_up_the_event_loop() -> None:
    async with world() as it:
        acting = asyncio.ensure_future(it.act(*[AskState("n1")] * 2_000))
        turns = 0
        while not acting.done():
            turns += 1
            await asyncio.sleep(0)
        assert len(it.orders.asked) == 2_000
        assert turns >= 4


async def test_devices_and_annotations() -> None:
    async with world() as it:
        await it.act(AnnotateNode("n1", {"n8s.nebuly.ai/a": "1", "n8s.nebuly.ai/b": "2"}))
        await it.act(AnnotateNode("n1", {"n8s.nebuly.ai/a": None}), PublishDevices("n1", {"nvidia.com/mig-1g.5gb": 7}))
        assert it.node()["metadata"]["annotations"] == {"n8s.nebuly.ai/b": "2"}
        assert it.node()["status"] == {
            "capacity": {"nvidia.com/mig-1g.5gb": "7"},
            "allocatable": {"nvidia.com/mig-1g.5gb": "7"},
        }


async def test_a_label_is_for_one_uid_only() -> None:
    async with world() as it:
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "new"}})
        assert not await it.act(LabelPod("a", "p", "old", names.CAPACITY_LABEL, names.IN_QUOTA))
        assert await it.act(LabelPod("a", "p", "new", names.CAPACITY_LABEL, names.OVER_QUOTA))
        assert it.api.collections[PODS]["p"]["metadata"]["labels"] == {names.CAPACITY_LABEL: names.OVER_QUOTA}
        assert await it.act(LabelPod("a", "p", "new", names.CAPACITY_LABEL, None))
        assert it.api.collections[PODS]["p"]["metadata"]["labels"] == {}


async def test_letting_in_takes_our_gate_off_and_writes_label_and_reservation() -> None:
    async with world() as it:
        gates = [{"name": "other"}, {"name": names.QUOTA_GATE}]
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "new"}, "spec": {"schedulingGates": gates}})
        assert not await it.act(LetIn("a", "p", "old", names.IN_QUOTA, "{}"), OpenGate("a", "p", "old"))
        assert it.pod()["spec"]["schedulingGates"] == gates
        assert await it.act(LetIn("a", "p", "new", names.IN_QUOTA, "{}", int(NOW.timestamp()) - 7))
        assert it.metrics.registry.get_sample_value("n8s_brain_admission_seconds_sum") == 7
        assert it.pod()["spec"]["schedulingGates"] == gates[:1]
        assert it.pod()["metadata"]["labels"] == {names.CAPACITY_LABEL: names.IN_QUOTA}
        assert it.pod()["metadata"]["annotations"] == {names.RESERVATION_ANNOTATION: "{}"}
        assert it.api.count("PATCH") == 3, "one patch each"


async def test_what_is_done_for_good_is_not_done_again_while_snapshots_are_late_to_show_it() -> None:
    async with world() as it:
        let_in, evict = LetIn("a", "p", "u", names.IN_QUOTA, "free"), Evict("a", "q", "v", "a/p", "its min", "min")
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "u"}, "spec": {"schedulingGates": []}})
        await it.api.put(PODS, {"metadata": {"name": "q", "uid": "v"}})
        fault = it.api.fail("PATCH", "p", 500, times=1, reason="InternalError")
        assert not await it.act(let_in, evict)
        assert fault.times == 0
        for _ in range(3):
            assert await it.act(let_in, evict)
        assert (it.writes("LetIn", "ok"), it.writes("Evict", "ok")) == (1, 1)
        assert await it.act(let_in, Evict("a", "p", "u", "a/r", "its min", "min"))
        assert it.writes("Evict", "ok") == 2, "letting in is not evicting"
        assert await it.act()
        assert await it.act(let_in)
        assert it.writes("LetIn", "ok") == 2, "nothing is remembered beyond"


async def test_who_was_not_let_in_because_it_has_changed_is_let_in_as_it_is_now() -> None:
    async with world() as it:
        gated = {"metadata": {"name": "p", "uid": "u"}, "spec": {"schedulingGates": [{"name": names.QUOTA_GATE}]}}
        seen = (await it.api.put(PODS, gated))["metadata"]["resourceVersion"]
        now = (await it.api.put(PODS, gated | {"status": {}}))["metadata"]["resourceVersion"]
        for _ in range(2):
            assert not await it.act(LetIn("a", "p", "u", names.IN_QUOTA, "free", version=seen)), "the round is not done"
        assert it.writes("LetIn", "stale") == 2
        assert it.pod()["spec"]["schedulingGates"]
        assert await it.act(LetIn("a", "p", "u", names.IN_QUOTA, "free", version=now))
        assert "schedulingGates" not in it.pod()["spec"]


async def test_opening_a_gate_writes_nothing_else() -> None:
    async with world() as it:
        gated = {"metadata": {"name": "p", "uid": "u"}, "spec": {"schedulingGates": [{"name": names.QUOTA_GATE}]}}
        await it.api.put(PODS, gated)
        assert await it.act(OpenGate("a", "p", "u"))
        assert it.pod()["spec"] == {}
        assert it.pod()["metadata"].keys() == {"name", "uid", "resourceVersion"}


async def test_nominating_is_for_one_uid_only() -> None:
    async with world() as it:
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "new"}})
        assert not await it.act(Nominate("a", "p", "old", "n1"))
        assert await it.act(Nominate("a", "p", "new", "n1"))
        assert it.pod()["status"] == {"nominatedNodeName": "n1"}
        assert it.api.count(f"PATCH {PODS}/p/status") == 2


def told_by_actor(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "brain.act.actor"]


EVICTION = "p/eviction"
BUDGET = "The disruption budget b needs 1 healthy pods and has 1 currently"


async def test_evicting_is_for_one_uid_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as it:
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "new"}})
        assert not await it.act(Evict("a", "p", "old", "b/owner", "its min"), Evict("a", "gone", "u", "b/owner", ""))
        assert "deletionTimestamp" not in it.pod()["metadata"]
        assert it.writes("Evict", "stale") == 2
        assert not told_by_actor(caplog)
        assert await it.act(Evict("a", "p", "new", "b/owner", "its min", "share"))
        assert it.metrics.registry.get_sample_value("n8s_brain_evictions_total", {"reason": "share"}) == 1
        assert "deletionTimestamp" in it.pod()["metadata"]
        assert "gracePeriodSeconds" not in it.api.bodies[-1]["deleteOptions"]
        (record,) = told_by_actor(caplog)
        told = record.__dict__
        assert (record.message, told["pod"], told["beneficiary"]) == ("pod evicted", "a/p", "b/owner")


async def test_the_device_plugins_pod_is_evicted_once_and_for_one_uid_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as it:
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "new"}})
        assert not await it.act(ReplacePlugin("n1", "a", "p", "old"))
        assert "deletionTimestamp" not in it.pod()["metadata"]
        for _ in range(2):
            assert await it.act(ReplacePlugin("n1", "a", "p", "new"))
        assert "deletionTimestamp" in it.pod()["metadata"]
        assert (it.writes("ReplacePlugin", "stale"), it.writes("ReplacePlugin", "ok")) == (1, 1)
        (record,) = told_by_actor(caplog)
        assert (record.__dict__["node"], record.__dict__["pod"]) == ("n1", "a/p")


async def test_an_eviction_that_a_budget_holds_is_tried_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as it:
        await it.api.put(PODS, {"metadata": {"name": "p", "uid": "u"}})
        evict = Evict("a", "p", "u", "b/owner", "its min")
        it.api.fail("POST", EVICTION, 429, times=2, reason="TooManyRequests", causes={"DisruptionBudget": BUDGET})
        for _ in range(2):
            assert not await it.act(evict), "the round is not done"
        assert (it.writes("Evict", "held"), it.writes("Evict", "failed")) == (2, 0)
        (record,) = told_by_actor(caplog)
        assert (record.message, record.__dict__["budget"]) == ("eviction held by a disruption budget", BUDGET)
        assert await it.act(evict)


async def test_an_api_server_that_is_too_busy_is_no_budget() -> None:
    async with world() as it:
        it.api.fail("POST", EVICTION, 429, reason="TooManyRequests")
        assert not await it.act(Evict("a", "p", "u", "b/owner", ""))
        assert (it.writes("Evict", "held"), it.writes("Evict", "failed")) == (0, 1)


async def test_a_namespace_s_label_comes_and_goes_and_others_stay() -> None:
    async with world() as it:
        await it.api.put(NAMESPACES, {"metadata": {"name": "a", "labels": {"x": "y"}}})
        assert await it.act(LabelNamespace("a", "true"))
        labels = it.api.collections[NAMESPACES]["a"]["metadata"]["labels"]
        assert labels == {"x": "y", names.QUOTA_LABEL: "true"}
        assert await it.act(LabelNamespace("a", None))
        assert it.api.collections[NAMESPACES]["a"]["metadata"]["labels"] == {"x": "y"}
        assert not await it.act(LabelNamespace("gone", "true"))


async def test_a_quota_s_status_keeps_when_a_condition_changed() -> None:
    async with world() as it:
        await it.api.put(QUOTAS, {"metadata": {"name": "q", "uid": "u"}, "status": {"used": {"cpu": "1", "old": "1"}}})
        before = QuotaStatus(
            {"cpu": 1000, "old": 1},
            (
                Condition("Active", status=True, reason="Active", since="then"),
                Condition("Conflict", status=False, reason="x", since="then"),
            ),
        )
        after = QuotaStatus(
            {"cpu": 1500},
            (
                Condition("Active", status=True, reason="Active"),
                Condition("Conflict", status=True, reason="Conflict", message="why"),
            ),
            3,
        )
        quota = Quota(Kind.SINGLE, "a", "q", ("a",), uid="u", status=before)
        assert await it.act(UpdateQuota(quota, after))
        status = it.api.collections[QUOTAS]["q"]["status"]
        assert status["used"] == {"cpu": "1500m"}
        assert status["observedGeneration"] == 3
        since = {condition["type"]: condition["lastTransitionTime"] for condition in status["conditions"]}
        assert since == {"Active": "then", "Conflict": "2026-11-24T12:00:00Z"}


async def test_orders_go_to_the_agents() -> None:
    async with world() as it:
        geometries = {0: (Placement(0, "7g.40gb"),)}
        assert await it.act(OrderGeometry("n1", geometries, closed=False))
        assert it.orders.sent == [("n1", geometries)]
        it.orders.reachable = False
        assert not await it.act(OrderGeometry("n1", geometries, closed=False))
        await it.act(AskState("n1"))
        assert it.orders.asked == ["n1"]


async def test_an_order_goes_out_only_while_the_node_is_closed() -> None:
    """The snapshot may be older than this brain's own untainting."""
    async with world() as it:
        order = OrderGeometry("n1", {0: (Placement(0, "7g.40gb"),)})
        await it.act(TaintNode("n1"))
        await it.act(UntaintNode("n1"))
        assert not await it.act(order)
        assert it.orders.sent == []
        await it.act(TaintNode("n1"))
        it.api.fail("GET", "n1", 500)
        assert not await it.act(order), "not known is not closed"
        assert await it.act(order)
        assert len(it.orders.sent) == 1


@pytest.mark.parametrize(
    ("status", "logged"), [(403, "no right to write"), (500, "write failed"), (404, ""), (409, "")]
)
async def test_a_failed_write_is_told_once_and_stops_no_other(
    status: int, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with world() as it:
        it.api.fail("PATCH", "n2", status, times=9)
        for _ in range(2):
            assert not await it.act(AnnotateNode("n2", {"a": "1"}), AnnotateNode("n1", {"n8s.nebuly.ai/a": "1"}))
        assert it.node()["metadata"]["annotations"]
    told = [record.message for record in told_by_actor(caplog)]
    assert len(told) == bool(logged), told
    assert logged in "".join(told)


async def test_many_writes_are_under_way_at_once_but_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as it:
        it.api.fail("PATCH", "n1", 0, times=2 * AT_ONCE, delay=0.3)
        await it.act(*(AnnotateNode("n1", {f"n8s.nebuly.ai/{n}": "1"}) for n in range(2 * AT_ONCE)))
        assert it.api.most_delayed == AT_ONCE
        monkeypatch.setattr("brain.act.actor.WRITE_SECONDS", 0.05)
        it.api.faults.clear()
        it.api.fail("PATCH", "n1", 0, delay=2.0)
        assert not await it.act(AnnotateNode("n1", {"a": "1"})), "a slow write ends by its time-out"


POD = EmitEvent("Pod", "a", "p", "u", "MigNoRoom", "no room", warning=True)
NODE = EmitEvent("Node", "", "n1", "u1", "MigApplyFailed", "it failed", warning=True)


async def test_events_are_told_once_by_all_brains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_PAUSE_SECONDS", 0.02)
    async with world() as it:
        other = World(it.api, it.teller._api)  # type: ignore[arg-type]
        tasks = [asyncio.create_task(each.teller.run()) for each in (it, other)]
        it.api.fail("POST", "events", 500)
        for each in (it, other, it):
            await each.act(POD, NODE)
        await until(lambda: not it.teller._pending and not other.teller._pending)
        assert len(it.api.collections[EVENTS]) == len(it.api.collections[NODE_EVENTS]) == 1
        (event,) = it.api.collections[EVENTS].values()
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "a", "name": "p", "uid": "u"}
        assert (event["reason"], event["type"], event["message"]) == ("MigNoRoom", "Warning", "no room")
        posts = it.api.count("POST")
        await it.act(POD)
        assert not it.teller._pending, "told lately"
        it.api.collections[EVENTS].clear()
        it.now += events.KEPT_SECONDS + 1
        await it.act(POD)
        await until(lambda: bool(it.api.collections[EVENTS]))
        assert it.api.count("POST") == posts + 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


WAITS = EmitEvent("Pod", "a", "w", "u", "QuotaWaiting", "uses 1 of 4", warning=False, about="max cpu")


async def test_who_waits_for_the_same_is_not_told_new_figures() -> None:
    async with world() as it:
        task = asyncio.create_task(it.teller.run())
        await it.act(WAITS)
        await until(lambda: len(it.api.collections[EVENTS]) == 1)
        await it.act(msgspec.structs.replace(WAITS, message="uses 2 of 4"))
        await it.act(msgspec.structs.replace(WAITS, message="lends 0 of 4", about="sum_min cpu"))
        await until(lambda: len(it.api.collections[EVENTS]) == 2)
        told = [each["message"] for each in it.api.collections[EVENTS].values()]
        assert told == ["uses 1 of 4", "lends 0 of 4"]
        other = World(it.api, it.teller._api)  # type: ignore[arg-type]
        task.cancel()
        task = asyncio.create_task(other.teller.run())
        await other.act(msgspec.structs.replace(WAITS, message="uses 3 of 4"))
        await until(lambda: other.writes("EmitEvent", "stale") == 1)
        assert len(it.api.collections[EVENTS]) == 2, "nor by the next brain"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_must_go_is_told_before_those_who_wait_and_however_many_these_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_PENDING", 3)
    async with world() as it:
        await it.act(*(msgspec.structs.replace(WAITS, uid=str(number)) for number in range(5)))
        await it.act(EmitEvent("Pod", "a", "victim", "v", "QuotaReclaimed", "Evicted: for b/owner", warning=True))
        await it.act(msgspec.structs.replace(WAITS, uid="1", message="uses 9 of 9"))
        task = asyncio.create_task(it.teller.run())
        await until(lambda: it.writes("EmitEvent", "ok") == 4)
        told = [(each["involvedObject"]["uid"], each["message"]) for each in it.api.collections[EVENTS].values()]
        assert told == [("v", "Evicted: for b/owner"), ("0", "uses 1 of 4"), ("1", "uses 9 of 9"), ("2", "uses 1 of 4")]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_event_that_may_not_be_told_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as it:
        task = asyncio.create_task(it.teller.run())
        it.api.fail("POST", EVENTS, 403)
        await it.act(POD, NODE)
        await until(lambda: bool(it.api.collections[NODE_EVENTS]))
        assert "no right to tell events" in caplog.text
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
