"""Quota questions as files hold them: what a document may say, and what of it cannot be understood.

Whole numbers are in the units of :mod:`brain.model.resources` (``cpu`` in milli-CPU); texts are Kubernetes quantities.
Fields that are not known are left alone, but not where one looks like a known one misspelt, or may hold an amount.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import msgspec

from brain.model.quota import Kind, Quota
from brain.offline import asked
from brain.offline.errors import WHOLE, InputError

GPU_MEMORY_GB: Final = 16
"""What one whole GPU counts for where the document does not say."""


class Amounts(dict[str, int]):
    """Amounts by resource, none of them negative."""


class Request(Amounts):
    """What a pod asks for, as the scheduler counts it: stated in all, or by container."""


class StatedQuota(msgspec.Struct, frozen=True):
    """A quota. What it may say of amounts is one of the questions: see :func:`brain.offline.asked.amounts`.

    Attributes:
        namespace: where a composite lives, if that is said.
        created: the lowest is the oldest; where it is not said, its place in the list.
        deletion_timestamp: anything, of one that is being deleted.
    """

    name: str
    kind: Kind
    namespaces: list[str] = []
    min: Any = {}
    max: Any = {}
    namespace: str = ""
    created: int | None = None
    deletion_timestamp: Any = None

    @property
    def home(self) -> str:
        """The namespace that it lives in, as far as that is known."""
        first = self.namespaces[0] if self.namespaces else ""
        return first if self.kind is Kind.SINGLE else self.namespace or first

    def quota(self, age: int, problems: Iterable[str]) -> Quota:
        """It as the model has it, without its amounts; ``age`` is its place among others."""
        created = age if self.created is None else self.created
        namespaces = tuple(dict.fromkeys(self.namespaces))
        return Quota(self.kind, self.home, self.name, namespaces, created=created, problems=tuple(problems))

    def is_of(self, other: StatedQuota) -> bool:
        """Whether it is a version of the same object."""
        if (self.kind, self.name) != (other.kind, other.name):
            return False
        if self.kind is Kind.SINGLE:
            return self.home == other.home
        return self.namespace == other.namespace or not (self.namespace and other.namespace)


class StatedPod(msgspec.Struct, frozen=True):
    """A pod; one with a node or among those that run is running."""

    ns: str
    name: str
    request: Request
    priority: int = 0
    created: int = 0
    node: str = ""
    labels: dict[str, str] = {}


class StatedNode(msgspec.Struct, frozen=True):
    """A node."""

    name: str
    allocatable: Amounts


class Question(msgspec.Struct, frozen=True):
    """One question."""

    name: str
    kind: str = ""
    quotas: list[StatedQuota] = []
    running: list[StatedPod] = []
    nominated: list[StatedPod] = []
    nodes: list[StatedNode] = []
    pending: StatedPod | None = None
    pending_sequence: list[StatedPod] | None = None
    used_override: dict[str, Amounts] = {}
    gpu_memory_gb: Annotated[int, msgspec.Meta(ge=0)] = GPU_MEMORY_GB
    input: Request | None = None
    object: StatedQuota | None = None
    old_object: StatedQuota | None = None
    operation: str = "CREATE"

    @property
    def written(self) -> StatedQuota | None:
        """The quota that is written or deleted, if that is the question."""
        return self.object or self.old_object


_KINDS: Final = {"request": "input", "webhook": "object"}
"""What a question of some kind must have."""
_OPERATIONS: Final = ("CREATE", "UPDATE", "DELETE")
_SPELT: Final = {"oldObject": "old_object", "old": "old_object"}
_SIDES: Final = ("min", "max")


def cases(document: Any, file: str) -> Iterator[tuple[Any, str]]:
    """The questions of a document, each with its path: those under ``cases``, or the document itself.

    Raises:
        InputError: ``cases`` is no list.
    """
    if not isinstance(document, dict) or "cases" not in document:
        yield document, WHOLE
        return
    if not isinstance(document["cases"], list):
        raise InputError(file, f"{WHOLE}.cases", "expected a list of questions")
    for position, case in enumerate(document["cases"]):
        yield case, f"{WHOLE}.cases[{position}]"


def read(document: Any, file: str, path: str = WHOLE) -> Question:
    """A question.

    Raises:
        InputError: it is none; it says where, below ``path``.
    """
    try:
        stated = _shaped(_tidy(document))
        question = msgspec.convert(stated, Question, dec_hook=_stated)
    except RecursionError as error:
        raise InputError(file, path, "is nested too deeply") from error
    except msgspec.ValidationError as error:
        text = str(error)
        problem, mark, where = text.rpartition(" - at `$")
        raise InputError(file, path + where.rstrip("`") if mark else path, problem if mark else text) from error
    for where, problem in _problems(stated, question):
        raise InputError(file, path + where, problem)
    return question


def titles(quotas: Iterable[StatedQuota]) -> list[str]:
    """What answers call each of some quotas: its name, with its namespace and kind where others are named alike."""
    listed = [
        (quota.name, f"{quota.home}/{quota.name}", f"{quota.kind.value} {quota.home}/{quota.name}") for quota in quotas
    ]
    taken = Counter(text for forms in listed for text in set(forms))
    return [next((form for form in forms if taken[form] == 1), forms[-1]) for forms in listed]


def _problems(stated: Mapping[str, Any], question: Question) -> Iterator[tuple[str, str]]:
    """What else cannot be understood, with its path below the question's."""
    yield from _misspelt(stated, Question.__struct_fields__, "")
    for field, kind in (("quotas", StatedQuota), ("running", StatedPod), ("nominated", StatedPod)):
        for position, each in enumerate(stated.get(field, [])):
            yield from _misspelt(each, kind.__struct_fields__, f".{field}[{position}]")
    yield from _misread_kind(question)
    if question.pending is not None and question.pending_sequence is not None:
        yield ".pending_sequence", "pending is there as well: ask for one pod, or for several"
    yield from _misread_quotas(question)
    waiting = question.pending_sequence or []
    listed = {
        "running": [f"{pod.ns}/{pod.name}" for pod in question.running],
        "pending_sequence": [f"{pod.ns}/{pod.name}" for pod in waiting],
        "nodes": [node.name for node in question.nodes],
        "quotas": [f"{quota.kind.value} {quota.home}/{quota.name}" for quota in question.quotas],
    }
    for field, keys in listed.items():
        for position, key in enumerate(keys):
            if key in keys[:position]:
                yield f".{field}[{position}]", f"another one is named {key} as well"


def _misspelt(part: Mapping[str, Any], known: Iterable[str], path: str) -> Iterator[tuple[str, str]]:
    for field in part:
        like = asked.meant(field, known)
        if like:
            yield f"{path}.{field}", f"no such field; is {like} meant?"


def _misread_kind(question: Question) -> Iterator[tuple[str, str]]:
    like = asked.meant(question.kind, _KINDS)
    if like:
        yield ".kind", f"no such kind of question; is {like} meant?"
    wanted = _KINDS.get(question.kind)
    if wanted is not None and getattr(question, wanted) is None and not (wanted == "object" and question.old_object):
        yield "", f"is of kind {question.kind}, so {wanted} is expected"
    if question.written is not None and question.operation.upper() not in _OPERATIONS:
        yield ".operation", f"{question.operation!r} is none: expected {', '.join(_OPERATIONS)}"


def _misread_quotas(question: Question) -> Iterator[tuple[str, str]]:
    for position, quota in enumerate(question.quotas):
        path = f".quotas[{position}]"
        if quota.kind is Kind.SINGLE and len(quota.namespaces) != 1:
            yield f"{path}.namespaces", "an ElasticQuota governs its own namespace only: expected one"
        for side in _SIDES if question.written is None else ():
            try:
                asked.amounts(getattr(quota, side))
            except asked.AmountError as error:
                yield f"{path}.{side}", str(error)
    known = titles(question.quotas)
    for name in question.used_override:
        if name not in known:
            yield f".used_override.{name}", f"no such quota; expected one of {sorted(known)}"
    written = question.written
    if written is not None and sum(quota.is_of(written) for quota in question.quotas) > 1:
        yield ".object", f"several quotas are named {written.name}: say its namespace, and theirs"


def _tidy(part: Any) -> Any:
    """A document without what is null, and with whole numbers as such."""
    if isinstance(part, dict):
        return {name: _tidy(value) for name, value in part.items() if value is not None}
    if isinstance(part, list):
        return [_tidy(each) for each in part]
    return int(part) if isinstance(part, float) and part.is_integer() else part


def _shaped(document: Any) -> Any:
    """A question with one spelling of its fields."""
    if not isinstance(document, dict):
        return document
    shaped = {_SPELT.get(name, name): value for name, value in document.items()}
    for name, value in shaped.items():
        if name in ("running", "nominated", "pending_sequence") and isinstance(value, list):
            shaped[name] = [_pod(each) for each in value]
        elif name == "pending":
            shaped[name] = _pod(value)
        elif name == "quotas" and isinstance(value, list):
            shaped[name] = [_quota(each) for each in value]
        elif name in ("object", "old_object"):
            shaped[name] = _quota(value)
    return shaped


def _pod(stated: Any) -> Any:
    """A pod with all that it asks for in ``request``."""
    if not isinstance(stated, dict):
        return stated
    pod = {"ns" if name == "namespace" else name: value for name, value in stated.items()}
    parts = {name: pod.pop(name) for name in [*pod] if name in asked.PARTS}
    if parts.keys() == {"request"}:
        return {**pod, **parts}
    return {**pod, "request": parts} if parts else pod


def _quota(stated: Any) -> Any:
    if not isinstance(stated, dict):
        return stated
    quota = {"deletion_timestamp" if name == "deletionTimestamp" else name: value for name, value in stated.items()}
    if "namespace" in quota and quota.get("kind") == Kind.SINGLE.value:
        quota.setdefault("namespaces", [quota["namespace"]])
    return quota


def _stated(kind: type, stated: Any) -> Amounts:
    found: Amounts = kind(asked.request(stated) if kind is Request else asked.counts(stated))
    return found
