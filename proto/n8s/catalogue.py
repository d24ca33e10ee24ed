"""The GPU models that are known without hardware: their MIG profiles, sizes and placements.

Serves simulation, planning offline and tests. On a real node the driver's own answer counts, not this table, so a
model that is missing here still works. It refuses to guess: a model or profile for which a fact that placement needs
could not be sourced is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """One MIG profile of one GPU model. Names and ids mean nothing without the model.

    Attributes:
        name: E.g. ``1g.5gb`` or ``1g.5gb+me``.
        nvml_profile: NVML's enum, which asks for the profile (``nvmlDeviceGetGpuInstanceProfileInfo``), 0..0x11.
        id: NVML's profile id, which every other call takes (19 for ``1g.5gb``); differs from the enum.
        size: Slots that an instance takes.
        starts: Slots where an instance may start, ascending.
        max_count: The most instances of this profile on one GPU.
        memory_mib: Memory of an instance in MiB; None where not known.
    """

    name: str
    nvml_profile: int
    id: int
    size: int
    starts: tuple[int, ...]
    max_count: int
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One GPU model.

    Attributes:
        key: Name within this table, e.g. ``A100-40GB``.
        product_names: Values of the label ``nvidia.com/gpu.product``; the first is the usual one.
        memory_slices: Slots that placements count in: 8, 4 or 12.
        profiles: By NVML enum, ascending.
    """

    key: str
    product_names: tuple[str, ...]
    memory_slices: int
    profiles: tuple[GpuProfile, ...]

    def profile(self, name: str) -> GpuProfile | None:
        """The profile of that name, e.g. ``3g.20gb``; None where this model has none."""
        return next((profile for profile in self.profiles if profile.name == name), None)

    @property
    def largest(self) -> GpuProfile:
        """The plain profile that takes the whole GPU: 7g, or 4g on parts with four compute slices."""
        return max(self.profiles, key=lambda profile: (profile.size, -profile.nvml_profile))


@cache
def models() -> Mapping[str, GpuModel]:
    """All models whose placements are known, by key."""
    table = json.loads(files("n8s").joinpath("mig_models.json").read_text(encoding="utf-8"))
    return MappingProxyType(
        {key: _model(key, entry) for key, entry in table.items() if entry["memory_slices"] is not None}
    )


def lookup(name: str) -> GpuModel | None:
    """The model of that key (``A100-40GB``) or product name (``NVIDIA-A100-SXM4-40GB``); None where unknown."""
    return models().get(name) or next((model for model in models().values() if name in model.product_names), None)


def _model(key: str, entry: dict[str, Any]) -> GpuModel:
    profiles = [
        GpuProfile(
            name=fact["name"],
            nvml_profile=fact["nvml_profile"],
            id=fact["smi_id"],
            size=fact["size"],
            starts=tuple(sorted(fact["placements"])),
            max_count=fact["max_count"],
            memory_mib=fact["memory_mib"],
        )
        for fact in entry["profiles"]
        if None not in (fact["nvml_profile"], fact["smi_id"], fact["size"], fact["placements"], fact["max_count"])
    ]
    return GpuModel(
        key=key,
        product_names=tuple(entry["product_names"]),
        memory_slices=entry["memory_slices"],
        profiles=tuple(sorted(profiles, key=lambda profile: profile.nvml_profile)),
    )
