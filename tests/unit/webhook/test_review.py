"""Reviews as the API server sends them, and what it is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from brain.model.quota import Kind
from webhook import review
from webhook.errors import ReviewError
from webhook.review import Answer, Object


def body(operation: str = "CREATE", **request: Any) -> bytes:
    content = {"uid": "u-1", "operation": operation, "namespace": "x", "name": "q", **request}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": content}).encode()


def obj(spec: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "n8s.nebuly.ai/v1alpha1",
        "metadata": {"name": "q", "namespace": "x", **metadata},
        "spec": spec,
    }


NEW, OLD = {"min": {"cpu": "2"}}, {"min": {"cpu": 2}}


@pytest.mark.parametrize(
    ("request_body", "harmless"),
    [
        (body(object=obj(NEW), oldObject=None), False),
        (body("UPDATE", object=obj(NEW), oldObject=obj(OLD)), False),
        (body("UPDATE", object=obj(NEW, labels={"a": "b"}), oldObject=obj(NEW)), True),
        (body("UPDATE", object=obj(NEW, deletionTimestamp="2026-01-01T00:00:00Z"), oldObject=obj(OLD)), True),
        (body("DELETE", object=None, oldObject=obj(OLD)), True),
    ],
)
def test_what_passes_without_a_look(request_body: bytes, harmless: bool) -> None:
    assert review.decode(request_body).harmless is harmless


def test_who_writes_is_taken_over_whole() -> None:
    user: dict[str, Any] = {"username": "ann", "uid": "7", "groups": ["dev", "ops"], "extra": {"scopes": ["a", "b"]}}
    assert review.decode(body(object=obj(NEW), userInfo=user)).user_info == review.User(**user)


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (b"", "not an AdmissionReview"),
        (b'{"apiVersion": "admission.k8s.io/v1"}', "request"),
        (b'{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "", "operation": "CREATE"}}', "v1beta1"),
        (body(object=obj(["no", "spec"])), "spec"),
    ],
)
def test_what_is_no_review_is_refused(request_body: bytes, message: str) -> None:
    with pytest.raises(ReviewError, match=message):
        review.decode(request_body)


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        (Answer(), {"allowed": True}),
        (Answer(warnings=("careful",)), {"allowed": True, "warnings": ["careful"]}),
        (Answer(403, "no"), {"allowed": False, "status": {"code": 403, "reason": "Forbidden", "message": "no"}}),
        (Answer(500, "?"), {"allowed": False, "status": {"code": 500, "reason": "InternalError", "message": "?"}}),
    ],
)
def test_answers(answer: Answer, response: dict[str, Any]) -> None:
    told = json.loads(review.encode("u-1", answer))
    assert told == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "u-1"} | response,
    }


@pytest.mark.parametrize(
    ("kind", "spec", "problem"),
    [
        (Kind.SINGLE, {}, "spec.min: name at least one resource"),
        (
            Kind.SINGLE,
            {"min": {"nvidia.com/gpu": 4}, "max": {"nvidia.com/gpu": 2}},
            "spec.min[nvidia.com/gpu]: 4 is more",
        ),
        (Kind.SINGLE, {"min": {"n8s.nebuly.ai/gpu-memory": "1500m"}}, "must be a whole number"),
        (Kind.SINGLE, {"min": {"cpu": "much"}}, "is not a Kubernetes quantity"),
        (Kind.COMPOSITE, {"min": {"cpu": 1}}, "spec.namespaces: name at least one namespace"),
        (Kind.COMPOSITE, {"min": {"cpu": 1}, "namespaces": "x"}, "spec.namespaces: name at least one namespace"),
    ],
)
def test_what_cannot_be_read_is_a_problem(kind: Kind, spec: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in review.quota(kind, Object(spec=spec), namespace="x").problems)


def test_a_quota_is_read_whole() -> None:
    spec = {"min": {"cpu": "500m", "nvidia.com/gpu": 2}, "max": {"cpu": 1}, "namespaces": ["b", "a", "b"]}
    found = review.decode(body(object=obj(spec, creationTimestamp="1970-01-01T00:01:00Z"))).object
    assert found is not None
    quota = review.quota(Kind.COMPOSITE, found)
    assert (quota.namespace, quota.name, quota.namespaces) == ("x", "q", ("b", "a"))
    assert (quota.min, quota.max, quota.created) == ({"cpu": 500, "nvidia.com/gpu": 2}, {"cpu": 1000}, 60)
