"""The seam to the GPU driver: what the agent needs of it, and the values it speaks in.

A driver reads and changes; it decides nothing, retries nothing and knows neither kubelet nor orders. It turns the
foreign library's ids and errors into these values and :mod:`nodeagent.errors`. Its methods block, so callers put them
in a thread; each leaves the GPU either as it was or as asked, where the hardware lets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Profile:
    """A MIG profile that a GPU can make.

    Attributes:
        name: E.g. ``1g.5gb+me``; unique on one GPU only.
        size: Slots that an instance takes.
        starts: Slots where an instance may start, ascending.
        max_count: The most instances of this profile on one GPU.
        memory_mib: Memory of an instance in MiB; 0 where not known.
    """

    name: str
    size: int
    starts: tuple[int, ...]
    max_count: int
    memory_mib: int


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """Where an instance lies or should lie.

    Attributes:
        start: First slot.
        profile: Profile name.
    """

    start: int
    profile: str

    def __str__(self) -> str:
        return f"{self.profile} at {self.start}"


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance that exists.

    Attributes:
        id: The driver's id of the GPU instance: says nothing of the placement, and is given again after a destroy.
        placement: Profile and first slot.
        size: Slots taken.
        uuid: UUID of the MIG device; None while it has no compute instance, so that nobody can use it.
        processes: Ids of the processes on it; None where the driver cannot tell, so that it counts as used.
    """

    id: int
    placement: Placement
    size: int
    uuid: str | None
    processes: tuple[int, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU as the driver shows it now.

    Attributes:
        index: Number on its node, from 0.
        uuid: ``GPU-...``.
        model: Product name as GPU feature discovery labels the node.
        memory_mib: Memory of the whole GPU in MiB.
        slots: Number of slots that placements count in.
        profiles: What it can make; empty where MIG is off or not supported, or the GPU cannot be read.
        instances: What it holds, by start; as last seen where the GPU cannot be read.
        problem: Why it cannot be partitioned, and what to do about it; empty when it can.
        problem_code: Which problem that is, in a word; see ``n8s/v1/gpu.proto``. Empty where there is none.
    """

    index: int
    uuid: str
    model: str
    memory_mib: int
    slots: int
    profiles: tuple[Profile, ...]
    instances: tuple[Instance, ...]
    problem: str = ""
    problem_code: str = ""

    def profile(self, name: str) -> Profile | None:
        """The profile of that name; None where this GPU cannot make it."""
        return next((profile for profile in self.profiles if profile.name == name), None)


class GpuDriver(Protocol):
    """What the agent asks of a GPU driver."""

    @property
    def name(self) -> str:
        """Name and, where it can be read, version, for people; never raises."""

    def boot_id(self) -> str:
        """Id of the node's current boot; a new one means that all GPU instances are gone."""

    def read(self) -> tuple[Gpu, ...]:
        """All GPUs of the node by index, with profiles, instances and the processes on them.

        What is wrong with one GPU is its ``problem`` and leaves the others alone.

        Raises:
            DriverError: The driver as a whole does not answer.
        """

    def create(self, gpu: int, placement: Placement) -> None:
        """Make a GPU instance at exactly this placement and the compute instance that fills it, both or neither.

        Raises:
            InsufficientResourcesError: Slots taken, or no more of this profile.
            DriverError: Anything else.
        """

    def destroy(self, gpu: int, instance: Instance) -> None:
        """Destroy an instance, with its compute instance where it has one.

        Raises:
            InUseError: A process or handle is open. The compute instance may be gone already.
            NotFoundError: The GPU holds no such instance, or another one under its id.
            DriverError: Anything else.
        """

    def repair(self, gpu: int, instance: Instance) -> None:
        """Make the compute instance that a GPU instance lacks.

        Raises:
            NotFoundError: The GPU holds no such instance, or another one under its id.
            DriverError: Anything else.
        """
