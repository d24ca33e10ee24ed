"""Which quotas are refused beside which others, and how the refusal reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from brain.model.quota import Kind, Quota
from webhook.review import Object, quota
from webhook.rules import Judgement, judge

CASES = json.loads((Path(__file__).parents[2] / "data" / "quota_cases.json").read_text())["cases"]


def single(name: str, namespace: str, *, created: int = 1) -> Quota:
    return Quota(Kind.SINGLE, namespace, name, (namespace,), min={"cpu": 1000}, created=created)


def composite(name: str, *namespaces: str, created: int = 1) -> Quota:
    return Quota(Kind.COMPOSITE, "admin", name, namespaces, min={"cpu": 1000}, created=created)


@pytest.mark.parametrize(
    ("new", "existing", "problems", "warnings"),
    [
        pytest.param(single("a", "x"), [], [], [], id="the first"),
        pytest.param(single("a", "x"), [single("a", "y"), composite("c", "z")], [], [], id="others are elsewhere"),
        pytest.param(
            single("b", "x"),
            [single("a", "x")],
            ["namespace x already has ElasticQuota x/a; change that one, as a namespace has one ElasticQuota at most"],
            [],
            id="a second in the namespace",
        ),
        pytest.param(
            single("b", "x"),
            [composite("c", "w", "x")],
            [
                "namespace x is governed by CompositeElasticQuota admin/c; change that one, or take the namespace out "
                "of it"
            ],
            [],
            id="in a composite's namespace",
        ),
        pytest.param(single("b", "admin"), [composite("c", "w")], [], [], id="where a composite lives is not governed"),
        pytest.param(
            composite("d", "z", "y", "x"),
            [composite("c", "x", "y"), composite("e", "z")],
            [
                "namespaces x, y are governed by CompositeElasticQuota admin/c; a namespace is in one "
                "CompositeElasticQuota at most",
                "namespace z is governed by CompositeElasticQuota admin/e; a namespace is in one "
                "CompositeElasticQuota at most",
            ],
            [],
            id="composites that overlap",
        ),
        pytest.param(
            composite("c", "x", "y"),
            [single("a", "x"), single("a", "z")],
            [],
            [
                "ElasticQuota x/a is superseded: it counts for nothing while CompositeElasticQuota admin/c lists its "
                "namespace"
            ],
            id="a composite over an ElasticQuota",
        ),
    ],
)
def test_a_new_quota_beside_others(new: Quota, existing: list[Quota], problems: list[str], warnings: list[str]) -> None:
    assert judge(new, existing, exists=False) == Judgement(tuple(problems), tuple(warnings))


def test_its_own_old_version_does_not_stand_in_the_way() -> None:
    assert judge(composite("c", "x", "y", "z"), [composite("c", "x", "y")], exists=True) == Judgement()
    assert judge(single("a", "x"), [single("a", "x")], exists=True) == Judgement()


def test_an_update_into_the_namespace_of_a_younger_composite_is_refused() -> None:
    others = [composite("old", "a", created=1), composite("young", "b", created=2)]
    assert (
        "CompositeElasticQuota admin/young"
        in judge(composite("old", "a", "b", created=1), others, exists=True).problems[0]
    )


def test_of_two_written_at_once_the_one_that_counts_can_be_changed_and_the_other_not() -> None:
    counts, other = single("a", "x", created=1), single("b", "x", created=2)
    assert judge(counts, [counts, other], exists=True).problems == ()
    assert "ElasticQuota x/a" in judge(other, [counts, other], exists=True).problems[0]
    assert len(judge(single("c", "x"), [counts, other], exists=False).problems) == 2


def test_what_is_wrong_with_the_spec_itself_comes_first() -> None:
    bad = quota(Kind.SINGLE, Object(spec={"min": {"nvidia.com/gpu": -1}}), namespace="x")
    problems = judge(bad, [single("a", "x")], exists=False).problems
    assert problems[0] == "spec.min[nvidia.com/gpu]: -1 is negative"
    assert len(problems) == 2


def read(case: dict[str, Any]) -> Quota:
    kind = Kind(case["kind"])
    spec = {"min": case["min"], "max": case["max"]}
    if kind is Kind.COMPOSITE:
        spec["namespaces"] = case["namespaces"]
    found = quota(kind, Object(spec=spec), namespace=case["namespaces"][0])
    return Quota(kind, found.namespace, case["name"], found.namespaces, found.min, found.max, problems=found.problems)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"]) for case in CASES if case.get("kind") == "webhook"]
)
def test_worked_cases(case: dict[str, Any]) -> None:
    existing = [read(each) for each in case["quotas"]]
    new = read(case["object"])
    judgement = judge(new, existing, exists=case["operation"] == "UPDATE")
    assert (not judgement.problems) is case["expected"]["allowed"], judgement.problems
    for name in case["expected"].get("superseded", []):
        assert any(f"/{name} is superseded" in warning for warning in judgement.warnings)
