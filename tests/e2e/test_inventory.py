"""The inventory over gRPC, as a client of the installed package and as grpcurl sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from n8s.v1 import gpu_pb2, inventory_pb2
from tests.e2e.lab import NEBULNETES, Lab, pod

pytestmark = pytest.mark.e2e


def test_a_client_lists_gpus_with_who_uses_them(lab: Lab, namespace: str) -> None:
    lab.enable("a100", "h100")
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
            [item.node for item in lab.inventory.ListGpus(inventory_pb2.ListGpusRequest(filter=free)).gpus] == ["a100"]
        ),
    )
    with pytest.raises(grpc.RpcError) as caught:
        lab.node("nowhere")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_streams_changes(lab: Lab, namespace: str) -> None:
    lab.enable("a100")
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


def test_pods_are_explained(lab: Lab, namespace: str) -> None:
    def explained(name: str, output: str = "json", *, code: int = 0) -> str:
        command = [sys.executable, "-P", "-m", "brain.offline", "explain", "pod", f"{namespace}/{name}"]
        done = subprocess.run(
            [*command, "--brain", lab.brain, "--output", output],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            env=lab.cluster.environ,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def stands(name: str, standing: inventory_pb2.PodStanding.ValueType, helps: str = "") -> bool:
        answer = lab.inventory.ExplainPod(inventory_pb2.ExplainPodRequest(namespace=namespace, name=name), timeout=30)
        return bool(answer.standing == standing and answer.would_help.pod == helps)

    lab.enable("a100")
    lab.create(namespace, pod("holder", {"7g.40gb": 1}))
    lab.running(namespace, "holder")
    lab.until("the pod that runs is bound", lambda: stands("holder", inventory_pb2.POD_STANDING_BOUND))
    lab.create(namespace, pod("stuck", {"4g.20gb": 1}))
    event = lab.event(namespace, "stuck", "MigNoRoom")
    lab.until(
        "the other waits for its end", lambda: stands("stuck", inventory_pb2.POD_STANDING_WAITS, f"{namespace}/holder")
    )
    answer = json.loads(explained("stuck"))
    assert answer["standing"] == "POD_STANDING_WAITS"
    assert answer["text"].startswith(event.partition(":")[0])
    assert answer["would_help"] == {"node": "a100", "pod": f"{namespace}/holder"}
    assert sum(lack["nodes"] for lack in answer["lacks"]) == len(lab.cluster.nodes)
    assert answer["round"] == {"waiting": 1, "served": 0, "upper_bound": 0}
    page = explained("stuck", "text")
    assert page.startswith(f"{namespace}/stuck waits\n")
    assert "1 waiting for MIG devices: 0 served, 1 left out; no plan serves more" in page
    lab.delete(namespace, "holder")
    lab.running(namespace, "stuck")
    lab.until("it is bound", lambda: stands("stuck", inventory_pb2.POD_STANDING_BOUND))
    assert f"saw no pod '{namespace}/nobody'" in explained("nobody", code=1)


def test_health_needs_no_token(lab: Lab, authorities: Path) -> None:
    with grpc.secure_channel(lab.brain, grpc.ssl_channel_credentials(authorities.read_bytes())) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "n8s.v1.InventoryService", "n8s.v1.AgentService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_grpcurl_works_through_reflection(lab: Lab, authorities: Path) -> None:
    token = lab.cluster.kubectl("create", "token", "n8s-viewer", "-n", NEBULNETES, "--audience", "n8s-brain").strip()
    grpcurl = [str(lab.cluster.binaries["grpcurl"]), "-cacert", str(authorities)]
    services = lab.cluster.run(*grpcurl, lab.brain, "list").split()
    assert {"n8s.v1.InventoryService", "n8s.v1.AgentService", "grpc.health.v1.Health"} <= set(services)
    lab.enable("a30")
    text = lab.cluster.run(
        *(*grpcurl, "-H", f"authorization: Bearer {token}", "-d", '{"name": "a30"}'),
        *(lab.brain, "n8s.v1.InventoryService/GetNode"),
    )
    node = json.loads(text)
    assert node["name"] == "a30"
    assert len(node["gpus"]) == 2
    assert "repeated uint32 starts = 3" in lab.cluster.run(*grpcurl, lab.brain, "describe", "n8s.v1.Profile")
