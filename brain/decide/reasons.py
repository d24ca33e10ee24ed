"""Reasons of events: what people search for, each in one place."""

from __future__ import annotations

from typing import Final

REPARTITIONING: Final = "MigRepartitioning"
"""On a pod: room is being made for it."""
NO_ROOM: Final = "MigNoRoom"
"""On a pod: no geometry of any node gives it room now; the message says what it lacks."""
SUFFICIENT: Final = "MigSufficient"
"""On a pod: a node has the MIG devices that it asks for, and it waits for something else; the message says what for."""
LATE_BIND: Final = "MigLateBind"
"""On a pod: it was bound to a node whose GPUs were being changed, later than the settle time covers."""
QUOTA_WAITS: Final = "QuotaWaiting"
"""On a pod of a quota: what it waits for before it is let in or bound."""
RECLAIMED: Final = "QuotaReclaimed"
"""On a pod that is evicted: whose room it is wanted for."""
APPLY_FAILED: Final = "MigApplyFailed"
"""On a node: its agent could not apply an order."""
NOT_OURS: Final = "MigManagerNode"
"""On a node: NVIDIA's mig-manager drives it, so it is left alone."""
GPU_PROBLEM: Final = "MigGpuProblem"
"""On a node: a GPU cannot be partitioned."""
