"""What the agent sees of its node, for a person: ``n8s-agent inspect`` prints it, as a table or as JSON.

It shows the state that the brain would be sent, and where the driver's profiles differ from the built-in catalogue.
It is made of one look, needs no brain, and changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from n8s import catalogue
from n8s.v1 import gpu_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.gpu.driver import Gpu, Profile
    from nodeagent.node import NodeView


def as_json(driver: str, view: NodeView) -> str:
    """The driver's name, the state as the wire has it, and by GPU index the differences from the catalogue."""
    state: dict[str, Any] = json_format.MessageToDict(
        view.state(applying=0), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    differences = {gpu.index: list(differences_from_catalogue(gpu)) for gpu in view.gpus}
    told = {"driver": driver, "state": state, "differences_from_catalogue": differences}
    return json.dumps(told, indent=2)


def as_table(driver: str, view: NodeView) -> str:
    """The same for reading."""
    return "\n".join(_lines(driver, view))


def differences_from_catalogue(gpu: Gpu) -> Iterator[str]:
    """What the driver says otherwise than the built-in catalogue; nothing for a GPU without profiles.

    The driver is right: the catalogue serves planning offline and simulation.
    """
    known = catalogue.lookup(gpu.model)
    if not gpu.profiles:
        return
    if known is None:
        yield f"the catalogue does not know {gpu.model}"
        return
    for profile in gpu.profiles:
        listed = known.profile(profile.name)
        if listed is None:
            yield f"{_placements(profile)}: not in the catalogue"
        elif (profile.size, profile.starts, profile.max_count) != (listed.size, listed.starts, listed.max_count):
            there = f"at {','.join(map(str, listed.starts))} of {listed.size}, {listed.max_count} times"
            yield f"{_placements(profile)}: the catalogue has it {there}"
    for name in sorted({listed.name for listed in known.profiles} - {profile.name for profile in gpu.profiles}):
        yield f"{name}: in the catalogue only"


def _lines(driver: str, view: NodeView) -> Iterator[str]:
    yield f"driver  {driver}"
    if view.problem:
        yield f"problem  {view.problem}"
    for gpu in view.state(applying=0).gpus:
        known = [
            gpu.model or "of unknown model",
            gpu.uuid,
            f"{gpu.memory_mib} MiB" if gpu.memory_mib else "",
            f"{gpu.slots} slots" if gpu.slots else "",
        ]
        yield "  ".join([f"GPU {gpu.index}", *filter(None, known)])
        if gpu.problem:
            yield f"  problem  {gpu.problem}"
        for instance in gpu.instances:
            yield f"  holds    {_instance(instance)}"
        seen = next(one for one in view.gpus if one.index == gpu.index)
        for profile in seen.profiles:
            yield f"  can make {_placements(profile)}"
        for difference in differences_from_catalogue(seen):
            yield f"  differs  {difference}"
    for name in sorted(view.allocatable):
        yield f"kubelet  {name}: {len(view.allocatable[name])} devices"


def _instance(instance: gpu_pb2.Instance) -> str:
    state = gpu_pb2.InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_").lower()
    users = [f"process {pid}" for pid in instance.processes]
    if instance.HasField("holder"):
        users.append(f"pod {instance.holder.namespace}/{instance.holder.pod} (container {instance.holder.container})")
    device = instance.uuid or "no MIG device"
    where = f"{instance.profile} at {instance.start}"
    return "  ".join([f"{where:<18}", f"{state:<7}", device, *([", ".join(users)] if users else [])])


def _placements(profile: Profile) -> str:
    starts = ",".join(map(str, profile.starts))
    return f"{profile.name:<14} at {starts} of {profile.size}, {profile.max_count} times, {profile.memory_mib} MiB each"
