"""Whom other pods keep from a node: each rule in a small world, and all of them against the definition."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brain.decide.neighbours import AFFINITY, ANTI_AFFINITY, OTHERS_ANTI_AFFINITY, Neighbours
from brain.model.affinity import AffinityTerm, LabelSelector, Requirement, SpreadConstraint
from brain.model.node import Node, Taint
from brain.model.pod import NodeSelectorTerm, Pod, Toleration
from brain.model.snapshot import Snapshot
from n8s import names
from tests.examples import examples

SPREAD = "does not satisfy the pod's topology spread over zone"
ALL = LabelSelector()


def app(*values: str) -> LabelSelector:
    return LabelSelector((Requirement("app", "In", values),))


def zone(selector: LabelSelector | None, *namespaces: str, **changes: Any) -> AffinityTerm:
    return AffinityTerm("zone", selector, frozenset(namespaces or ("a",)), **changes)


def even(selector: LabelSelector | None, skew: int = 1, **changes: Any) -> SpreadConstraint:
    return SpreadConstraint("zone", skew, selector, **changes)


def node(name: str, zone_name: str = "", **changes: Any) -> Node:
    labels = {"host": name} | ({"zone": zone_name} if zone_name else {})
    return Node(name, labels=labels | changes.pop("labels", {}), **changes)


def pod(name: str, app_name: str = "", node_name: str = "", **changes: Any) -> Pod:
    plain = Pod("a", name, name, labels={"app": app_name} if app_name else {}, node=node_name)
    return replace(plain, **changes)


# Two zones of two nodes, one node in a zone of its own, and one in none.
NODES = (node("1a", "1"), node("1b", "1"), node("2a", "2"), node("2b", "2"), node("3a", "3"), node("x"))


@dataclass
class World:
    """The pods that stand, the pod that asks, and why each node refuses it; nodes that do not are left out."""

    bound: tuple[Pod, ...]
    asks: Pod
    refused: dict[str, str]
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    nodes: tuple[Node, ...] = NODES


def all_but(reason: str, *names_left: str) -> dict[str, str]:
    return {item.name: reason for item in NODES if item.name not in names_left}


LACKS = "lacks label zone that the pod is to be spread over"
X_IS = {"x": LACKS}
WEB = zone(app("web"))
NOT_TEAM = AffinityTerm("zone", app("web"), frozenset(), LabelSelector((Requirement("app", "NotIn", ("team",)),)))
HOST = AffinityTerm("host", app("db"), frozenset("a"))
TAINTED = tuple(replace(item, taints=(Taint("k"),)) if item.name == "3a" else item for item in NODES)
OURS = tuple(
    replace(item, taints=(Taint(names.REPARTITIONING_TAINT),)) if item.name == "3a" else item for item in NODES
)
NOT_3 = NodeSelectorTerm((Requirement("zone", "NotIn", ("3",)),))

WORLDS = {
    "plain": World((pod("b", "web", "1a"),), pod("p", "web"), {}),
    "affinity: to the zone": World((pod("b", "web", "1a"),), pod("p", affinity=(WEB,)), all_but(AFFINITY, "1a", "1b")),
    "affinity: nobody there": World((), pod("p", affinity=(WEB,)), all_but(AFFINITY)),
    "affinity: first of its kind": World((), pod("p", "web", affinity=(WEB,)), {"x": AFFINITY}),
    "affinity: not the first": World(
        (pod("b", "web", "2a"),), pod("p", "web", affinity=(WEB,)), all_but(AFFINITY, "2a", "2b")
    ),
    "affinity: one outside all domains leaves it the first": World(
        (pod("b", "web", "x"),), pod("p", "web", affinity=(WEB,)), {"x": AFFINITY}
    ),
    "affinity: one on its way out still draws": World(
        (pod("b", "web", "1a", terminating=True),), pod("p", affinity=(WEB,)), all_but(AFFINITY, "1a", "1b")
    ),
    "affinity: one that has ended does not": World(
        (pod("b", "web", "1a", phase="Succeeded"),), pod("p", affinity=(WEB,)), all_but(AFFINITY)
    ),
    "affinity: one pod must match all terms": World(
        (pod("b", "web", "1a"), pod("c", "db", "1a")), pod("p", affinity=(WEB, HOST)), all_but(AFFINITY)
    ),
    "affinity: all terms, each in its domain": World(
        (pod("b", "db", "1a"), pod("c", "db", "2a")),
        pod("p", affinity=(zone(app("db", "web")), HOST)),
        all_but(AFFINITY, "1a", "2a"),
    ),
    "affinity: no selector selects nobody": World(
        (pod("b", "web", "1a"),), pod("p", "web", affinity=(zone(None),)), all_but(AFFINITY)
    ),
    "affinity: an empty selector selects all, itself too": World((), pod("p", affinity=(zone(ALL),)), {"x": AFFINITY}),
    "affinity: pods elsewhere do not count": World(
        (pod("b", "web", "1a", namespace="b"),), pod("p", affinity=(WEB,)), all_but(AFFINITY)
    ),
    "affinity: named namespaces": World(
        (pod("b", "web", "1a", namespace="b"),),
        pod("p", affinity=(zone(app("web"), "b", "c"),)),
        all_but(AFFINITY, "1a", "1b"),
    ),
    "affinity: namespaces by label": World(
        (pod("b", "web", "1a", namespace="b"), pod("c", "web", "2a", namespace="c")),
        pod("p", affinity=(AffinityTerm("zone", app("web"), frozenset(), app("team")),)),
        all_but(AFFINITY, "1a", "1b"),
        {"b": {"app": "team"}, "c": {"app": "other"}},
    ),
    "affinity: all namespaces": World(
        (pod("b", "web", "1a", namespace="b"),),
        pod("p", affinity=(AffinityTerm("zone", app("web"), frozenset(), ALL),)),
        all_but(AFFINITY, "1a", "1b"),
    ),
    "affinity: a namespace that was not seen has its name": World(
        (pod("b", "web", "1a", namespace="b"), pod("c", "web", "2a", namespace="c")),
        pod(
            "p",
            affinity=(
                AffinityTerm(
                    "zone",
                    app("web"),
                    frozenset(),
                    LabelSelector((Requirement("kubernetes.io/metadata.name", "In", ("b",)),)),
                ),
            ),
        ),
        all_but(AFFINITY, "1a", "1b"),
    ),
    "affinity: a namespace selector that some schedulers take for all namespaces": World(
        (pod("b", "web", "1a", namespace="b"), pod("c", "web", "2a", namespace="c")),
        pod("p", affinity=(NOT_TEAM,)),
        all_but(AFFINITY, "2a", "2b"),
        {"b": {"app": "team"}},
    ),
    "affinity: not the first, as some schedulers take it": World(
        (pod("b", "web", "1a", namespace="b"),),
        pod("p", "web", affinity=(NOT_TEAM,)),
        all_but(AFFINITY),
        {"b": {"app": "team"}},
    ),
    "anti-affinity: a namespace selector that some schedulers take for all namespaces": World(
        (pod("b", "web", "1a", namespace="b"),),
        pod("p", anti_affinity=(NOT_TEAM,)),
        {"1a": ANTI_AFFINITY, "1b": ANTI_AFFINITY},
        {"b": {"app": "team"}},
    ),
    "anti-affinity of one that stands: none takes it for all namespaces": World(
        (pod("b", node_name="1a", anti_affinity=(NOT_TEAM,)),), pod("p", "web"), {}, {"a": {"app": "team"}}
    ),
    "affinity: pods on nodes that are not known": World(
        (pod("b", "web", "gone"),), pod("p", affinity=(WEB,)), all_but(AFFINITY)
    ),
    "anti-affinity: out of the zone": World(
        (pod("b", "web", "1a"),), pod("p", anti_affinity=(WEB,)), {"1a": ANTI_AFFINITY, "1b": ANTI_AFFINITY}
    ),
    "anti-affinity: each term alone": World(
        (pod("b", "web", "1a"), pod("c", "db", "2a")),
        pod("p", anti_affinity=(WEB, HOST)),
        {"1a": ANTI_AFFINITY, "1b": ANTI_AFFINITY, "2a": ANTI_AFFINITY},
    ),
    "anti-affinity: without the label there is no domain": World(
        (pod("b", "web", "x"),), pod("p", anti_affinity=(WEB,)), {}
    ),
    "anti-affinity: no selector selects nobody": World(
        (pod("b", "web", "1a"),), pod("p", anti_affinity=(zone(None),)), {}
    ),
    "anti-affinity of one that stands": World(
        (pod("b", node_name="1a", anti_affinity=(WEB,)),),
        pod("p", "web"),
        {"1a": OTHERS_ANTI_AFFINITY, "1b": OTHERS_ANTI_AFFINITY},
    ),
    "anti-affinity of one that stands, against others": World(
        (pod("b", node_name="1a", anti_affinity=(WEB,)),), pod("p", "db"), {}
    ),
    "anti-affinity of one that stands, in another namespace": World(
        (pod("b", node_name="1a", namespace="b", anti_affinity=(zone(app("web"), "b"),)),), pod("p", "web"), {}
    ),
    "anti-affinity of one that stands, by the newcomer's namespace": World(
        (
            pod(
                "b", node_name="1a", anti_affinity=(AffinityTerm("zone", ALL, frozenset(), app("team")),), namespace="b"
            ),
        ),
        pod("p"),
        {"1a": OTHERS_ANTI_AFFINITY, "1b": OTHERS_ANTI_AFFINITY},
        {"a": {"app": "team"}},
    ),
    "anti-affinity of one on its way out": World(
        (pod("b", node_name="1a", terminating=True, anti_affinity=(WEB,)),),
        pod("p", "web"),
        {"1a": OTHERS_ANTI_AFFINITY, "1b": OTHERS_ANTI_AFFINITY},
    ),
    "affinity of one that stands binds nobody": World(
        (pod("b", node_name="1a", affinity=(WEB,), spread=(even(app("web")),)),), pod("p", "web"), {}
    ),
    "spread: the fullest zones are closed": World(
        (pod("b", "web", "1a"), pod("c", "web", "2b")),
        pod("p", "web", spread=(even(app("web")),)),
        X_IS | dict.fromkeys(("1a", "1b", "2a", "2b"), SPREAD),
    ),
    "spread: a pod that does not count itself": World(
        (pod("b", "web", "1a"), pod("c", "web", "1b"), pod("d", "web", "2b")),
        pod("p", spread=(even(app("web")),)),
        X_IS | dict.fromkeys(("1a", "1b"), SPREAD),
    ),
    "spread: skew": World((pod("b", "web", "1a"),), pod("p", "web", spread=(even(app("web"), 2),)), X_IS),
    "spread: too few domains": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a"), pod("d", "web", "3a")),
        pod("p", "web", spread=(even(app("web"), min_domains=4),)),
        X_IS | all_but(SPREAD, "x"),
    ),
    "spread: enough domains": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a"), pod("d", "web", "3a")),
        pod("p", "web", spread=(even(app("web"), min_domains=3),)),
        X_IS,
    ),
    "spread: terminating pods, ended ones and other namespaces do not count": World(
        (
            pod("b", "web", "1a", terminating=True),
            pod("c", "web", "1a", namespace="b"),
            pod("d", "web", "1a", phase="Failed"),
        ),
        pod("p", "web", spread=(even(app("web")),)),
        X_IS,
    ),
    "spread: no selector and an empty one count nobody, but the label must be there": World(
        (pod("b", "web", "1a"), pod("c", "web", "1a")), pod("p", "web", spread=(even(None), even(ALL))), X_IS
    ),
    "spread: a node that the pod cannot use makes no domain": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", node_affinity=(NOT_3,), spread=(even(app("web")),)),
        X_IS,
    ),
    "spread: it does where node affinity is ignored": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", node_affinity=(NOT_3,), spread=(even(app("web"), honor_affinity=False),)),
        X_IS | dict.fromkeys(("1a", "1b", "2a", "2b"), SPREAD),
    ),
    "spread: a node selector limits the domains": World(
        (pod("b", "web", "1a"),),
        pod("p", "web", node_selector={"zone": "1"}, spread=(even(app("web")),)),
        X_IS | {"2a": "", "2b": "", "3a": ""},
    ),
    "spread: pods on nodes that do not count": World(
        (pod("b", "web", "1a"),),
        pod("p", "web", node_selector={"host": "1b"}, spread=(even(app("web")),)),
        X_IS,
    ),
    "spread: a tainted node makes a domain": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", spread=(even(app("web")),)),
        X_IS | dict.fromkeys(("1a", "1b", "2a", "2b"), SPREAD),
        nodes=TAINTED,
    ),
    "spread: not where taints are honored": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", spread=(even(app("web"), honor_taints=True),)),
        X_IS,
        nodes=TAINTED,
    ),
    "spread: a tolerated taint": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", tolerations=(Toleration("k", "Exists"),), spread=(even(app("web"), honor_taints=True),)),
        X_IS | dict.fromkeys(("1a", "1b", "2a", "2b"), SPREAD),
        nodes=TAINTED,
    ),
    "spread: our own taint passes": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", spread=(even(app("web"), honor_taints=True),)),
        X_IS | dict.fromkeys(("1a", "1b", "2a", "2b"), SPREAD),
        nodes=OURS,
    ),
    "spread: only nodes with the labels of all constraints make domains": World(
        (pod("b", "web", "1a"), pod("c", "web", "2a")),
        pod("p", "web", spread=(even(app("web")), SpreadConstraint("rack", 1, None))),
        {"1a": "", "2a": ""}
        | dict.fromkeys(("1b", "2b", "3a"), "lacks label rack that the pod is to be spread over")
        | X_IS,
        nodes=tuple(
            replace(item, labels={**item.labels, "rack": "r"}) if item.name in {"1a", "2a"} else item for item in NODES
        ),
    ),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_rules(world: World) -> None:
    neighbours = Neighbours(Snapshot(world.nodes, (*world.bound, world.asks), namespaces=world.namespaces))
    refused = {item.name: neighbours.refusal(world.asks, item.name) for item in world.nodes}
    assert refused == {item.name: "" for item in world.nodes} | world.refused


def test_what_is_tried_counts_until_it_is_taken_back() -> None:
    first, second = (pod(name, "web", anti_affinity=(WEB,)) for name in ("p", "q"))
    neighbours = Neighbours(Snapshot(NODES, (first, second)))
    neighbours.place(first, "1a")
    assert neighbours.refusal(second, "1b") == ANTI_AFFINITY
    neighbours.remove(first, "1a")
    assert neighbours.refusal(second, "1b") == ""


def test_a_bound_pod_can_be_taken_away() -> None:
    stands, asks = pod("b", "web", "1a"), pod("p", anti_affinity=(WEB,))
    neighbours = Neighbours(Snapshot(NODES, (stands, asks)))
    neighbours.remove(stands, "1a")
    assert neighbours.refusal(asks, "1a") == ""


def test_a_zone_that_gets_emptier_closes_the_others() -> None:
    stands = [pod(f"b{number}", "web", f"{number}a") for number in (1, 2, 3)]
    asks = pod("p", "web", spread=(even(app("web")),))
    neighbours = Neighbours(Snapshot(NODES, (*stands, asks)))
    assert [neighbours.refusal(asks, name) for name in ("1a", "2a", "3a")] == ["", "", ""]
    neighbours.remove(stands[0], "1a")
    assert [neighbours.refusal(asks, name) for name in ("1a", "2a", "3a")] == ["", SPREAD, SPREAD]
    neighbours.place(stands[0], "1b")
    assert [neighbours.refusal(asks, name) for name in ("1a", "2a", "3a")] == ["", "", ""]


# (pods, those that nothing is about)
BYSTANDERS = [
    ((pod("p", "web"), pod("b", "db", "1a")), {"p", "b"}),
    ((pod("p", "web"), pod("b", "db", "1a", affinity=(WEB,), spread=(even(app("web")),))), {"p", "b"}),
    ((pod("p", "web"), pod("b", "db", "1a", anti_affinity=(WEB,))), set()),
    ((pod("p", "web"), pod("o", "other"), pod("q", "db", affinity=(WEB,))), {"o"}),
    ((pod("p", "web", namespace="b"), pod("q", "db", affinity=(WEB,))), {"p"}),
    ((pod("p", "web"), pod("q", "db", spread=(even(None),))), {"p"}),
    ((pod("p", "web"), pod("q", "db", anti_affinity=(zone(None),))), {"p"}),
    ((pod("p", "web"), pod("q", "web", "gone", anti_affinity=(WEB,))), {"p", "q"}),
]


@pytest.mark.parametrize(("pods", "bystanders"), BYSTANDERS)
def test_bystanders(pods: tuple[Pod, ...], bystanders: set[str]) -> None:
    neighbours = Neighbours(Snapshot(NODES, pods))
    assert {item.name for item in pods if neighbours.bystander(item)} == bystanders


# A second implementation, from the definition: it looks at all pods and nodes anew for each question.


def meant(term: AffinityTerm, other: Pod, namespaces: dict[str, dict[str, str]], *, mistaken: bool = False) -> bool:
    """Whether a term means a pod; ``mistaken`` as kubernetes/kubernetes#141526 has it for the pod that is placed."""
    labels = namespaces.get(other.namespace, {"kubernetes.io/metadata.name": other.namespace})
    there = other.namespace in term.namespaces
    if term.namespace_selector is not None:
        there = there or matches(term.namespace_selector, labels)
        there = there or (mistaken and matches(term.namespace_selector, {}))
    return there and matches(term.selector, other.labels)


def matches(selector: LabelSelector | None, labels: Any) -> bool:
    if selector is None:
        return False
    for requirement in selector.requirements:
        has = requirement.key in labels
        among = has and labels[requirement.key] in requirement.values
        wanted = {"In": among, "NotIn": not among, "Exists": has, "DoesNotExist": not has}
        if not wanted[requirement.operator]:
            return False
    return True


def together(term: AffinityTerm, one: Node, other: Node) -> bool:
    key = term.topology_key
    return key in one.labels and key in other.labels and one.labels[key] == other.labels[key]


def suits(asks: Pod, constraint: SpreadConstraint, item: Node) -> bool:
    """Whether a node makes a domain for a constraint; the worlds drawn here have node selectors and one taint only."""
    if any(each.topology_key not in item.labels for each in asks.spread):
        return False
    if constraint.honor_affinity and any(item.labels.get(k) != v for k, v in asks.node_selector.items()):
        return False
    return not (constraint.honor_taints and item.taints and not asks.tolerations)


def definition(world: Snapshot, standing: list[tuple[Pod, Node]], asks: Pod, here: Node) -> bool:
    """Whether the scheduler refuses the node, as its documentation says."""
    namespaces = {name: dict(labels) for name, labels in world.namespaces.items()}
    for constraint in asks.spread:
        if constraint.topology_key not in here.labels:
            return True
        domains = {item.labels[constraint.topology_key]: 0 for item in world.nodes if suits(asks, constraint, item)}
        domain = here.labels[constraint.topology_key]
        for other, where in standing:
            selected = other.namespace == asks.namespace and matches(constraint.selector, other.labels)
            empty = constraint.selector is None or not constraint.selector.requirements
            if selected and not empty and not other.terminating and suits(asks, constraint, where):
                domains[where.labels[constraint.topology_key]] += 1
        least = 0 if len(domains) < constraint.min_domains else min(domains.values(), default=0)
        itself = 1 if matches(constraint.selector, asks.labels) else 0
        if domains.get(domain, 0) + itself - least > constraint.max_skew:
            return True
    if asks.affinity:
        if any(term.topology_key not in here.labels for term in asks.affinity):
            return True
        like = [(o, w) for o, w in standing if all(meant(term, o, namespaces) for term in asks.affinity)]
        near = all(any(together(term, here, where) for _, where in like) for term in asks.affinity)
        anywhere = any(
            term.topology_key in where.labels
            for other, where in standing
            if all(meant(each, other, namespaces, mistaken=True) for each in asks.affinity)
            for term in asks.affinity
        )
        if not near and (anywhere or not all(meant(term, asks, namespaces) for term in asks.affinity)):
            return True
    for other, where in standing:
        for term in asks.anti_affinity:
            if meant(term, other, namespaces, mistaken=True) and together(term, here, where):
                return True
        for term in other.anti_affinity:
            if meant(term, asks, namespaces) and together(term, here, where):
                return True
    return False


def a_selector(rng: random.Random) -> LabelSelector | None:
    if rng.random() < 0.1:
        return None
    operators = ["In", "In", "NotIn", "Exists", "DoesNotExist"]
    made = [
        Requirement(rng.choice(["app", "tier"]), rng.choice(operators), tuple(rng.sample("vw", rng.choice([1, 1, 2]))))
        for _ in range(rng.choice([0, 1, 1, 1, 2]))
    ]
    return LabelSelector(tuple(made))


def some_terms(rng: random.Random) -> tuple[AffinityTerm, ...]:
    return tuple(
        AffinityTerm(
            rng.choice(TOPOLOGIES),
            a_selector(rng),
            frozenset(rng.sample("ab", rng.choice([0, 1, 1, 2]))),
            a_selector(rng) if rng.random() < 0.3 else None,
        )
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2]))
    )


def some_spread(rng: random.Random) -> tuple[SpreadConstraint, ...]:
    return tuple(
        SpreadConstraint(
            topology,
            rng.choice([1, 1, 2]),
            a_selector(rng),
            rng.choice([1, 1, 2, 3]),
            honor_affinity=rng.random() < 0.7,
            honor_taints=rng.random() < 0.5,
        )
        for topology in rng.sample(TOPOLOGIES, rng.choice([0, 1, 1, 2]))
    )


def a_world(rng: random.Random) -> Snapshot:
    """A few nodes, and pods of a few workloads: those of one share what they demand, and may differ in all else."""
    nodes = tuple(
        node(
            f"n{number}",
            rng.choice(["", "1", "2", "3"]),
            labels=rng.choice([{}, {"rack": "1"}, {"rack": "2"}]),
            taints=rng.choice([(), (), (Taint("k"),)]),
        )
        for number in range(rng.randint(2, 5))
    )
    affinities = [some_terms(rng) for _ in range(rng.choice([1, 2]))]
    antis = [some_terms(rng) for _ in range(rng.choice([1, 2]))]
    full = some_spread(rng)
    spreads = [full, rng.choice([full, full[:1], some_spread(rng)])]
    pods = tuple(
        Pod(
            rng.choice("aab"),
            f"p{number}",
            f"p{number}",
            labels={key: rng.choice("vw") for key in ("app", "tier", "serial") if rng.random() < 0.7},
            node=rng.choice(["", "", "", rng.choice(nodes).name, rng.choice(nodes).name, "gone"]),
            phase=rng.choice(["Running", "Running", "Running", "Failed"]),
            terminating=rng.random() < 0.2,
            node_selector=rng.choice([{}, {}, {"zone": "1"}]),
            tolerations=rng.choice([(), (Toleration("k", "Exists"),)]),
            affinity=rng.choice(affinities),
            anti_affinity=rng.choice(antis),
            spread=rng.choice(spreads),
        )
        for number in range(rng.randint(2, 12))
    )
    return Snapshot(nodes, pods, namespaces={name: {"app": rng.choice("vw")} for name in "ab" if rng.random() < 0.7})


TOPOLOGIES = ["zone", "host", "rack"]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=examples(1_000), deadline=None)
def test_as_the_definition_says_whatever_is_placed_and_taken_back(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    world = a_world(rng)
    nodes = {item.name: item for item in world.nodes}
    neighbours = Neighbours(world)
    standing = [(item, nodes[item.node]) for item in world.pods if item.node in nodes and not item.ended]
    asking = [item for item in world.pods if not item.node and not item.ended]
    waiting = list(asking)
    for _ in range(rng.randint(0, 8)):
        if waiting and (rng.random() < 0.6 or not standing):
            newcomer = waiting.pop(rng.randrange(len(waiting)))
            where = rng.choice(world.nodes)
            neighbours.place(newcomer, where.name)
            standing.append((newcomer, where))
        elif standing:
            goes, where = standing.pop(rng.randrange(len(standing)))
            neighbours.remove(goes, where.name)
            if goes in asking:
                waiting.append(goes)
    for item in waiting:
        for here in world.nodes:
            refusal = neighbours.refusal(item, here.name)
            assert bool(refusal) == definition(world, standing, item, here), (refusal, item, here)
            assert not (refusal and neighbours.bystander(item))
