"""What must change on a GPU, and whether the hardware would allow the result. Pure: no driver, no kubelet, no clock.

It does not ask whether an instance may go: that is for the moment before it goes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nodeagent.gpu.driver import Gpu, Instance, Placement


@dataclass(frozen=True, slots=True)
class Change:
    """What brings one GPU to the wanted geometry, in the order in which it must be done.

    Attributes:
        gpu: Index of the GPU.
        destroys: Instances that are not wanted, by start.
        repairs: Wanted instances that lack their compute instance, by start.
        creates: Wanted and not there, by start.
    """

    gpu: int
    destroys: tuple[Instance, ...]
    repairs: tuple[Instance, ...]
    creates: tuple[Placement, ...]

    def __bool__(self) -> bool:
        return bool(self.destroys or self.repairs or self.creates)


def diff(gpu: Gpu, wanted: Sequence[Placement]) -> Change:
    """What to destroy, repair and make so that ``gpu`` holds exactly ``wanted``; all else is left alone."""
    there = {instance.placement for instance in gpu.instances}
    return Change(
        gpu=gpu.index,
        destroys=tuple(instance for instance in gpu.instances if instance.placement not in wanted),
        repairs=tuple(i for i in gpu.instances if i.placement in wanted and i.uuid is None),
        creates=tuple(sorted(placement for placement in wanted if placement not in there)),
    )


def objection(gpus: Mapping[int, Gpu], wanted: Sequence[tuple[int, Sequence[Placement]]]) -> str | None:
    """Why the hardware cannot hold the wanted geometries, given as (GPU index, placements); None when it can."""
    indexes = Counter(index for index, _ in wanted)
    for index, placements in wanted:
        if index not in gpus:
            return f"the node has no GPU {index}"
        if indexes[index] > 1:
            return f"GPU {index} is named {indexes[index]} times"
        reason = gpus[index].problem or _invalid(gpus[index], placements)
        if reason:
            return f"GPU {index}: {reason}"
    return None


def _invalid(gpu: Gpu, placements: Sequence[Placement]) -> str | None:
    """Why a set of placements cannot be on one GPU.

    Intervals must not overlap, each start must be one of the profile's, each profile stays within its maximum count.
    Of instances with media extensions (``+me``) there is one per GPU; beside one that has them all (``+me.all``) only
    profiles without any (``-me``) can be.
    """
    owner: dict[int, Placement] = {}
    counts: Counter[str] = Counter()
    for placement in placements:
        profile = gpu.profile(placement.profile)
        if profile is None:
            return f"{gpu.model} has no profile {placement.profile}"
        if placement.start not in profile.starts:
            return f"{profile.name} cannot start at {placement.start}, only at {list(profile.starts)}"
        for slot in range(placement.start, placement.start + profile.size):
            if slot in owner:
                other = owner[slot]
                return f"{profile.name} at {placement.start} overlaps {other.profile} at {other.start}"
            owner[slot] = placement
        counts[profile.name] += 1
        if counts[profile.name] > profile.max_count:
            return f"{profile.name} can be there {profile.max_count} times at most"
    if any(name.endswith("+me.all") for name in counts):
        rest = [name for name in counts if not name.endswith(("+me.all", "-me"))]
        if rest or sum(count for name, count in counts.items() if name.endswith("+me.all")) > 1:
            return "beside a profile with all media engines only profiles without any can be"
    if sum(count for name, count in counts.items() if name.endswith("+me")) > 1:
        return "only one instance with media extensions can be there"
    return None
