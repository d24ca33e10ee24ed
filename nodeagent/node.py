"""One look at the node: what the driver and the kubelet say, put together into the state that the brain is sent.

It looks and tells, and changes nothing. Where one of the two does not answer it does not guess: instances are unknown,
and the problem is named.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from n8s import names
from n8s.v1 import agent_pb2, gpu_pb2
from nodeagent.errors import DriverError, KubeletError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.gpu.driver import Gpu, GpuDriver, Instance
    from nodeagent.kubelet import DeviceIds, Holder, Kubelet


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node at one moment.

    Attributes:
        gpus: By index; as last seen where the driver does not answer.
        holders: By device id, the container that has it; None where the kubelet does not answer.
        allocatable: The devices that the kubelet knows; empty where it does not answer.
        problem: What keeps the agent from seeing; empty when nothing does.
        fresh: Whether ``gpus`` is what the driver says now.
        plugin_problem: Why the device plugin cannot be told to look again; empty when it can.
        plugin_awaited: Whether it is waited for though it could not be told.
    """

    gpus: tuple[Gpu, ...]
    holders: Mapping[str, Holder] | None
    allocatable: DeviceIds
    problem: str
    fresh: bool
    plugin_problem: str = ""
    plugin_awaited: bool = False

    def state(self, applying: int) -> agent_pb2.NodeState:
        """The wire's form, with the id of the order being applied (0 when none is)."""
        return agent_pb2.NodeState(
            gpus=[self._gpu(gpu) for gpu in self.gpus],
            allocatable=[
                agent_pb2.AllocatableResource(name=name, device_ids=sorted(self.allocatable[name]))
                for name in sorted(self.allocatable)
            ],
            problem=self.problem,
            applying=applying,
            plugin_problem=self.plugin_problem,
            plugin_awaited=self.plugin_awaited,
        )

    def _gpu(self, gpu: Gpu) -> gpu_pb2.Gpu:
        return gpu_pb2.Gpu(
            index=gpu.index,
            uuid=gpu.uuid,
            model=gpu.model,
            memory_mib=gpu.memory_mib,
            slots=gpu.slots,
            profiles=[
                gpu_pb2.Profile(
                    name=profile.name,
                    size=profile.size,
                    starts=profile.starts,
                    max_count=profile.max_count,
                    memory_mib=profile.memory_mib,
                )
                for profile in gpu.profiles
            ],
            instances=[self._instance(instance) for instance in gpu.instances],
            problem=gpu.problem,
            problem_code=gpu.problem_code,
        )

    def _instance(self, instance: Instance) -> gpu_pb2.Instance:
        message = gpu_pb2.Instance(
            profile=instance.placement.profile,
            start=instance.placement.start,
            size=instance.size,
            gpu_instance_id=instance.id,
            uuid=instance.uuid or "",
            state=self._instance_state(instance),
            processes=instance.processes or (),
        )
        holder = self.holders.get(instance.uuid) if self.holders and instance.uuid else None
        if holder is not None:
            message.holder.CopyFrom(
                gpu_pb2.Holder(namespace=holder.namespace, pod=holder.pod, container=holder.container)
            )
        return message

    def _instance_state(self, instance: Instance) -> gpu_pb2.InstanceState.ValueType:
        if not self.fresh or instance.processes is None:
            return gpu_pb2.INSTANCE_STATE_UNKNOWN
        if instance.uuid is None:
            return gpu_pb2.INSTANCE_STATE_BROKEN
        if instance.processes:
            return gpu_pb2.INSTANCE_STATE_USED
        if self.holders is None:
            return gpu_pb2.INSTANCE_STATE_UNKNOWN
        return gpu_pb2.INSTANCE_STATE_USED if instance.uuid in self.holders else gpu_pb2.INSTANCE_STATE_FREE


class Reach(Protocol):
    """What knows whether the device plugin can be told; see :class:`nodeagent.plugin.SignalledPlugin`.

    Attributes:
        problem: Why it cannot be told to look again; empty when it can.
        awaited: Whether it is waited for though it could not be told.
    """

    problem: str
    awaited: bool

    async def look(self) -> None:
        """Find out whether the plugin can be told, unless that was found out not long ago."""


class NodeReader:
    """Looks at the node through driver and kubelet."""

    def __init__(self, driver: GpuDriver, kubelet: Kubelet, plugin: Reach | None = None) -> None:
        """Look through the two; ``plugin``, where it is given, says whether the device plugin can be told."""
        self._driver = driver
        self._kubelet = kubelet
        self._plugin = plugin
        self._seen: tuple[Gpu, ...] = ()

    async def look(self) -> NodeView:
        """The node now. Never raises for a driver or kubelet that fails; that is the view's ``problem``."""
        problems = []
        plugin_problem, plugin_awaited = "", False
        if self._plugin is not None:
            await self._plugin.look()
            # Before the rest: what is awaited is so of GPUs that are done.
            plugin_problem, plugin_awaited = self._plugin.problem, self._plugin.awaited
        # The kubelet first: a device it calls free and that a process opens meanwhile shows in the driver's answer.
        holders: Mapping[str, Holder] | None = None
        allocatable: DeviceIds = {}
        try:
            allocatable = await self._kubelet.allocatable()
            holders = await self._kubelet.holders()
        except KubeletError as error:
            problems.append(str(error))
        fresh = True
        try:
            self._seen = await asyncio.to_thread(self._driver.read)
        except DriverError as error:
            fresh = False
            problems.append(str(error))
        return NodeView(
            gpus=self._seen,
            holders=holders,
            allocatable=allocatable,
            problem="; ".join(problems),
            fresh=fresh,
            plugin_problem=plugin_problem,
            plugin_awaited=plugin_awaited,
        )


def device_ids(gpus: Iterable[Gpu]) -> DeviceIds:
    """What the device plugin must advertise for these GPUs: the UUIDs of whole instances, by resource.

    Instances of a GPU that cannot be read are not expected: the plugin cannot read it either.
    """
    ids: dict[str, set[str]] = {}
    for gpu in gpus:
        for instance in gpu.instances:
            if instance.uuid is not None and gpu.profiles:
                ids.setdefault(names.mig_resource(instance.placement.profile), set()).add(instance.uuid)
    return {name: frozenset(uuids) for name, uuids in ids.items()}
