"""AdmissionReview v1, as far as it is needed: what the API server asks, as values, and the answer it understands.

Nothing is assumed of the objects inside: they are people's, and the webhook also sees what the schema would refuse.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from brain.model import resources
from brain.model.quota import Kind, Quota, spec_problems
from webhook.errors import ReviewError

_API_VERSION: Final = "admission.k8s.io/v1"


class User(msgspec.Struct, frozen=True):
    """Who writes, as a SubjectAccessReview takes it."""

    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """``metadata`` of an object."""

    name: str = ""
    namespace: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Object(msgspec.Struct, frozen=True):
    """A quota of either kind, or a pod."""

    metadata: Metadata = Metadata()
    spec: dict[str, Any] = {}


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """``request`` of an AdmissionReview."""

    uid: str
    operation: str
    namespace: str = ""
    name: str = ""
    user_info: User = User()
    object: Object | None = None
    old_object: Object | None = None

    @property
    def harmless(self) -> bool:
        """Whether it passes without a look: nothing of what is judged changes, or the object goes away."""
        if self.object is None or self.operation not in ("CREATE", "UPDATE"):
            return True
        if self.object.metadata.deletion_timestamp is not None:
            return True
        return self.old_object is not None and self.old_object.spec == self.object.spec


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    request: Request


_REVIEWS: Final = msgspec.json.Decoder(_Review)


class Operation(msgspec.Struct, frozen=True):
    """One operation of a JSON patch (RFC 6902)."""

    op: str
    path: str
    value: object


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server is told.

    Attributes:
        code: HTTP status that its client sees: 200, 403 (the rules refuse it) or 500 (nobody could tell).
        message: why it is refused; empty where it is not.
        warnings: what its client is shown in either case.
        patch: what is changed in the object before it is written.
    """

    code: int = 200
    message: str = ""
    warnings: tuple[str, ...] = ()
    patch: tuple[Operation, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the object may be written."""
        return self.code == 200


def decode(body: bytes) -> Request:
    """The request in an AdmissionReview.

    Raises:
        ReviewError: it is none, or of another version.
    """
    try:
        review = _REVIEWS.decode(body)
    except msgspec.DecodeError as error:
        raise ReviewError(f"not an AdmissionReview of a quota or pod: {error}") from error
    if review.api_version != _API_VERSION:
        raise ReviewError(f"apiVersion is {review.api_version}, expected {_API_VERSION}")
    return review.request


def encode(uid: str, answer: Answer) -> bytes:
    """The AdmissionReview that answers the request with this uid."""
    response: dict[str, object] = {"uid": uid, "allowed": answer.allowed}
    if not answer.allowed:
        reason = "Forbidden" if answer.code == 403 else "InternalError"
        response["status"] = {"code": answer.code, "reason": reason, "message": answer.message}
    if answer.warnings:
        response["warnings"] = answer.warnings
    if answer.patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(answer.patch)).decode()}
    return msgspec.json.encode({"apiVersion": _API_VERSION, "kind": "AdmissionReview", "response": response})


def quota(kind: Kind, found: Object, *, namespace: str = "") -> Quota:
    """A quota as the model has it; what cannot be read in its spec is in its problems.

    Args:
        kind: which of the two.
        found: the object.
        namespace: where it lives, if the object itself does not say.
    """
    home = found.metadata.namespace or namespace
    problems = spec_problems(found.spec)
    namespaces: tuple[str, ...] = (home,)
    if kind is Kind.COMPOSITE:
        listed = found.spec.get("namespaces")
        namespaces = tuple(dict.fromkeys(_texts(listed)))
        if not namespaces:
            problems.append("spec.namespaces: name at least one namespace")
    created = found.metadata.creation_timestamp
    return Quota(
        kind=kind,
        namespace=home,
        name=found.metadata.name,
        namespaces=namespaces,
        min={} if problems else _amounts(found.spec, "min"),
        max={} if problems else _amounts(found.spec, "max"),
        created=int(created.timestamp()) if created else 0,
        problems=tuple(problems),
    )


def _texts(listed: object) -> Iterable[str]:
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def _amounts(spec: Mapping[str, Any], side: str) -> dict[str, int]:
    return resources.parse(spec.get(side) or {})
