"""What one GPU model can hold, with sets of placements as bits: the planner asks the same of many GPUs.

Bit ``i`` of a set stands for ``places[i]``. What a GPU holds though its driver does not list it
gets a bit too: it takes its slots, and is never made.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from brain.model.mig import Geometry, Instance, Placement, Profile, exclusive


class Grid:
    """The placements of one GPU model.

    Attributes:
        profiles: the model's profiles by name.
        places: the placements, those that can be made first, by start.
        conflicts: by placement, the others that cannot exist beside it.
        makeable: the placements that can be made.
        by_resource: by resource, the placements of its profile that can be made.
    """

    def __init__(self, profiles: tuple[Profile, ...]) -> None:
        self.profiles = {profile.name: profile for profile in profiles}
        self.sizes = {profile.resource: profile.size for profile in profiles}
        self.places: list[Placement] = []
        self.conflicts: list[int] = []
        self.by_resource = {profile.resource: 0 for profile in profiles}
        self._masks: list[int] = []
        self._geometries: dict[int, Geometry] = {}
        self._bits: dict[tuple[int, str], int] = {}
        self._worths: dict[int, int] = {}
        self._blocked: dict[int, int] = {0: 0}
        self._on_gpu: dict[tuple[int, int], tuple[tuple[int, Placement]]] = {}
        self._gives: dict[tuple[int, int, bool], frozenset[str]] = {}
        for start, size, name in sorted((start, p.size, p.name) for p in profiles for start in p.starts):
            self.by_resource[self.profiles[name].resource] |= 1 << self._new(start, name, size)
        self.makeable = (1 << len(self.places)) - 1
        self._shapes = sorted({(profile.size, profile.starts) for profile in profiles})
        # Slots alone keep most profiles within their count; those that they do not are looked at.
        self._counted = {p.name: p for p in profiles if p.max_count < len(p.starts) and not p.name.endswith("+me")}

    def bit(self, instance: Instance) -> int:
        """The bit of an instance's placement."""
        known = self._bits.get((instance.start, instance.profile))
        return 1 << (self._new(instance.start, instance.profile, instance.size) if known is None else known)

    def bit_of(self, placement: Placement) -> int:
        """The bit of a placement; the size of one that the driver does not list is taken as one slot."""
        known = self._bits.get((placement.start, placement.profile))
        return 1 << (self._new(placement.start, placement.profile, 1) if known is None else known)

    def placements(self, chosen: int) -> Iterator[Placement]:
        """The placements of a set, those that can be made first, by start."""
        while chosen:
            low = chosen & -chosen
            yield self.places[low.bit_length() - 1]
            chosen ^= low

    def on_gpu(self, index: int, place: int) -> tuple[tuple[int, Placement]]:
        """A GPU's index with one placement, given as a set; always the same object, since so many pods get such."""
        found = self._on_gpu.get((index, place))
        if found is None:
            found = self._on_gpu[index, place] = ((index, self.places[place.bit_length() - 1]),)
        return found

    def geometry(self, chosen: int) -> Geometry:
        """The placements of a set, sorted."""
        found = self._geometries.get(chosen)
        if found is None:
            found = self._geometries[chosen] = tuple(sorted(self.placements(chosen)))
        return found

    def slots(self, chosen: int) -> int:
        """The slots that a set takes, as bits."""
        mask = 0
        while chosen:
            low = chosen & -chosen
            mask |= self._masks[low.bit_length() - 1]
            chosen ^= low
        return mask

    def blocked(self, chosen: int) -> int:
        """The placements that cannot exist beside one of a set; of the set itself, those at odds with each other."""
        found = self._blocked.get(chosen)
        if found is None:
            found, left = 0, chosen
            while left:
                low = left & -left
                found |= self.conflicts[low.bit_length() - 1]
                left ^= low
            self._blocked[chosen] = found
        return found

    def full(self, chosen: int) -> int:
        """The placements of profiles of which a set already has as many as a GPU may hold, slots aside."""
        found = 0
        for profile in self._counted.values():
            places = self.by_resource[profile.resource]
            if (chosen & places).bit_count() >= profile.max_count:
                found |= places
        return found

    def gone(self, kept: int, free: int, chosen: int) -> int:
        """The free placements that must go so that chosen ones can be beside what is kept."""
        found = free & self.blocked(chosen) & ~chosen
        for profile in self._counted.values():
            places = self.by_resource[profile.resource]
            beside = free & places & ~found & ~chosen
            excess = ((kept | chosen) & places).bit_count() + beside.bit_count() - profile.max_count
            while excess > 0 and beside:
                low = beside & -beside
                found |= low
                beside ^= low
                excess -= 1
        return found

    def gives(self, kept: int, free: int, *, change: bool) -> frozenset[str]:
        """The resources of which a GPU can give an instance: a free one, or with ``change`` one to be made."""
        found = self._gives.get((kept, free, change))
        if found is None:
            places = free | (self.makeable & ~(self.blocked(kept) | self.full(kept | free) | kept) if change else 0)
            found = frozenset(name for name, own in self.by_resource.items() if own & places)
            self._gives[kept, free, change] = found
        return found

    def worth(self, chosen: int) -> int:
        """What the slots beside a set could still become; larger profiles weigh more."""
        taken = self.slots(chosen)
        found = self._worths.get(taken)
        if found is None:
            found = sum(
                size * size * sum(1 for start in starts if not (((1 << size) - 1) << start) & taken)
                for size, starts in self._shapes
            )
            self._worths[taken] = found
        return found

    def _new(self, start: int, profile: str, size: int) -> int:
        index = len(self.places)
        mask = ((1 << size) - 1) << start
        against = 0
        for other, placement in enumerate(self.places):
            if self._masks[other] & mask or exclusive([placement.profile, profile]):
                against |= 1 << other
                self.conflicts[other] |= 1 << index
        self.places.append(Placement(start, profile))
        self._masks.append(mask)
        self.conflicts.append(against)
        self._bits[start, profile] = index
        self._blocked = {0: 0}
        return index


@lru_cache(maxsize=256)
def grid(profiles: tuple[Profile, ...]) -> Grid:
    """The grid of the model that has these profiles."""
    return Grid(profiles)
