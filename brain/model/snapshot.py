"""A cluster at one moment: the only input of the decisions."""

from __future__ import annotations

from dataclasses import dataclass

from brain.model.node import Node
from brain.model.pod import Pod
from brain.model.quota import Quota


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the brain knows at one moment. The order within the tuples means nothing."""

    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    quotas: tuple[Quota, ...] = ()
