"""The pods of NVIDIA's device plugin by node, and for how long this brain has known and seen Ready each of them.

They are told by the names of their containers, which are the same however the plugin was installed; labels are not, and
NVIDIA's chart puts the plugin's on GPU feature discovery too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from brain.model.node import Plugin
from brain.model.pod import Pod

CONTAINERS: Final = ("nvidia-device-plugin", "nvidia-device-plugin-ctr")
"""The plugin's container as the GPU operator has it, and as NVIDIA's chart and manifest have it."""


class Plugins:
    """Which pod is the device plugin's on each node."""

    def __init__(self, containers: Collection[str]) -> None:
        """A DaemonSet's pod with a container of one of these names is the plugin's."""
        self._containers = frozenset(containers)
        self._pods: defaultdict[str, dict[str, Pod]] = defaultdict(dict)
        self._nodes: dict[str, str] = {}
        self._known_since: dict[str, float] = {}
        self._ready_since: dict[str, float] = {}

    def changed(self, key: str, pod: Pod | None, now: float) -> None:
        """A pod is new, has changed, or is gone (None). ``now`` counts as the moment of what is new of it."""
        node = self._nodes.pop(key, "")
        before = self._pods[node].pop(key) if node else None
        if node and not self._pods[node]:
            del self._pods[node]
        found = pod if pod is not None and pod.node and not pod.ended and self._has(pod) else None
        if before is not None and (found is None or found.uid != before.uid):
            self._known_since.pop(before.uid, None)
            self._ready_since.pop(before.uid, None)
        if found is not None:
            self._nodes[key] = found.node
            self._pods[found.node][key] = found
            self._known_since.setdefault(found.uid, now)
            if found.ready:
                self._ready_since.setdefault(found.uid, now)

    def on(self, node: str) -> Pod | None:
        """The plugin's pod on a node: of several the one that stays, of the highest priority, then the oldest."""
        pods = self._pods.get(node)
        return min(pods.values(), key=_rank) if pods else None

    def seen(self, pod: Pod, now: float) -> Plugin:
        """A pod with the times at which it was first seen, and seen Ready; that it was not, in between, matters not."""
        ready = self._ready_since.get(pod.uid)
        return Plugin(pod, now - self._known_since[pod.uid], 0.0 if ready is None else now - ready)

    def _has(self, pod: Pod) -> bool:
        return pod.daemon is not None and not self._containers.isdisjoint(pod.daemon.containers)


def _rank(pod: Pod) -> tuple[bool, int, int, str]:
    return pod.terminating, -pod.priority, pod.created, pod.key
