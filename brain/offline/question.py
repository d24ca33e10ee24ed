"""Quota questions as files hold them: what a document may say, and what of it cannot be understood.

Whole numbers are in the units of :mod:`brain.model.resources` (``cpu`` in milli-CPU); texts are Kubernetes quantities.
Fields that are not known are left alone, but not where one looks like a known one misspelt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec

from brain.model import resources
from brain.model.quota import Kind
from brain.offline.errors import WHOLE, InputError

GPU_MEMORY_GB: Final = 16
"""What one whole GPU counts for where the document does not say."""


class Amounts(dict[str, int]):
    """Amounts by resource, which may be negative: whether a quota may be is one of the questions."""


class Request(Amounts):
    """Amounts by resource, none of them negative."""


class StatedQuota(msgspec.Struct, frozen=True):
    """A quota."""

    name: str
    kind: Kind
    namespaces: list[str]
    min: Amounts = Amounts()
    max: Amounts = Amounts()


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
    allocatable: Request


class Asked(msgspec.Struct, frozen=True, rename="camel"):
    """``resources`` of a container."""

    requests: Request = Request()
    limits: Request = Request()


class Part(Asked, frozen=True, rename="camel"):
    """A container, with its resources within or under ``resources``, as Kubernetes has it."""

    resources: Asked = Asked()
    restart_policy: str = ""


class Input(msgspec.Struct, frozen=True, rename="camel"):
    """What a pod asks for: in all, or by container."""

    resources: Request | None = None
    containers: list[Part] = []
    init_containers: list[Part] = []
    overhead: Request = Request()


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
    used_override: dict[str, Request] = {}
    gpu_memory_gb: Annotated[int, msgspec.Meta(ge=0)] = GPU_MEMORY_GB
    input: Input | None = None
    object: StatedQuota | None = None
    operation: str = "CREATE"


_KINDS: Final = {"request": "input", "webhook": "object"}
"""What a question of some kind must have."""


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
        question = msgspec.convert(_tidy(document), Question, dec_hook=_amounts)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise InputError(file, path + where.rstrip("`"), problem) from error
    for field in document:
        like = difflib.get_close_matches(field, Question.__struct_fields__, 1, cutoff=0.8)
        if like and like[0] != field:
            raise InputError(file, f"{path}.{field}", f"no such field; is {like[0]} meant?")
    wanted = _KINDS.get(question.kind)
    if wanted is not None and getattr(question, wanted) is None:
        raise InputError(file, path, f"is of kind {question.kind}, so {wanted} is expected")
    known = {quota.name for quota in question.quotas}
    for name in question.used_override:
        if name not in known:
            raise InputError(file, f"{path}.used_override.{name}", f"no such quota; expected one of {sorted(known)}")
    _unique(question, file, path)
    return question


def _unique(question: Question, file: str, path: str) -> None:
    waiting = question.pending_sequence or []
    listed = {
        "running": [f"{pod.ns}/{pod.name}" for pod in question.running],
        "pending_sequence": [f"{pod.ns}/{pod.name}" for pod in waiting],
        "nodes": [node.name for node in question.nodes],
    }
    for field, keys in listed.items():
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise InputError(file, f"{path}.{field}[{position}]", f"another one is named {key} as well")


def _tidy(part: Any) -> Any:
    """A document without what is null, and with Kubernetes' spelling of its fields."""
    if isinstance(part, dict):
        return {_SPELT.get(name, name): _tidy(value) for name, value in part.items() if value is not None}
    return [_tidy(each) for each in part] if isinstance(part, list) else part


_SPELT: Final = {"init_containers": "initContainers", "restart_policy": "restartPolicy"}


def _amounts(kind: type, stated: Any) -> Amounts:
    if not isinstance(stated, dict):
        raise TypeError(f"expected amounts by resource, got {stated!r}")
    found: Amounts = kind()
    for name, value in stated.items():
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise TypeError(f"{name}: {value!r} is no amount: expected a whole number or a quantity such as '500m'")
        found[name] = resources.amount(name, value) if isinstance(value, str) else value
        if kind is Request and found[name] < 0:
            raise ValueError(f"{name}: {value} is negative")
    return found
