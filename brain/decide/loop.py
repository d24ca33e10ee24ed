"""decide: the one function that the brain's loop calls, from a snapshot to all decisions."""

from __future__ import annotations

from dataclasses import dataclass

from brain.decide.decisions import Decisions
from brain.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator may set of the decisions.

    Attributes:
        gpu_memory_gb: GB that one whole ``nvidia.com/gpu`` counts for in quotas.
        settle_seconds: how long the taint must stand before instances may go: the scheduler assumes a pod
            before its bind shows.
    """

    gpu_memory_gb: int = 32
    settle_seconds: float = 1.0


def decide(snapshot: Snapshot, settings: Settings) -> Decisions:
    """All that follows from a snapshot: geometries, taints, annotations, labels, quota status, events."""
    del snapshot, settings
    return Decisions()
