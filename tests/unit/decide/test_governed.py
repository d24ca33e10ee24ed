"""Which namespaces get the label that has new pods wait for the brain."""

from __future__ import annotations

import pytest

from brain.decide.decisions import LabelNamespace
from brain.decide.governed import left_alone, namespace_labels
from brain.decide.loop import Settings, decide
from brain.model.quota import Kind, Quota
from brain.model.snapshot import Snapshot
from n8s import names

LABELLED = {names.QUOTA_LABEL: "true"}


def single(namespace: str, name: str = "q", *, created: int = 0, problems: tuple[str, ...] = ()) -> Quota:
    return Quota(Kind.SINGLE, namespace, name, (namespace,), min={"cpu": 1000}, created=created, problems=problems)


def composite(*namespaces: str, home: str = "home") -> Quota:
    return Quota(Kind.COMPOSITE, home, "c", namespaces, min={"cpu": 1000})


# (what it shows, quotas, labels by namespace, what is written)
WORLDS: list[tuple[str, list[Quota], dict[str, dict[str, str]], list[LabelNamespace]]] = [
    ("no quota", [], {"a": {}, "b": {"x": "y"}}, []),
    ("a quota", [single("a")], {"a": {}, "b": {}}, [LabelNamespace("a", "true")]),
    ("at rest", [single("a")], {"a": LABELLED, "b": {}}, []),
    ("another value", [single("a")], {"a": {names.QUOTA_LABEL: "yes"}}, [LabelNamespace("a", "true")]),
    ("the quota is gone", [], {"a": LABELLED | {"x": "y"}}, [LabelNamespace("a", None)]),
    (
        "a composite governs what it lists, and not where it lives",
        [composite("a", "b", "not-there-yet")],
        {"home": LABELLED, "a": {}, "b": LABELLED},
        [LabelNamespace("a", "true"), LabelNamespace("home", None)],
    ),
    ("superseded, yet governed", [single("a"), composite("a")], {"a": LABELLED}, []),
    ("of two in conflict one counts", [single("a", "p"), single("a", "q", created=1)], {"a": LABELLED}, []),
    ("one that cannot be read does not count", [single("a", problems=("nonsense",))], {"a": {}}, []),
    (
        "kube-system and the release's are left alone",
        [composite("kube-system", "n8s", "a"), single("kube-system"), single("n8s")],
        {"kube-system": {}, "n8s": LABELLED, "a": {}},
        [LabelNamespace("a", "true")],
    ),
]


@pytest.mark.parametrize(("quotas", "namespaces", "expected"), [pytest.param(*rest, id=what) for what, *rest in WORLDS])
def test_worlds(quotas: list[Quota], namespaces: dict[str, dict[str, str]], expected: list[LabelNamespace]) -> None:
    world = Snapshot(quotas=tuple(quotas), namespaces=namespaces)
    assert list(namespace_labels(world, "n8s")) == expected
    after = namespaces | {each.name: {names.QUOTA_LABEL: each.value} if each.value else {} for each in expected}
    assert not list(namespace_labels(Snapshot(quotas=tuple(quotas), namespaces=after), "n8s")), "at rest after that"


def test_quotas_count_nothing_of_what_is_left_alone() -> None:
    quotas = (composite("kube-system", "a", "n8s"), single("n8s"), single("b"))
    assert [each.namespaces for each in left_alone(quotas, "n8s")] == [("a",), (), ("b",)]
    assert left_alone(quotas[2:], "n8s") == quotas[2:]


def test_it_is_part_of_a_round() -> None:
    world = Snapshot(quotas=(single("a"), single("n8s")), namespaces={"a": {}, "n8s": {}})
    found = [
        each for each in decide(world, Settings(release_namespace="n8s")).decisions if isinstance(each, LabelNamespace)
    ]
    assert found == [LabelNamespace("a", "true")]
