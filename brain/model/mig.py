"""What a GPU with MIG is: profiles, placements, instances, and which sets of them the hardware allows.

A set of instances is valid when their slots do not overlap, each starts where its profile may start, each profile
stays within its maximum count, and media-extension variants do not exclude each other. Counts alone say nothing
(NVIDIA MIG user guide; nvml.h on ``+me`` and ``+me.all``).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from n8s import names

LOST: Final = "gpu-lost"
"""The agent's word for a GPU that its driver does not reach."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A GPU instance profile of one GPU model.

    Attributes:
        name: e.g. ``1g.5gb`` or ``1g.5gb+me``; unique on one model only.
        size: slots that an instance takes.
        starts: slots where an instance may start.
        max_count: most instances on one GPU.
        memory_mib: memory of an instance in MiB; 0 where that is not known.
    """

    name: str
    size: int
    starts: tuple[int, ...]
    max_count: int
    memory_mib: int = 0

    @property
    def resource(self) -> str:
        """The Kubernetes resource that the device plugin advertises for it."""
        return names.mig_resource(self.name)


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """Where an instance lies: the profile's size in slots from ``start``. Ordered by start."""

    start: int
    profile: str


Geometry = tuple[Placement, ...]
"""All instances that one GPU holds or should hold, sorted."""


class InstanceState(enum.Enum):
    """Whether an instance may be destroyed. All but FREE and BROKEN stay where they are."""

    FREE = "free"
    USED = "used"
    UNKNOWN = "unknown"
    BROKEN = "broken"
    """A GPU instance without compute instance: nobody can use it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The container that an instance is given to."""

    namespace: str
    pod: str
    container: str

    @property
    def key(self) -> str:
        """Key of its pod."""
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance with the compute instance that fills it.

    Attributes:
        profile: profile name.
        start: first slot.
        size: slots taken.
        state: whether it may be destroyed.
        uuid: MIG UUID, new at each creation; empty while broken.
        gpu_instance_id: the driver's id; says nothing about the placement.
        holder: the container that has it, by the kubelet's account.
        processes: process ids on it, by the driver's account.
    """

    profile: str
    start: int
    size: int
    state: InstanceState = InstanceState.FREE
    uuid: str = ""
    gpu_instance_id: int = 0
    holder: Holder | None = None
    processes: tuple[int, ...] = ()

    @property
    def placement(self) -> Placement:
        """Where it lies."""
        return Placement(self.start, self.profile)

    @property
    def fixed(self) -> bool:
        """Whether it must stay: used, or not known to be free."""
        return self.state in {InstanceState.USED, InstanceState.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU.

    Attributes:
        index: on its node, from 0.
        model: product name as GPU feature discovery labels it.
        slots: length of the placement grid (8, 4 or 12).
        profiles: what its driver can make; empty where MIG is off.
        instances: what exists, by start.
        uuid: the driver's UUID.
        memory_mib: memory of the whole GPU in MiB.
        problem: why it cannot be partitioned, and what to do about it; empty when it can.
        problem_code: which problem that is, in the agent's word; empty where there is none.
    """

    index: int
    model: str
    slots: int
    profiles: tuple[Profile, ...]
    instances: tuple[Instance, ...]
    uuid: str = ""
    memory_mib: int = 0
    problem: str = ""
    problem_code: str = ""

    @property
    def lost(self) -> bool:
        """Whether its driver does not reach it any more; what it holds is as it was seen last."""
        return self.problem_code == LOST

    @property
    def geometry(self) -> Geometry:
        """The placements that exist."""
        return tuple(sorted(instance.placement for instance in self.instances))


def exclusive(profiles: Iterable[str]) -> bool:
    """Whether media-extension variants among these profiles exclude each other on one GPU.

    One instance with ``+me`` at most; ``+me.all`` takes every media engine, so only ``-me`` profiles stand beside it.
    """
    listed = list(profiles)
    if any(name.endswith("+me.all") for name in listed):
        return sum(not name.endswith("-me") for name in listed) > 1
    return sum(name.endswith("+me") for name in listed) > 1


def invalid(profiles: Mapping[str, Profile], geometry: Iterable[Placement]) -> str:
    """Why the hardware refuses a set of placements; empty when it takes it."""
    listed = sorted(geometry)
    end = 0
    for placement in listed:
        profile = profiles.get(placement.profile)
        if profile is None:
            return f"no profile {placement.profile} on this GPU"
        if placement.start not in profile.starts:
            return f"{profile.name} cannot start at slot {placement.start}, only at {profile.starts}"
        if placement.start < end:
            return f"{profile.name} at slot {placement.start} overlaps the instance before it"
        end = placement.start + profile.size
    for name, count in Counter(placement.profile for placement in listed).items():
        if count > profiles[name].max_count:
            return f"{count} instances of {name}, at most {profiles[name].max_count} fit"
    if exclusive(placement.profile for placement in listed):
        return "media-extension profiles exclude each other"
    return ""
