"""The inventory over gRPC, as a client of the installed package and as grpcurl sees it."""

from __future__ import annotations

import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from n8s.v1 import gpu_pb2, inventory_pb2
from tests.e2e.lab import Lab, pod

pytestmark = pytest.mark.e2e


def test_a_client_lists_gpus_with_who_uses_them(lab: Lab, namespace: str) -> None:
    with lab.enabled("a100", "h100"):
        lab.create(namespace, pod("user", {"1g.5gb": 1}))
        lab.running(namespace, "user")
        instance = lab.held(namespace, "user")
        assert (instance.profile, instance.size, instance.state) == ("1g.5gb", 1, gpu_pb2.INSTANCE_STATE_USED)
        assert instance.holder.container == "main"
        answer = lab.inventory.ListGpus(inventory_pb2.ListGpusRequest(filter=inventory_pb2.GpuFilter(node="a100")))
        assert [(item.node, item.gpu.index, item.live) for item in answer.gpus] == [("a100", 0, True)]
        by_model = inventory_pb2.GpuFilter(model=answer.gpus[0].gpu.model)
        assert {item.node for item in lab.inventory.ListGpus(inventory_pb2.ListGpusRequest(filter=by_model)).gpus} == {
            "a100"
        }
        lab.delete(namespace, "user")
        free = inventory_pb2.GpuFilter(free_profile="1g.5gb")
        lab.until(
            "it is free again",
            lambda: (
                [item.node for item in lab.inventory.ListGpus(inventory_pb2.ListGpusRequest(filter=free)).gpus]
                == ["a100"]
            ),
        )
        with pytest.raises(grpc.RpcError) as caught:
            lab.node("nowhere")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_streams_changes(lab: Lab, namespace: str) -> None:
    with lab.enabled("a100"):
        request = inventory_pb2.WatchGpusRequest(filter=inventory_pb2.GpuFilter(node="a100"))
        stream = lab.inventory.WatchGpus(request, timeout=60)
        first, synced = next(stream), next(stream)
        assert first.type == inventory_pb2.GPU_EVENT_TYPE_ADDED
        assert synced.type == inventory_pb2.GPU_EVENT_TYPE_SYNCED
        lab.create(namespace, pod("user", {"2g.10gb": 1}, node="a100"))
        for event in stream:
            assert event.type == inventory_pb2.GPU_EVENT_TYPE_MODIFIED
            if any(instance.holder.pod == "user" for instance in event.gpu.gpu.instances):
                break
        stream.cancel()


def test_health(lab: Lab) -> None:
    health = health_pb2_grpc.HealthStub(lab.channel)
    for service in ("", "n8s.v1.InventoryService", "n8s.v1.AgentService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_grpcurl_works_through_reflection(lab: Lab) -> None:
    grpcurl = str(lab.cluster.binaries["grpcurl"])
    services = lab.cluster.run(grpcurl, "-plaintext", lab.brain, "list").split()
    assert {"n8s.v1.InventoryService", "n8s.v1.AgentService", "grpc.health.v1.Health"} <= set(services)
    with lab.enabled("a30"):
        text = lab.cluster.run(
            grpcurl, "-plaintext", "-d", '{"name": "a30"}', lab.brain, "n8s.v1.InventoryService/GetNode"
        )
        node = json.loads(text)
        assert node["name"] == "a30"
        assert len(node["gpus"]) == 2
    assert "repeated uint32 starts = 3" in lab.cluster.run(
        grpcurl, "-plaintext", lab.brain, "describe", "n8s.v1.Profile"
    )
