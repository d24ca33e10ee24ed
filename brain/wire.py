"""Between the wire contract's messages and the model's values, both ways. Pure; loses nothing that both can say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from brain.decide.partition import Plan
from brain.decide.standing import Explanation, Standing
from brain.model import resources
from brain.model.mig import Geometry, Gpu, Holder, Instance, InstanceState, Placement, Profile
from brain.model.node import Agent, Node
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.resources import Resources
from n8s import names
from n8s.v1 import agent_pb2, gpu_pb2, inventory_pb2

_STATES: Final = {
    gpu_pb2.INSTANCE_STATE_FREE: InstanceState.FREE,
    gpu_pb2.INSTANCE_STATE_USED: InstanceState.USED,
    gpu_pb2.INSTANCE_STATE_UNKNOWN: InstanceState.UNKNOWN,
    gpu_pb2.INSTANCE_STATE_BROKEN: InstanceState.BROKEN,
}
_STATES_OUT: Final = {state: number for number, state in _STATES.items()}
_STANDINGS_OUT: Final = {
    Standing.NO_MIG: inventory_pb2.POD_STANDING_NO_MIG,
    Standing.ENDED: inventory_pb2.POD_STANDING_ENDED,
    Standing.GATED: inventory_pb2.POD_STANDING_GATED,
    Standing.BOUND: inventory_pb2.POD_STANDING_BOUND,
    Standing.FITS: inventory_pb2.POD_STANDING_FITS,
    Standing.OVERDUE: inventory_pb2.POD_STANDING_OVERDUE,
    Standing.MAKING_ROOM: inventory_pb2.POD_STANDING_MAKING_ROOM,
    Standing.WAITS: inventory_pb2.POD_STANDING_WAITS,
    Standing.UNTRIED: inventory_pb2.POD_STANDING_UNTRIED,
}
OUTCOMES: Final = {
    agent_pb2.OUTCOME_APPLIED: "applied",
    agent_pb2.OUTCOME_REFUSED: "refused",
    agent_pb2.OUTCOME_IN_USE: "in-use",
    agent_pb2.OUTCOME_FAILED: "failed",
    agent_pb2.OUTCOME_PLUGIN_LATE: "plugin-late",
    agent_pb2.OUTCOME_REPLACED: "replaced",
}
"""Words for how an order ended; one that a newer agent adds counts as ``failed``."""


def gpu_from(message: gpu_pb2.Gpu) -> Gpu:
    """A GPU as an agent reports it. An instance's state that is not known here counts as unknown, thus as used."""
    return Gpu(
        index=message.index,
        model=message.model,
        slots=message.slots,
        profiles=_profiles(tuple(profile.SerializeToString() for profile in message.profiles)),
        instances=tuple(sorted(map(_instance_from, message.instances), key=lambda instance: instance.start)),
        uuid=message.uuid,
        memory_mib=message.memory_mib,
        problem=message.problem,
        problem_code=message.problem_code,
    )


def gpu_to(gpu: Gpu) -> gpu_pb2.Gpu:
    """A GPU as the inventory shows it."""
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
        instances=map(_instance_to, gpu.instances),
        problem=gpu.problem,
        problem_code=gpu.problem_code,
    )


def geometries_to(geometries: Mapping[int, Geometry]) -> list[gpu_pb2.Geometry]:
    """Geometries by GPU index, as orders name them."""
    return [
        gpu_pb2.Geometry(
            index=index,
            placements=[gpu_pb2.Placement(profile=placement.profile, start=placement.start) for placement in geometry],
        )
        for index, geometry in sorted(geometries.items())
    ]


def geometries_from(messages: Iterable[gpu_pb2.Geometry]) -> dict[int, Geometry]:
    """Geometries by GPU index."""
    return {
        message.index: tuple(sorted(Placement(placement.start, placement.profile) for placement in message.placements))
        for message in messages
    }


def node_to(node: Node) -> inventory_pb2.Node:
    """A node as the inventory shows it."""
    agent = node.agent
    return inventory_pb2.Node(
        name=node.name,
        enabled=node.enabled,
        agent=inventory_pb2.AgentStatus() if agent is None else _agent_to(agent),
        repartitioning=node.repartitioning,
        gpus=[] if agent is None else map(gpu_to, agent.gpus),
        ordered=[] if agent is None or agent.ordered is None else geometries_to(agent.ordered),
    )


def node_gpu_to(node: str, gpu: Gpu, *, live: bool) -> inventory_pb2.NodeGpu:
    """A GPU with the node it is in."""
    return inventory_pb2.NodeGpu(node=node, gpu=gpu_to(gpu), live=live)


def explanation_to(explanation: Explanation, plan: Plan) -> inventory_pb2.PodExplanation:
    """How a pod stands, with the plan that it is from."""
    pod, reason = explanation.pod, explanation.reason
    helps = reason.helps if reason is not None else None
    return inventory_pb2.PodExplanation(
        namespace=pod.namespace,
        name=pod.name,
        devices=pod.mig_request,
        standing=_STANDINGS_OUT[explanation.standing],
        text=explanation.text,
        node=explanation.node,
        placements=[
            inventory_pb2.GpuPlacement(
                index=index, placement=gpu_pb2.Placement(profile=placement.profile, start=placement.start)
            )
            for index, placement in explanation.made
        ],
        lacks=[
            inventory_pb2.NodeLack(text=lack.text, nodes=lack.nodes, names=lack.names)
            for lack in (reason.lacks if reason is not None else ())
        ],
        would_help=None if helps is None else inventory_pb2.WouldHelp(node=helps.node, pod=helps.pod),
        deferred=reason is not None and reason.later,
        scheduler_message=pod.scheduler_message,
        round=inventory_pb2.Round(
            waiting=len(plan.assigned) + len(plan.why), served=len(plan.assigned), upper_bound=plan.bound
        ),
        quota=None if explanation.quota is None else _quota_to(explanation.quota, pod),
    )


def _quota_to(quota: Quota, pod: Pod) -> inventory_pb2.PodQuota:
    asked = resources.with_gpu_memory(pod.request, gpu_memory_gb=1)

    def quantity(name: str, amounts: Resources) -> str:
        return resources.quantity(name, amounts[name]) if name in amounts else ""

    return inventory_pb2.PodQuota(
        kind=quota.kind.value,
        namespace=quota.namespace,
        name=quota.name,
        capacity=pod.labels.get(names.CAPACITY_LABEL, ""),
        uses=[
            inventory_pb2.QuotaUse(
                resource=name,
                used=quantity(name, {name: 0, **quota.status.reserved}),
                min=quantity(name, quota.min),
                max=quantity(name, quota.max),
            )
            for name in sorted(quota.named)
            if asked.get(name)
        ],
    )


def _agent_to(agent: Agent) -> inventory_pb2.AgentStatus:
    return inventory_pb2.AgentStatus(
        connected=agent.connected,
        silent_seconds=agent.silent_seconds,
        version=agent.version,
        driver=agent.driver,
        problem=agent.problem,
    )


@lru_cache(maxsize=1024)
def _profiles(messages: tuple[bytes, ...]) -> tuple[Profile, ...]:
    """Profiles from their messages' bytes: one value for all GPUs of a model, however many report it."""
    read = map(gpu_pb2.Profile.FromString, messages)
    return tuple(Profile(each.name, each.size, tuple(each.starts), each.max_count, each.memory_mib) for each in read)


def _instance_from(message: gpu_pb2.Instance) -> Instance:
    holder = message.holder
    return Instance(
        profile=message.profile,
        start=message.start,
        size=message.size,
        state=_STATES.get(message.state, InstanceState.UNKNOWN),
        uuid=message.uuid,
        gpu_instance_id=message.gpu_instance_id,
        holder=Holder(holder.namespace, holder.pod, holder.container) if message.HasField("holder") else None,
        processes=tuple(message.processes),
    )


def _instance_to(instance: Instance) -> gpu_pb2.Instance:
    holder = instance.holder
    return gpu_pb2.Instance(
        profile=instance.profile,
        start=instance.start,
        size=instance.size,
        gpu_instance_id=instance.gpu_instance_id,
        uuid=instance.uuid,
        state=_STATES_OUT[instance.state],
        holder=None
        if holder is None
        else gpu_pb2.Holder(namespace=holder.namespace, pod=holder.pod, container=holder.container),
        processes=instance.processes,
    )
