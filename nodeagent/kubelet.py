"""What the kubelet says of devices: who has which, and which ones it knows. Its PodResources API, nothing else.

It gives the kubelet's account as it stands. That is not the whole truth: after a forced delete a device is free here
while the old container still runs, so a caller must ask the driver for processes too. And older kubelets list pods
that have ended; then a device counts as used for longer, which is the safe side.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

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


@dataclass(frozen=True, slots=True)
class DeviceAccount:
    """The kubelet's account of MIG devices at one moment.

    Attributes:
        holders: By device id, the container that has it.
        allocatable: The healthy devices that the kubelet knows.
    """

    holders: Mapping[str, Holder]
    allocatable: DeviceIds


class Kubelet(Protocol):
    """What the agent asks of the kubelet."""

    async def account(self) -> DeviceAccount:
        """Who holds which device, and which devices are known.

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

    async def account(self) -> DeviceAccount:
        """See :class:`Kubelet`. A device given away between the two calls is at worst missing in ``allocatable``."""
        try:
            known: pb.AllocatableResourcesResponse = await self._stub.GetAllocatableResources(
                pb.AllocatableResourcesRequest(), timeout=CALL_SECONDS
            )
            pods: pb.ListPodResourcesResponse = await self._stub.List(
                pb.ListPodResourcesRequest(), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise KubeletError(self._socket, f"{error.code().name} {error.details()}") from error
        allocatable: dict[str, set[str]] = {}
        for devices in known.devices:
            if devices.resource_name.startswith(names.MIG_PREFIX) and devices.device_ids:
                allocatable.setdefault(devices.resource_name, set()).update(devices.device_ids)
        return DeviceAccount(
            holders=MappingProxyType(
                {
                    device: Holder(pod.namespace, pod.name, container.name)
                    for pod in pods.pod_resources
                    for container in pod.containers
                    for devices in container.devices
                    if devices.resource_name.startswith(names.MIG_PREFIX)
                    for device in devices.device_ids
                }
            ),
            allocatable=MappingProxyType({name: frozenset(ids) for name, ids in allocatable.items()}),
        )

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
