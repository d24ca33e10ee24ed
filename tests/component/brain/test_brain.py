"""The whole brain against a stand-in API server and one agent: from a waiting pod to a node with new devices."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from brain import signpost
from brain.__main__ import Brain
from brain.config import Address, Config
from brain.decide import repartition
from brain.errors import ConfigError
from brain.kube import Kube
from brain.lease import NAME
from n8s import names
from n8s.v1 import agent_pb2, agent_pb2_grpc, gpu_pb2, inventory_pb2, inventory_pb2_grpc
from tests import tls
from tests.component.brain.fakeapi import FakeApi, Object, reviewed, running, until
from tests.ports import free_port

LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
BRAINS = "/api/v1/namespaces/ns/pods"
NAMESPACES, NODES, PODS, EVENTS = "/api/v1/namespaces", "/api/v1/nodes", "/api/v1/pods", "/api/v1/namespaces/a/events"
JOBS = "/apis/batch/v1/jobs"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
QUOTAS = "/apis/n8s.nebuly.ai/v1alpha1/elasticquotas"
COMPOSITES = "/apis/n8s.nebuly.ai/v1alpha1/compositeelasticquotas"
ROOM = {"cpu": "4", "memory": "8Gi", "pods": "110"}
NODE: Object = {
    "metadata": {"name": "n1", "uid": "u1", "labels": {names.AUTO_MIG_LABEL: "true"}},
    "spec": {"taints": [{"key": "other", "effect": "PreferNoSchedule"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}], "capacity": ROOM, "allocatable": ROOM},
}
POD: Object = {
    "metadata": {"name": "p", "namespace": "a", "uid": "up"},
    "spec": {"containers": [{"resources": {"requests": {"nvidia.com/mig-1g.5gb": 1}}}]},
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}],
    },
}
PROFILES = [
    gpu_pb2.Profile(name="1g.5gb", size=1, starts=range(7), max_count=7),
    gpu_pb2.Profile(name="7g.40gb", size=8, starts=[0], max_count=1),
]


def state(*instances: gpu_pb2.Instance) -> agent_pb2.AgentMessage:
    gpu = gpu_pb2.Gpu(index=0, model="A100", slots=8, profiles=PROFILES, instances=instances)
    allocatable = [
        agent_pb2.AllocatableResource(name=names.mig_resource(each.profile), device_ids=[each.uuid])
        for each in instances
    ]
    return agent_pb2.AgentMessage(state=agent_pb2.NodeState(gpus=[gpu], allocatable=allocatable))


def instance(profile: str, start: int, size: int) -> gpu_pb2.Instance:
    return gpu_pb2.Instance(
        profile=profile, start=start, size=size, uuid=f"MIG-{profile}-{start}", state=gpu_pb2.INSTANCE_STATE_FREE
    )


class World:
    """A brain that runs, and the ways to it."""

    def __init__(self, api: FakeApi, kube: Kube, name: str = "me") -> None:
        self.api = api
        self.config = Config(
            grpc_listen=Address("127.0.0.1", free_port()),
            http_listen=Address("127.0.0.1", free_port()),
            tls_dir=tls.directory(),
            agent_account="agents",
            lease_namespace="ns",
            identity=name,
            pod_name=name,
            settle_seconds=0.05,
        )
        self.brain = Brain(self.config, kube)
        self.stopped = asyncio.Event()

    async def ready(self) -> int:
        url = f"http://{self.config.http_listen}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.config.grpc_listen.host, self.config.grpc_listen.port)) == 0

    def node(self) -> Object:
        return self.api.collections[NODES]["n1"]

    def tainted(self) -> bool:
        return any(taint["key"] == names.REPARTITIONING_TAINT for taint in self.node()["spec"]["taints"])


@asynccontextmanager
async def cluster(*brains: str) -> AsyncIterator[tuple[FakeApi, Kube]]:
    """An API server with these brains' pods."""
    watched = (NAMESPACES, JOBS, BUDGETS, NODES, PODS, QUOTAS, COMPOSITES)
    async with running(*watched, LEASES, EVENTS, BRAINS) as (api, kube):
        for name in brains:
            await api.put(BRAINS, {"metadata": {"name": name, "namespace": "ns", "labels": {"app": "brain"}}})
        yield api, kube


def leaders(api: FakeApi) -> set[str]:
    """The pods that the brains' Service leads to."""
    return {
        name
        for name, found in api.collections[BRAINS].items()
        if found["metadata"]["labels"].get(names.LEADER_LABEL) == "true"
    }


@asynccontextmanager
async def world() -> AsyncIterator[tuple[World, asyncio.Task[None], grpc.aio.Channel, grpc.aio.Channel]]:
    async with cluster("me") as (api, kube):
        await api.put(NODES, NODE)
        api.tokens["agent-of-n1"] = reviewed("ns:agents", "n1")
        api.tokens["viewer"] = reviewed("ns:n8s-viewer")
        it = World(api, kube)
        task = asyncio.create_task(it.brain.run(it.stopped))
        try:
            address = str(it.config.grpc_listen)
            async with (
                grpc.aio.secure_channel(address, tls.client("agent-of-n1")) as agents,
                grpc.aio.secure_channel(address, tls.client("viewer")) as viewers,
            ):
                yield it, task, agents, viewers
        finally:
            it.stopped.set()
            await asyncio.gather(task, return_exceptions=True)


async def test_namespaces_with_a_quota_are_labelled_but_never_the_release_s() -> None:
    async with cluster("me") as (api, kube):
        for name in ("a", "ns"):
            await api.put(NAMESPACES, {"metadata": {"name": name, "labels": {}}})
            await api.put(QUOTAS, {"metadata": {"name": f"q-{name}", "namespace": name}, "spec": {"min": {"cpu": 1}}})
        it = World(api, kube)
        task = asyncio.create_task(it.brain.run(it.stopped))

        def labels(name: str) -> Object:
            found: Object = api.collections[NAMESPACES][name]["metadata"]["labels"]
            return found

        await until(lambda: labels("a") == {names.QUOTA_LABEL: "true"})
        await api.delete(QUOTAS, "q-a")
        await until(lambda: labels("a") == {})
        assert labels("ns") == {}
        it.stopped.set()
        await asyncio.gather(task, return_exceptions=True)


async def test_from_a_waiting_pod_to_a_node_with_new_devices() -> None:
    async with world() as (it, task, agents, viewers):
        call: Any = agent_pb2_grpc.AgentServiceStub(agents).Session(wait_for_ready=True)
        await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(node="n1", epoch=5)))
        await call.write(state(instance("7g.40gb", 0, 8)))
        await it.api.put(PODS, POD)
        async with asyncio.timeout(8):
            order = (await call.read()).order
        (wanted,) = order.gpus[0].placements
        assert (order.epoch, wanted.profile) == (6, "1g.5gb"), "above the epoch that the agent has seen"
        assert it.tainted()
        assert await it.ready() == 200
        await call.write(state(instance("1g.5gb", wanted.start, 1)))
        await call.write(
            agent_pb2.AgentMessage(
                result=agent_pb2.OrderResult(id=order.id, epoch=order.epoch, outcome=agent_pb2.OUTCOME_APPLIED)
            )
        )
        await until(lambda: not it.tainted())
        assert it.node()["status"]["allocatable"] == ROOM | {"nvidia.com/mig-1g.5gb": "1"}
        assert it.node()["spec"]["taints"] == [{"key": "other", "effect": "PreferNoSchedule"}]
        await until(lambda: it.node()["metadata"]["annotations"].get("n8s.nebuly.ai/status-gpu-0-1g.5gb-free") == "1")
        await until(lambda: any(e["reason"] == "MigRepartitioning" for e in it.api.collections[EVENTS].values()))
        listed = await inventory_pb2_grpc.InventoryServiceStub(viewers).ListGpus(inventory_pb2.ListGpusRequest())
        assert [(each.node, each.live, each.gpu.instances[0].profile) for each in listed.gpus] == [
            ("n1", True, "1g.5gb")
        ]
        began = asyncio.get_running_loop().time()
        it.stopped.set()
        await task
        assert asyncio.get_running_loop().time() - began < 2
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert it.api.collections[LEASES][NAME]["spec"]["holderIdentity"] == ""


async def test_whoever_leads_next_takes_the_taint_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node whose agent is there, and of one that lost its label while no brain was there to see."""
    monkeypatch.setattr(repartition, "SILENCE_SECONDS", 0.5)
    ours = {"key": names.REPARTITIONING_TAINT, "effect": "NoSchedule"}
    tainted = {**NODE, "spec": {"taints": [*NODE["spec"]["taints"], ours]}}
    async with cluster("me") as (api, kube):
        await api.put(NODES, tainted)
        await api.put(NODES, {**tainted, "metadata": {"name": "n2", "uid": "u2", "labels": {}}})
        api.tokens["agent-of-n1"] = reviewed("ns:agents", "n1")
        async with brains(api, kube, "me") as ((it, _),):
            address = str(it.config.grpc_listen)
            async with grpc.aio.secure_channel(address, tls.client("agent-of-n1")) as agents:
                call: Any = agent_pb2_grpc.AgentServiceStub(agents).Session(wait_for_ready=True)
                await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(node="n1")))
                await call.write(state(instance("7g.40gb", 0, 8)))
                nodes = api.collections[NODES]
                await until(lambda: all(ours not in each["spec"]["taints"] for each in nodes.values()))
                assert nodes["n1"]["status"]["allocatable"] == ROOM | {"nvidia.com/mig-7g.40gb": "1"}
                assert nodes["n2"]["status"]["allocatable"] == ROOM, "nobody knows what is there"


async def test_a_pod_that_is_bound_while_an_order_is_applied_is_told_and_counted() -> None:
    async with world() as (it, _, agents, _):
        call: Any = agent_pb2_grpc.AgentServiceStub(agents).Session(wait_for_ready=True)
        await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(node="n1")))
        await call.write(state(instance("7g.40gb", 0, 8)))
        await it.api.put(PODS, POD)
        async with asyncio.timeout(8):
            assert (await call.read()).order.gpus
        late = {**POD, "metadata": {"name": "late", "namespace": "a", "uid": "ul"}, "status": {"phase": "Failed"}}
        await it.api.put(PODS, late | {"spec": {**POD["spec"], "nodeName": "n1"}})

        def told() -> list[str]:
            events = it.api.collections[EVENTS].values()
            return [e["involvedObject"]["name"] for e in events if e["reason"] == "MigLateBind"]

        await until(lambda: told() == ["late"])
        url = f"http://{it.config.http_listen}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert "n8s_brain_late_binds_total 1.0\n" in await response.text()


@asynccontextmanager
async def brains(api: FakeApi, kube: Kube, *named: str) -> AsyncIterator[list[tuple[World, asyncio.Task[None]]]]:
    """Brains that have been started one after the other; those that still run are stopped at the end."""
    started = []
    try:
        for name in named:
            it = World(api, kube, name)
            looks = api.count(f"GET {LEASES}/{NAME}")
            started.append((it, asyncio.create_task(it.brain.run(it.stopped))))
            await until(lambda: api.count(f"GET {LEASES}/{NAME}") > looks)  # noqa: B023 - called in here
        yield started
    finally:
        for it, _ in started:
            it.stopped.set()
        await asyncio.gather(*(task for _, task in started), return_exceptions=True)


async def ready(it: World) -> None:
    async with asyncio.timeout(5):
        while await it.ready() != 200:  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.01)


async def test_both_of_two_brains_are_ready_and_one_is_found() -> None:
    async with cluster("one", "two") as (api, kube), brains(api, kube, "one", "two") as ((one, task), (two, _)):
        await ready(one)
        await ready(two)
        await until(lambda: leaders(api) == {"one"})
        assert one.listens()
        assert not two.listens(), "a standby refuses agents, also those that a label of yesterday leads to it"
        one.stopped.set()
        await task
        await until(lambda: leaders(api) == {"two"})
        assert two.listens()
        assert await two.ready() == 200
        assert api.collections[BRAINS]["one"]["metadata"]["labels"] == {"app": "brain"}, "other labels stay"


async def test_the_next_leader_takes_the_label_off_one_that_was_killed() -> None:
    async with cluster("me", "killed") as (api, kube):
        await api.put(BRAINS, {"metadata": {"name": "killed", "labels": {names.LEADER_LABEL: "true"}}})
        held = {"holderIdentity": "killed", "leaseDurationSeconds": 1}
        await api.put(LEASES, {"metadata": {"name": NAME}, "spec": held})
        async with brains(api, kube, "me") as ((it, _),):
            await ready(it)
            assert leaders(api) == {"killed"}, "a standby writes nothing"
            assert not it.listens()
            await until(lambda: leaders(api) == {"me"})
            assert it.listens()


async def test_a_killed_brain_that_comes_back_in_its_pod_is_found_again() -> None:
    async with cluster("me", "other") as (api, kube):
        await api.put(BRAINS, {"metadata": {"name": "me", "labels": {names.LEADER_LABEL: "true"}}})
        held = {"holderIdentity": "me", "leaseDurationSeconds": 60, "leaseTransitions": 7}
        await api.put(LEASES, {"metadata": {"name": NAME}, "spec": held})
        async with brains(api, kube, "me") as ((it, _),):
            await until(it.listens)
            await until(lambda: api.count(f"GET {BRAINS}") > 0)
            assert leaders(api) == {"me"}
            assert api.collections[LEASES][NAME]["spec"]["leaseTransitions"] == 8


async def test_the_label_is_put_right_whatever_fails_and_whoever_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signpost, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(signpost, "LOOK_SECONDS", 0.05)
    async with cluster("me", "late") as (api, kube):
        api.fail("GET", BRAINS, 500)
        api.fail("PATCH", f"{BRAINS}/me", 403, times=2)
        async with brains(api, kube, "me"):
            await until(lambda: leaders(api) == {"me"})
            api.fail("PATCH", f"{BRAINS}/late", 404)
            await api.put(BRAINS, {"metadata": {"name": "late", "labels": {names.LEADER_LABEL: "true"}}})
            await until(lambda: leaders(api) == {"me"})


async def test_a_brain_that_cannot_contend_is_not_ready() -> None:
    async with cluster("me") as (api, kube):
        refused = api.fail("GET", f"{LEASES}/{NAME}", 403, times=10_000)
        async with brains(api, kube, "me") as ((it, _),):
            await until(lambda: api.count(f"GET {PODS}") > 0)
            assert await it.ready() == 503
            refused.times = 0
            await ready(it)


async def test_without_a_certificate_it_does_not_start(tmp_path: Path) -> None:
    async with cluster("me") as (api, kube):
        it = World(api, kube)
        it.brain = Brain(replace(it.config, tls_dir=tmp_path), kube)
        with pytest.raises(ConfigError, match=f"--tls-dir: tls.crt and tls.key in {tmp_path} cannot be used"):
            await it.brain.run(it.stopped)
