"""What the kubelet says of devices: who has which, and which ones it knows. Its PodResources API, nothing else.

It gives the kubelet's account as it stands. That is not the whole truth: after a forced delete a device is free here
while the old container still runs, and so is what an init container has, so a caller must ask the driver for processes
too. Pods that have ended hold nothing here: kubelets before 1.34 list them, but take their devices back first
(Kubernetes, ``pkg/kubelet/apis/podresources/server_v1.go``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from n8s import names
from n8s.kubelet import podresources_pb2 as pb
from n8s.kubelet.podresources_pb2_grpc import PodResourcesListerStub
from nodeagent.errors import KubeletError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALL_SECONDS: Final = 2.0
"""Deadline of one call, in seconds. The kubelet answers within milliseconds or is in trouble."""
TOO_FAST_SECONDS: Final = 0.03
"""Pause after the kubelet's rate limit: 10 calls at once, then 100 a second, whoever makes them (Kubernetes,
``pkg/kubelet/apis/podresources/constants.go``)."""
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""The kubelet's own limit for its answers."""


DeviceIds: TypeAlias = Mapping[str, frozenset[str]]
"""Device ids (UUIDs of MIG devices) by resource (``nvidia.com/mig-...``); resources without any are left out."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The container that a device is given to."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod} (container {self.container})"


class Kubelet(Protocol):
    """What the agent asks of the kubelet."""

    async def holders(self) -> Mapping[str, Holder]:
        """By device id, the container that has it.

        Raises:
            KubeletError: It does not answer.
        """

    async def allocatable(self) -> DeviceIds:
        """The healthy MIG devices that the kubelet knows, given away or not.

        Raises:
            KubeletError: It does not answer.
        """


class PodResources:
    """A :class:`Kubelet` over the PodResources socket."""

    def __init__(self, socket: str) -> None:
        """Use the API at ``socket``, an absolute path; the kubelet may come and go."""
        self._socket = socket
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}",
            options=[
                ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
                # A kubelet that restarts is back within seconds; gRPC's own back-off would grow to two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._stub = PodResourcesListerStub(self._channel)

    async def holders(self) -> Mapping[str, Holder]:
        """See :class:`Kubelet`."""
        pods: pb.ListPodResourcesResponse = await self._call(self._stub.List, pb.ListPodResourcesRequest())
        return {
            device: Holder(pod.namespace, pod.name, container.name)
            for pod in pods.pod_resources
            for container in pod.containers
            for devices in container.devices
            if devices.resource_name.startswith(names.MIG_PREFIX)
            for device in devices.device_ids
        }

    async def allocatable(self) -> DeviceIds:
        """See :class:`Kubelet`."""
        known: pb.AllocatableResourcesResponse = await self._call(
            self._stub.GetAllocatableResources, pb.AllocatableResourcesRequest()
        )
        ids: dict[str, set[str]] = {}
        for devices in known.devices:
            if devices.resource_name.startswith(names.MIG_PREFIX) and devices.device_ids:
                ids.setdefault(devices.resource_name, set()).update(devices.device_ids)
        return {name: frozenset(uuids) for name, uuids in ids.items()}

    async def _call(self, method: Any, request: Any) -> Any:
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        while True:
            try:
                return await method(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                limited = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if not limited or asyncio.get_running_loop().time() >= deadline:
                    # Of a socket that nobody listens on, gRPC tells at length; its code says as much.
                    told = "" if error.code() is grpc.StatusCode.UNAVAILABLE else f" {error.details()}"
                    raise KubeletError(self._socket, error.code().name + told) from error
            await asyncio.sleep(TOO_FAST_SECONDS)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


@asynccontextmanager
async def pod_resources(socket: str) -> AsyncIterator[PodResources]:
    """A :class:`PodResources` that is closed at the end."""
    kubelet = PodResources(socket)
    try:
        yield kubelet
    finally:
        await kubelet.close()
