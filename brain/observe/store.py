"""What the brain knows of the cluster now, and the snapshots made of it.

Objects are converted once, when they change; a snapshot only joins them with what the agents say. A change that
leaves the model's value as it was (most of a kubelet's heart-beats) wakes nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final, Generic, Protocol, TypeVar

from brain.model.budget import Budget
from brain.model.node import NEW_SECONDS, Agent, Node, Plugin
from brain.model.pod import Pod
from brain.model.quota import Quota
from brain.model.snapshot import Snapshot
from brain.observe.plugins import CONTAINERS, Plugins

T = TypeVar("T")

OPENED_SECONDS: Final = 60.0
"""A taint that went longer ago than this counts as one never seen."""


class Agents(Protocol):
    """What the agents say."""

    def agents(self, now: float) -> Mapping[str, Agent]:
        """By node name, at a moment of the monotonic clock."""


class Table(Generic[T]):
    """The current objects of one resource, by key."""

    def __init__(self, changed: Callable[[str, T | None], None]) -> None:
        """``changed`` is told the key and the new value (None: gone) of each that really changed."""
        self.values: dict[str, T] = {}
        self.synced = asyncio.Event()
        self._changed = changed

    def replace(self, values: Mapping[str, T]) -> None:
        """These are all that there are."""
        for key in self.values.keys() - values.keys():
            self.remove(key)
        for key, value in values.items():
            self.put(key, value)
        self.synced.set()

    def put(self, key: str, value: T) -> None:
        """One is new or has changed."""
        if self.values.get(key) != value:
            self.values[key] = value
            self._changed(key, value)

    def remove(self, key: str) -> None:
        """One is gone."""
        if self.values.pop(key, None) is not None:
            self._changed(key, None)


class Store:
    """The cluster as the API server shows it.

    Attributes:
        namespaces: labels of namespaces.
        jobs: the group of each Job's pods, and how many of them it wants at once.
        budgets: PodDisruptionBudgets.
        nodes: nodes, without what their agents say.
        pods: pods.
        elastic_quotas: quotas of one namespace.
        composites: quotas of several.
        changed: set at each change; who waits for it clears it.
    """

    def __init__(self, clock: Callable[[], float], plugin_containers: Collection[str] = CONTAINERS) -> None:
        """``clock`` is monotonic, in seconds; ``plugin_containers`` are names of the device plugin's container."""
        self.changed = asyncio.Event()
        self.namespaces: Table[Mapping[str, str]] = Table(self._wake)
        self.jobs: Table[tuple[str, int]] = Table(self._wake)
        self.budgets: Table[Budget] = Table(self._wake)
        self.nodes: Table[Node] = Table(self._node_changed)
        self.pods: Table[Pod] = Table(self._pod_changed)
        self.elastic_quotas: Table[Quota] = Table(self._wake)
        self.composites: Table[Quota] = Table(self._wake)
        self._clock = clock
        self._tainted_since: dict[str, float] = {}
        self._untainted_since: dict[str, float] = {}
        self._plugins = Plugins(plugin_containers)
        self._at_rest: dict[str, tuple[Node, Agent | None, Pod | None, Node]] = {}

    async def synced(self) -> None:
        """Returns once each resource has been listed."""
        for synced in self._synced:
            await synced.wait()

    @property
    def is_synced(self) -> bool:
        """Whether each resource has been listed."""
        return all(synced.is_set() for synced in self._synced)

    @property
    def _synced(self) -> tuple[asyncio.Event, ...]:
        return (
            self.namespaces.synced,
            self.jobs.synced,
            self.budgets.synced,
            self.nodes.synced,
            self.pods.synced,
            self.elastic_quotas.synced,
            self.composites.synced,
        )

    def snapshot(self, now: float, agents: Agents) -> Snapshot:
        """The cluster at a moment of the monotonic clock."""
        known = agents.agents(now)
        return Snapshot(
            nodes=tuple(self._joined(node, known.get(node.name), now) for node in self.nodes.values.values()),
            pods=tuple(self.pods.values.values()),
            quotas=(*self.elastic_quotas.values.values(), *self.composites.values.values()),
            namespaces=dict(self.namespaces.values),
            jobs={group: wanted for group, wanted in self.jobs.values.values() if wanted > 1},
            budgets=tuple(self.budgets.values.values()),
        )

    def _joined(self, node: Node, agent: Agent | None, now: float) -> Node:
        """A node with what its agent says; the same object again, while neither changes and no time matters."""
        tainted = self._tainted_since.get(node.name)
        untainted = self._untainted_since.get(node.name)
        if untainted is not None and now - untainted > OPENED_SECONDS:
            del self._untainted_since[node.name]
            untainted = None
        pod = self._plugins.on(node.name)
        plugin = None if pod is None else self._plugins.seen(pod, now)
        new = plugin is not None and plugin.pod.ready and plugin.ready_seconds < NEW_SECONDS
        if tainted is not None or untainted is not None or new:
            return node.seen(
                agent,
                plugin,
                0.0 if tainted is None else now - tainted,
                float("inf") if untainted is None else now - untainted,
            )
        known = self._at_rest.get(node.name)
        if known is None or known[0] is not node or known[1] is not agent or known[2] is not pod:
            if pod is not None:
                plugin = Plugin(pod, float("inf"), float("inf") if pod.ready else 0.0)
            known = self._at_rest[node.name] = (node, agent, pod, node.seen(agent, plugin, 0.0, float("inf")))
        return known[3]

    def _node_changed(self, name: str, node: Node | None) -> None:
        if node is None:
            self._tainted_since.pop(name, None)
            self._untainted_since.pop(name, None)
            self._at_rest.pop(name, None)
        elif node.repartitioning:
            self._tainted_since.setdefault(name, self._clock())
            self._untainted_since.pop(name, None)
        elif self._tainted_since.pop(name, None) is not None:
            self._untainted_since[name] = self._clock()
        self.changed.set()

    def _pod_changed(self, key: str, pod: Pod | None) -> None:
        # What is Ready as the pods are listed first has been so for nobody knows how long.
        self._plugins.changed(key, pod, self._clock() if self.pods.synced.is_set() else float("-inf"))
        self.changed.set()

    def _wake(self, _key: str, _value: object) -> None:
        self.changed.set()
