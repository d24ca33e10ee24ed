"""InventoryService: which GPUs there are, what they hold, who uses it, as the brain's newest snapshot shows it.

How a pod stands is told from the last round of decisions and the snapshot from which that followed, so that the answer
is of one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from brain import wire
from brain.decide.decisions import Decisions
from brain.decide.standing import explain
from brain.model.mig import Gpu, InstanceState
from brain.model.snapshot import Snapshot
from n8s import names
from n8s.v1 import inventory_pb2, inventory_pb2_grpc

_Key = tuple[str, int]
_Shown = tuple[Gpu, bool]
"""A GPU, and whether its agent is connected."""


class Inventory(inventory_pb2_grpc.InventoryServiceServicer):
    """The service, and the board that the loop puts its snapshots on."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._round: tuple[Snapshot, Decisions] | None = None
        self._news = asyncio.Event()
        self._closed = False

    def publish(self, snapshot: Snapshot) -> None:
        """Shows a newer snapshot."""
        self._snapshot = snapshot
        self._ring()

    def decided(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Shows what a round decided, and from which snapshot."""
        self._round = snapshot, decisions

    def close(self) -> None:
        """Ends all watches: this brain stops leading."""
        self._closed = True
        self._ring()

    async def ListGpus(  # noqa: N802 - named by the contract
        self,
        request: inventory_pb2.ListGpusRequest,
        context: grpc.aio.ServicerContext[inventory_pb2.ListGpusRequest, inventory_pb2.ListGpusResponse],
    ) -> inventory_pb2.ListGpusResponse:
        """All GPUs that match, by node name and index."""
        if self._snapshot is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the brain has not seen the cluster yet")
        matching = _matching(self._current(), request.filter)
        return inventory_pb2.ListGpusResponse(
            gpus=[wire.node_gpu_to(key[0], gpu, live=live) for key, (gpu, live) in sorted(matching.items())]
        )

    async def WatchGpus(  # noqa: N802 - named by the contract
        self,
        request: inventory_pb2.WatchGpusRequest,
        context: grpc.aio.ServicerContext[inventory_pb2.WatchGpusRequest, inventory_pb2.GpuEvent],
    ) -> AsyncIterator[inventory_pb2.GpuEvent]:
        """All GPUs that match, then a SYNCED event, then each change."""
        shown: dict[_Key, _Shown] = {}
        synced = False
        while not self._closed:
            news = self._news
            if self._snapshot is not None:
                matching = _matching(self._snapshot, request.filter)
                for event in _changes(shown, matching):
                    yield event
                shown = matching
                if not synced:
                    synced = True
                    yield inventory_pb2.GpuEvent(type=inventory_pb2.GPU_EVENT_TYPE_SYNCED)
            await news.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this brain leads no longer")

    async def GetNode(  # noqa: N802 - named by the contract
        self,
        request: inventory_pb2.GetNodeRequest,
        context: grpc.aio.ServicerContext[inventory_pb2.GetNodeRequest, inventory_pb2.Node],
    ) -> inventory_pb2.Node:
        """One node."""
        if self._snapshot is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the brain has not seen the cluster yet")
        for node in self._current().nodes:
            if node.name == request.name:
                return wire.node_to(node)
        await context.abort(grpc.StatusCode.NOT_FOUND, f"the cluster has no node {request.name!r}")
        raise AssertionError  # abort does not return

    async def ExplainPod(  # noqa: N802 - named by the contract
        self,
        request: inventory_pb2.ExplainPodRequest,
        context: grpc.aio.ServicerContext[inventory_pb2.ExplainPodRequest, inventory_pb2.PodExplanation],
    ) -> inventory_pb2.PodExplanation:
        """How a pod stands."""
        if self._round is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this brain has not decided anything yet")
        snapshot, decisions = self._round or (Snapshot(), Decisions())
        for pod in snapshot.pods:
            if pod.name == request.name and pod.namespace == request.namespace:
                return wire.explanation_to(explain(pod, decisions, snapshot.quotas), decisions.plan)
        key = f"{request.namespace}/{request.name}"
        await context.abort(grpc.StatusCode.NOT_FOUND, f"the last round of decisions saw no pod {key!r}")
        raise AssertionError  # abort does not return

    def _current(self) -> Snapshot:
        return self._snapshot or Snapshot()

    def _ring(self) -> None:
        """Wakes all watches; each waits on the event that was current when it last looked."""
        news, self._news = self._news, asyncio.Event()
        news.set()


def _matching(snapshot: Snapshot, wanted: inventory_pb2.GpuFilter) -> dict[_Key, _Shown]:
    return {
        (node.name, gpu.index): (gpu, node.agent.connected)
        for node in snapshot.nodes
        if node.agent is not None and wanted.node in {"", node.name}
        for gpu in node.agent.gpus
        if wanted.model in {"", gpu.model} and (not wanted.free_profile or _has_free(gpu, wanted.free_profile))
    }


def _has_free(gpu: Gpu, profile: str) -> bool:
    resource = names.mig_resource(profile)
    return any(
        names.mig_resource(instance.profile) == resource and instance.state is InstanceState.FREE
        for instance in gpu.instances
    )


def _changes(before: dict[_Key, _Shown], after: dict[_Key, _Shown]) -> list[inventory_pb2.GpuEvent]:
    """What became of the GPUs that a watch shows, by node name and index."""
    events = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if new is None:
            kind = inventory_pb2.GPU_EVENT_TYPE_REMOVED
        elif old is None:
            kind = inventory_pb2.GPU_EVENT_TYPE_ADDED
        elif old == new:
            continue
        else:
            kind = inventory_pb2.GPU_EVENT_TYPE_MODIFIED
        told = new or old
        if told is not None:
            gpu = wire.node_gpu_to(key[0], told[0], live=told[1])
            events.append(inventory_pb2.GpuEvent(type=kind, gpu=gpu))
    return events
