"""The inventory, health and reflection over a real server; health and metrics over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from brain.decide.decisions import Decisions
from brain.decide.partition import Plan
from brain.decide.why import Lack, Reason
from brain.errors import ConfigError
from brain.metrics import Metrics
from brain.model.mig import Gpu, Holder, Instance, InstanceState
from brain.model.node import Agent, Node, Taint
from brain.model.pod import Pod
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from brain.serve.http import application, serving_http
from brain.serve.inventory import Inventory
from brain.serve.server import serving
from n8s import names
from n8s.v1 import inventory_pb2, inventory_pb2_grpc
from tests.ports import free_port

SERVICE = "n8s.v1.InventoryService"
FREE = Instance("1g.5gb", 0, 1, uuid="MIG-1")
USED = Instance("3g.20gb", 4, 4, InstanceState.USED, "MIG-2", holder=Holder("a", "p", "c"))
MIG = names.mig_resource("1g.5gb")
ADDED, MODIFIED, REMOVED, SYNCED = 1, 2, 3, 4


def gpu(index: int, *instances: Instance, model: str = "A100") -> Gpu:
    return Gpu(index, model, 8, (), instances)


def agent(*gpus: Gpu, connected: bool = True) -> Agent:
    return Agent(connected, 0.0, gpus)


N1 = Node("n1", labels={names.AUTO_MIG_LABEL: "true"}, agent=agent(gpu(0, FREE, USED), gpu(1)))
N2 = Node("n2", taints=(Taint(names.REPARTITIONING_TAINT),), agent=agent(gpu(0, FREE, model="H100"), connected=False))
N3 = Node("n3")
WORLD = Snapshot(nodes=(N2, N3, N1))


@asynccontextmanager
async def inventory(path: Path, snapshot: Snapshot | None = WORLD) -> AsyncIterator[tuple[Inventory, Any, Any]]:
    board = Inventory()
    if snapshot is not None:
        board.publish(snapshot)
    target = f"unix:{path / 'brain.sock'}"

    def register(server: grpc.aio.Server) -> None:
        inventory_pb2_grpc.add_InventoryServiceServicer_to_server(board, server)

    kind = grpc.LocalConnectionType.UDS
    async with (
        serving(target, register, [SERVICE], grpc.local_server_credentials(kind)),
        grpc.aio.secure_channel(target, grpc.local_channel_credentials(kind)) as channel,
    ):
        try:
            yield board, inventory_pb2_grpc.InventoryServiceStub(channel), channel
        finally:
            board.close()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [("n1", 0), ("n1", 1), ("n2", 0)]),
        ({"node": "n1"}, [("n1", 0), ("n1", 1)]),
        ({"model": "H100"}, [("n2", 0)]),
        ({"free_profile": "1g.5gb"}, [("n1", 0), ("n2", 0)]),
        ({"free_profile": "3g.20gb"}, []),
        ({"free_profile": "1g.5gb", "model": "A100", "node": "n1"}, [("n1", 0)]),
        ({"node": "no such"}, []),
    ],
)
async def test_lists_what_matches(tmp_path: Path, wanted: dict[str, str], found: list[tuple[str, int]]) -> None:
    async with inventory(tmp_path) as (_, stub, _):
        request = inventory_pb2.ListGpusRequest(filter=inventory_pb2.GpuFilter(**wanted))
        answer = await stub.ListGpus(request)
        assert [(entry.node, entry.gpu.index) for entry in answer.gpus] == found
        for entry in answer.gpus:
            assert entry.live == (entry.node == "n1")


async def test_a_gpu_is_shown_with_who_uses_it(tmp_path: Path) -> None:
    async with inventory(tmp_path) as (_, stub, _):
        answer = await stub.ListGpus(inventory_pb2.ListGpusRequest())
        free, used = answer.gpus[0].gpu.instances
        assert (free.profile, free.start, free.state, free.HasField("holder")) == ("1g.5gb", 0, 1, False)
        assert (used.start, used.state, used.holder.namespace, used.holder.pod) == (4, 2, "a", "p")


async def test_a_node(tmp_path: Path) -> None:
    async with inventory(tmp_path) as (_, stub, _):
        one = await stub.GetNode(inventory_pb2.GetNodeRequest(name="n1"))
        assert (one.enabled, one.repartitioning, one.agent.connected, len(one.gpus)) == (True, False, True, 2)
        two = await stub.GetNode(inventory_pb2.GetNodeRequest(name="n2"))
        assert (two.enabled, two.repartitioning, two.agent.connected) == (False, True, False)
        assert not (await stub.GetNode(inventory_pb2.GetNodeRequest(name="n3"))).gpus
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetNode(inventory_pb2.GetNodeRequest(name="n4"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_before_the_first_snapshot_there_is_no_answer(tmp_path: Path) -> None:
    async with inventory(tmp_path, None) as (_, stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListGpus(inventory_pb2.ListGpusRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_pod_is_explained_from_the_last_round(tmp_path: Path) -> None:
    pods = (Pod("a", "p", "u1", node="n1"), Pod("b", "p", "u2"), Pod("b", "q", "u3", request={MIG: 1}))
    plan = Plan(why={"b/q": Reason("no room", lacks=(Lack("is small", 1, ("n1",)),))}, bound=1)
    async with inventory(tmp_path) as (board, stub, _):
        quota = Quota(Kind.SINGLE, "b", "team", ("b",), {"cpu": 1})
        board.decided(Snapshot(pods=pods, quotas=(quota,)), Decisions(plan=plan))
        board.publish(Snapshot())
        plain = await stub.ExplainPod(inventory_pb2.ExplainPodRequest(namespace="b", name="p"))
        assert (plain.namespace, plain.standing) == ("b", inventory_pb2.POD_STANDING_NO_MIG)
        waits = await stub.ExplainPod(inventory_pb2.ExplainPodRequest(namespace="b", name="q"))
        assert (waits.standing, waits.text) == (inventory_pb2.POD_STANDING_WAITS, "no room")
        assert (waits.quota.kind, waits.quota.namespace, waits.quota.name) == ("ElasticQuota", "b", "team")
        elsewhere = await stub.ExplainPod(inventory_pb2.ExplainPodRequest(namespace="a", name="p"))
        assert not elsewhere.HasField("quota")
        assert (waits.round.waiting, waits.round.served, waits.round.upper_bound) == (1, 0, 1)
        with pytest.raises(grpc.aio.AioRpcError, match="saw no pod 'a/q'") as caught:
            await stub.ExplainPod(inventory_pb2.ExplainPodRequest(namespace="a", name="q"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        board.decided(Snapshot(), Decisions())
        with pytest.raises(grpc.aio.AioRpcError, match="saw no pod 'b/q'"):
            await stub.ExplainPod(inventory_pb2.ExplainPodRequest(namespace="b", name="q"))


async def test_before_the_first_round_no_pod_is_explained(tmp_path: Path) -> None:
    async with inventory(tmp_path) as (_, stub, _):
        with pytest.raises(grpc.aio.AioRpcError, match="has not decided anything yet") as caught:
            await stub.ExplainPod(inventory_pb2.ExplainPodRequest(namespace="a", name="p"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_watch_shows_all_then_each_change(tmp_path: Path) -> None:
    async with inventory(tmp_path) as (board, stub, _):
        call = stub.WatchGpus(inventory_pb2.WatchGpusRequest(filter=inventory_pb2.GpuFilter(free_profile="1g.5gb")))

        async def events(count: int) -> list[tuple[int, str, int]]:
            read = [await call.read() for _ in range(count)]
            return [(event.type, event.gpu.node, event.gpu.gpu.index) for event in read]

        assert await events(3) == [(ADDED, "n1", 0), (ADDED, "n2", 0), (SYNCED, "", 0)]
        board.publish(WORLD)
        board.publish(Snapshot(nodes=(replace(N1, agent=agent(gpu(0, FREE), gpu(1, FREE))), N2)))
        assert await events(2) == [(MODIFIED, "n1", 0), (ADDED, "n1", 1)]
        board.publish(Snapshot(nodes=(replace(N1, agent=agent(gpu(0, USED), gpu(1, FREE), connected=False)),)))
        assert await events(3) == [(REMOVED, "n1", 0), (MODIFIED, "n1", 1), (REMOVED, "n2", 0)]
        board.close()
        async with asyncio.timeout(1):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_health_and_reflection(tmp_path: Path) -> None:
    async with inventory(tmp_path) as (_, _, channel):
        for name in ("", SERVICE):
            state = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert state.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {entry.name for entry in (await call.read()).list_services_response.service}
        assert SERVICE in listed
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        call.cancel()


async def test_a_closed_server_frees_its_port_within_the_grace() -> None:
    address = f"127.0.0.1:{free_port()}"
    for _ in range(2):
        board = Inventory()

        def register(server: grpc.aio.Server, board: Inventory = board) -> None:
            inventory_pb2_grpc.add_InventoryServiceServicer_to_server(board, server)

        began = asyncio.get_running_loop().time()
        async with (
            serving(address, register, [SERVICE], grpc.local_server_credentials()),
            grpc.aio.secure_channel(address, grpc.local_channel_credentials()) as channel,
        ):
            stub = inventory_pb2_grpc.InventoryServiceStub(channel)
            board.publish(Snapshot())
            call: Any = stub.WatchGpus(inventory_pb2.WatchGpusRequest())
            assert (await call.read()).type == SYNCED
            with pytest.raises(ConfigError, match=f"--grpc-listen: cannot listen on {address}"):
                async with serving(address, register, [SERVICE], grpc.local_server_credentials()):
                    pass
            board.close()
        assert asyncio.get_running_loop().time() - began < 2


class Standing:
    unready = "standby"


async def test_http() -> None:
    standing, metrics = Standing(), Metrics()
    metrics.rounds.inc()
    port = free_port()
    async with (
        serving_http(application(standing, metrics.registry), "127.0.0.1", port),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def get(path: str) -> tuple[int, str]:
            async with session.get(path) as response:
                return response.status, await response.text()

        assert await get("/healthz") == (200, "ok\n")
        assert await get("/readyz") == (503, "standby\n")
        standing.unready = ""
        assert await get("/readyz") == (200, "ok\n")
        status, text = await get("/metrics")
        assert status == 200
        assert "n8s_brain_rounds_total 1.0" in text
