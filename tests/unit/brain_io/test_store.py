"""What the store makes of changes, and of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from brain.model.budget import Budget
from brain.model.node import Agent, Node, Plugin, Taint
from brain.model.pod import Daemon, Pod
from brain.observe.store import Store, Table
from n8s import names
from tests.worlds import plugin

PLAIN = Node("n1")
TAINTED = Node("n1", taints=(Taint(names.REPARTITIONING_TAINT),))
INFINITE = float("inf")


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


class Agents:
    def __init__(self, known: Mapping[str, Agent] | None = None) -> None:
        self.known = known or {}

    def agents(self, now: float) -> Mapping[str, Agent]:
        del now
        return self.known


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock)


def seen(store: Store, clock: Clock) -> tuple[float, float]:
    (node,) = store.snapshot(clock.now, Agents()).nodes
    return node.tainted_seconds, node.untainted_seconds


def test_how_long_the_taint_is_seen_and_gone(store: Store, clock: Clock) -> None:
    store.nodes.put("n1", PLAIN)
    assert seen(store, clock) == (0.0, INFINITE)
    store.nodes.put("n1", TAINTED)
    clock.now += 2
    store.nodes.put("n1", Node("n1", unschedulable=True, taints=TAINTED.taints))
    clock.now += 1
    assert seen(store, clock) == (3.0, INFINITE), "another change does not start it anew"
    store.nodes.put("n1", PLAIN)
    clock.now += 5
    assert seen(store, clock) == (0.0, 5.0)
    store.nodes.put("n1", TAINTED)
    assert seen(store, clock) == (0.0, INFINITE)
    store.nodes.replace({})
    store.nodes.put("n1", PLAIN)
    assert seen(store, clock) == (0.0, INFINITE), "another node of that name"


def test_only_what_really_changed_wakes(store: Store) -> None:
    changes: list[tuple[Callable[[], None], bool]] = [
        (lambda: store.pods.put("a/p", Pod("a", "p", "u")), True),
        (lambda: store.pods.put("a/p", Pod("a", "p", "u")), False),
        (lambda: store.pods.put("a/p", Pod("a", "p", "u", phase="Running")), True),
        (lambda: store.pods.replace({"a/p": Pod("a", "p", "u", phase="Running")}), False),
        (lambda: store.pods.replace({}), True),
        (lambda: store.pods.remove("a/p"), False),
        (lambda: store.nodes.put("n1", PLAIN), True),
        (lambda: store.nodes.put("n1", PLAIN), False),
    ]
    for change, wakes in changes:
        store.changed.clear()
        change()
        assert store.changed.is_set() == wakes


def test_a_snapshot_has_the_namespaces_of_its_moment(store: Store, clock: Clock) -> None:
    store.namespaces.put("a", {"k": "v"})
    snapshot = store.snapshot(clock.now, Agents())
    store.namespaces.put("a", {"k": "w"})
    assert snapshot.namespaces == {"a": {"k": "v"}}
    assert store.changed.is_set()


def test_a_snapshot_has_the_jobs_of_several_pods(store: Store, clock: Clock) -> None:
    store.jobs.replace({"a/one": ("job/a/1", 1), "a/two": ("job/a/2", 2)})
    assert store.snapshot(clock.now, Agents()).jobs == {"job/a/2": 2}


def test_a_snapshot_has_the_budgets_and_what_they_allow_wakes(store: Store, clock: Clock) -> None:
    store.budgets.put("a/b", Budget("a", "b", None, 1))
    store.changed.clear()
    store.budgets.put("a/b", Budget("a", "b", None, 1))
    assert not store.changed.is_set()
    store.budgets.put("a/b", Budget("a", "b", None, 0))
    assert store.changed.is_set()
    assert store.snapshot(clock.now, Agents()).budgets == (Budget("a", "b", None, 0),)


def test_a_snapshot_joins_nodes_with_their_agents(store: Store, clock: Clock) -> None:
    store.nodes.replace({"n1": PLAIN, "n2": Node("n2")})
    agent = Agent(connected=True, silent_seconds=0.0, gpus=())
    snapshot = store.snapshot(clock.now, Agents({"n1": agent, "no such node": agent}))
    assert {node.name: node.agent for node in snapshot.nodes} == {"n1": agent, "n2": None}


async def test_synced_once_all_are_listed(store: Store) -> None:
    tables: tuple[Table[Any], ...] = (
        store.namespaces,
        store.jobs,
        store.budgets,
        store.nodes,
        store.pods,
        store.elastic_quotas,
        store.composites,
    )
    for table in tables:
        assert not store.is_synced
        table.replace({})
    assert store.is_synced
    await store.synced()


def test_a_node_at_rest_is_the_same_object_in_each_snapshot() -> None:
    store = Store(lambda: 0.0)
    store.nodes.put("n1", PLAIN)
    agents = Agents({"n1": Agent(connected=True, silent_seconds=0.0, gpus=())})
    (first,) = store.snapshot(1.0, agents).nodes
    assert store.snapshot(2.0, agents).nodes[0] is first
    store.nodes.put("n1", TAINTED)
    assert store.snapshot(3.0, agents).nodes[0].tainted_seconds == 3.0
    store.nodes.put("n1", PLAIN)
    assert store.snapshot(4.0, agents).nodes[0].untainted_seconds == 4.0
    (last,) = store.snapshot(61.0, agents).nodes
    assert last.untainted_seconds == float("inf")
    assert store.snapshot(62.0, agents).nodes[0] is last


def test_how_long_the_device_plugin_of_a_tainted_node_is_known_and_ready(store: Store, clock: Clock) -> None:
    def shown() -> Plugin | None:
        (node,) = store.snapshot(clock.now, Agents()).nodes
        return node.plugin

    def put(pod: Pod) -> None:
        store.pods.put(pod.key, pod)

    old, new = plugin("n1"), plugin("n1", name="plugin-y", uid="uid-plugin-y", created=7)
    store.nodes.put("n1", TAINTED)
    store.pods.replace({old.key: old})
    clock.now += 2
    assert shown() == Plugin(old, INFINITE, INFINITE), "it was Ready before this brain looked"
    leaving = plugin("n1", terminating=True)
    put(leaving)
    assert shown() == Plugin(leaving, INFINITE, INFINITE)
    starting = plugin("n1", name="plugin-y", uid="uid-plugin-y", created=7, ready=False)
    put(starting)
    clock.now += 2
    assert shown() == Plugin(starting, 2.0, 0.0), "the one that stays"
    store.pods.remove(old.key)
    put(new)
    clock.now += 3
    assert shown() == Plugin(new, 5.0, 3.0)
    put(starting)
    put(new)
    clock.now += 1
    assert shown() == Plugin(new, 6.0, 4.0), "for how long it was not, in between, does not matter"
    put(plugin("n1", name="plugin-y", uid="another", created=7))
    assert shown() == Plugin(plugin("n1", name="plugin-y", uid="another", created=7), 0.0, 0.0)
    store.pods.replace({})
    assert shown() is None
    assert not {**store._plugins._known_since, **store._plugins._ready_since}, "nothing stays of pods that are gone"


def test_the_device_plugin_of_a_node_at_rest_is_new_for_a_while(store: Store, clock: Clock) -> None:
    def shown() -> Plugin | None:
        (node,) = store.snapshot(clock.now, Agents()).nodes
        return node.plugin

    store.nodes.put("n1", PLAIN)
    store.pods.replace({})
    found = plugin("n1", ready=False)
    store.pods.put(found.key, found)
    assert shown() == Plugin(found, INFINITE, 0.0)
    found = plugin("n1")
    store.pods.put(found.key, found)
    assert shown() == Plugin(found, 0.0, 0.0)
    clock.now += 4
    assert shown() == Plugin(found, 4.0, 4.0)
    clock.now += 2
    assert shown() == Plugin(found, INFINITE, INFINITE)
    found = plugin("n1", terminating=True)
    store.pods.put(found.key, found)
    assert shown() == Plugin(found, INFINITE, INFINITE)


def test_the_device_plugin_is_told_by_its_container_and_is_a_daemon_sets(clock: Clock) -> None:
    store = Store(clock, ["own"])
    store.nodes.put("n1", PLAIN)
    for name, daemon in {
        "none": None,
        "others": Daemon("x", ("nvidia-device-plugin",)),
        "it": Daemon("y", ("sidecar", "own")),
    }.items():
        store.pods.put(name, plugin("n1", name=name, uid=name, daemon=daemon))
    store.pods.put("ended", plugin("n1", name="ended", uid="ended", daemon=Daemon("y", ("own",)), phase="Failed"))
    store.pods.put("later", plugin("", name="later", uid="later", daemon=Daemon("y", ("own",))))
    (node,) = store.snapshot(clock.now, Agents()).nodes
    assert node.plugin is not None
    assert (node.plugin.pod.name, node.plugin.ready_seconds) == ("it", INFINITE)
    assert store.snapshot(clock.now + 1, Agents()).nodes[0] is node, "at rest"


def test_of_several_device_plugins_the_one_of_the_highest_priority_counts_then_the_oldest(
    store: Store, clock: Clock
) -> None:
    store.nodes.put("n1", PLAIN)
    first = {"priority": 1, "created": 2}
    for name, changes in {"a": {"created": 1}, "b": first | {"created": 3}, "c": first, "d": first}.items():
        store.pods.put(name, plugin("n1", name=name, uid=name, **changes))
    (node,) = store.snapshot(clock.now, Agents()).nodes
    assert node.plugin is not None
    assert node.plugin.pod.name == "c"
