"""Resource quantities as exact integers, counted as kube-scheduler counts them.

``cpu`` is in milli-CPU; every other resource in whole units (bytes, devices, GB), rounded up where a quantity
has a fraction. No floats anywhere: sums of quotas must be exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from n8s import names

Resources = Mapping[str, int]
"""Amount by resource name; a name that is absent means zero."""

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
MOST_GPU_MEMORY_GB: Final = 10_000_000
"""More than any cluster has; a quota that says more was written in bytes, such as ``80Gi``."""

_SUFFIXES: Final[Mapping[str, Decimal]] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_QUANTITY: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_NAME: Final = re.compile(
    r"(?:([a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*)/)?"
    r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_PLAIN: Final = frozenset({CPU, MEMORY, "ephemeral-storage"})
_LARGEST: Final = Decimal(2**63 - 1)
_MIG_MEMORY: Final = re.compile(re.escape(names.MIG_PREFIX) + r"[0-9]+g\.([0-9]+)gb")


class QuantityError(ValueError):
    """A text that is no Kubernetes quantity.

    Attributes:
        text: the text.
    """

    def __init__(self, text: object) -> None:
        super().__init__(f"{text!r} is not a Kubernetes quantity such as 2, 500m or 8Gi")
        self.text = text


def is_name(text: str) -> bool:
    """Whether this can name a resource: a qualified name of Kubernetes, ``name`` or ``dns.subdomain/name``."""
    match = _NAME.fullmatch(text)
    return match is not None and len(match.group(1) or "") <= 253


def is_requestable(name: str) -> bool:
    """Whether a pod can ask for a resource of this name: without a domain, the API server knows only a few."""
    return "/" in name or name in _PLAIN or name.startswith("hugepages-")


def exact(text: str | int) -> Decimal:
    """The exact value of a Kubernetes quantity, in units (``500m`` is 0.5), at most 2^63-1 as Kubernetes caps it.

    Raises:
        QuantityError: the text is no quantity.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise QuantityError(text)
    number, exponent, suffix = match.groups()
    try:
        value = Decimal(number + exponent) if exponent else Decimal(number) * _SUFFIXES[suffix or ""]
    except InvalidOperation as error:
        raise QuantityError(text) from error
    return max(-_LARGEST, min(value, _LARGEST))


def amount(resource: str, text: str | int) -> int:
    """A quantity in this module's units: milli for ``cpu``, whole units otherwise, rounded away from zero.

    Raises:
        QuantityError: the text is no quantity.
    """
    value = exact(text) * (1000 if resource == CPU else 1)
    whole = int(value)
    if value == whole:
        return whole
    return whole + (1 if value > 0 else -1)


def parse(quantities: Mapping[str, str | int]) -> dict[str, int]:
    """Amounts of a Kubernetes resource list.

    Raises:
        QuantityError: a value is no quantity.
    """
    return {name: amount(name, text) for name, text in quantities.items()}


def quantity(resource: str, value: int) -> str:
    """An amount as Kubernetes writes it: ``cpu`` 1500 is ``1500m``, 2000 is ``2``; others as a plain integer."""
    if resource == CPU:
        return f"{value}m" if value % 1000 else str(value // 1000)
    return str(value)


def total(parts: Iterable[Resources]) -> dict[str, int]:
    """The sum by resource."""
    result: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            result[name] = result.get(name, 0) + value
    return result


def larger(left: Resources, right: Resources) -> dict[str, int]:
    """The larger of both by resource."""
    return {name: max(left.get(name, 0), right.get(name, 0)) for name in {**left, **right}}


def lacking(request: Resources, free: Resources) -> list[str]:
    """Names of the resources of which ``request`` asks for more than ``free`` has, sorted."""
    return sorted(name for name, value in request.items() if value > 0 and value > free.get(name, 0))


def with_gpu_memory(request: Resources, gpu_memory_gb: int) -> dict[str, int]:
    """The request with ``n8s.nebuly.ai/gpu-memory`` added, in GB.

    Whole GPUs count ``gpu_memory_gb`` each; MIG devices what their profile's name says, whatever its suffix.
    """
    memory = gpu_memory_gb * request.get(names.GPU, 0)
    for name, value in request.items():
        match = _MIG_MEMORY.match(name)
        if match is not None:
            memory += int(match.group(1)) * value
    plain = {name: value for name, value in request.items() if name != names.GPU_MEMORY}
    return {**plain, names.GPU_MEMORY: memory} if memory else plain
