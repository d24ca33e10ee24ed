"""The agent's driver for simulated hardware: the same steps that NVML wants, on :class:`SimulatedNode`.

It adds nothing to what the hardware can do.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.errors import DriverError, GpuLostError, InvalidArgumentError, NotFoundError
from nodeagent.gpu.driver import Gpu, Instance, Placement, Profile

if TYPE_CHECKING:
    from n8s.catalogue import GpuModel
    from nodeagent.gpu.simulated import SimulatedGpu, SimulatedNode


class SimulatedDriver:
    """A :class:`nodeagent.gpu.driver.GpuDriver` on simulated hardware."""

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node
        self._seen: dict[int, Gpu] = {}

    @property
    def name(self) -> str:
        """See :class:`GpuDriver`."""
        return "simulated"

    def boot_id(self) -> str:
        """See :class:`GpuDriver`."""
        return self._node.boot_id

    def read(self) -> tuple[Gpu, ...]:
        """See :class:`GpuDriver`. Memory of a whole GPU is that of its largest profile."""
        gpus = self._node.gpus()
        self._seen |= {gpu.index: _gpu(gpu) for gpu in gpus if not gpu.lost}
        return tuple(self._lost(gpu.index) if gpu.lost else self._seen[gpu.index] for gpu in gpus)

    def _lost(self, index: int) -> Gpu:
        """A lost GPU as it was seen last, with nobody knowing who uses it; all but its index if it never was."""
        seen = self._seen.get(index) or Gpu(index, "", "", 0, 0, (), ())
        instances = tuple(replace(one, processes=None) for one in seen.instances)
        problem = GpuLostError(index, "GPU is lost").reason
        return replace(seen, profiles=(), instances=instances, problem=problem, problem_code=GpuLostError.code)

    def create(self, gpu: int, placement: Placement) -> None:
        """See :class:`GpuDriver`."""
        instance = self._node.create_gpu_instance(gpu, self._profile_id(gpu, placement.profile), placement.start)
        try:
            self._node.create_compute_instance(gpu, instance)
        except DriverError:
            with suppress(DriverError):  # what cannot be removed is reported as broken
                self._node.destroy_gpu_instance(gpu, instance)
            raise

    def destroy(self, gpu: int, instance: Instance) -> None:
        """See :class:`GpuDriver`."""
        if self._meant(gpu, instance).uuid is not None:
            self._node.destroy_compute_instance(gpu, instance.id)
        self._node.destroy_gpu_instance(gpu, instance.id)

    def repair(self, gpu: int, instance: Instance) -> None:
        """See :class:`GpuDriver`."""
        if self._meant(gpu, instance).uuid is None:
            self._node.create_compute_instance(gpu, instance.id)

    def _meant(self, gpu: int, instance: Instance) -> Instance:
        """The instance as it is now, if it is still the one that was meant: ids are given again."""
        gpus = self.read()
        if gpu >= len(gpus):
            raise InvalidArgumentError(gpu, "no such GPU")
        for now in gpus[gpu].instances:
            if (now.id, now.placement) == (instance.id, instance.placement) and now.uuid in {None, instance.uuid}:
                return now
        raise NotFoundError(gpu, f"GPU instance {instance.id} is not {instance.placement} any more")

    def _profile_id(self, gpu: int, name: str) -> int:
        gpus = self._node.gpus()
        profile = gpus[gpu].model.profile(name) if gpu < len(gpus) else None
        if profile is None:
            raise InvalidArgumentError(gpu, f"no profile {name}")
        return self._node.profile_info(gpu, profile.nvml_profile).id


def _gpu(gpu: SimulatedGpu) -> Gpu:
    instances = (
        Instance(
            id=instance.id,
            placement=Placement(instance.start, profile.name),
            size=profile.size,
            uuid=instance.uuid,
            processes=instance.processes,
        )
        for instance in gpu.instances
        for profile in gpu.model.profiles
        if profile.id == instance.profile_id
    )
    return Gpu(
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.model.product_names[0],
        memory_mib=gpu.model.largest.memory_mib or 0,
        slots=gpu.model.memory_slices,
        profiles=_profiles(gpu.model),
        instances=tuple(sorted(instances, key=lambda instance: instance.placement)),
    )


def _profiles(model: GpuModel) -> tuple[Profile, ...]:
    return tuple(
        Profile(profile.name, profile.size, profile.starts, profile.max_count, profile.memory_mib or 0)
        for profile in model.profiles
    )
