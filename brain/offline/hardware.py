"""GPUs as the catalogue knows them, for worlds that no agent describes."""

from __future__ import annotations

from brain.model.mig import Gpu, Instance, Profile
from n8s import catalogue


def gpu(model: catalogue.GpuModel, product: str, index: int, instances: tuple[Instance, ...]) -> Gpu:
    """A GPU of a model that holds some instances."""
    placed = tuple(sorted(instances, key=lambda instance: instance.start))
    return Gpu(index, product, model.memory_slices, profiles(model), placed)


def profiles(model: catalogue.GpuModel) -> tuple[Profile, ...]:
    """The profiles of a model."""
    return tuple(
        Profile(profile.name, profile.size, profile.starts, profile.max_count, profile.memory_mib or 0)
        for profile in model.profiles
    )
