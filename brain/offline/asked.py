"""What pods ask for, as files state it: amounts by resource, or containers as Kubernetes has them.

Nothing that is stated is left out in silence: what may be an amount, and is none that can be read, is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from brain.model import resources
from brain.model.request import Container, is_pod_level, pod_request

_SECTIONS: Final = {
    "containers": "containers",
    "sidecars": "sidecars",
    "initContainers": "init",
    "init_containers": "init",
    "overhead": "overhead",
}
"""Parts of a pod that ask for something."""
_OWN: Final = frozenset({"request", "requests", "limits", "resources"})
"""Where a container, or a pod as a whole, says what it asks for; or it names amounts at once."""
PARTS: Final = _SECTIONS.keys() | _OWN
"""Where a pod says what it asks for."""
_OF_POD: Final = re.compile(
    "ns|namespace|name|priority|created|node|labels|apiVersion|kind|metadata|status|restartPolicy"
)
"""What else a pod may say."""
_OF_CONTAINER: Final = re.compile(
    "name|image|command|args|workingDir|ports|envFrom|env|volumeMounts|volumeDevices|livenessProbe|readinessProbe|"
    "startupProbe|lifecycle|terminationMessagePath|terminationMessagePolicy|imagePullPolicy|securityContext|stdin|"
    "stdinOnce|tty|resizePolicy|restartPolicy|restart_policy|restartPolicyRules|sidecar"
)
"""What else a container may say: what Kubernetes has there (v1.36)."""
_CLAIMS: Final = re.compile("claims")


class AmountError(ValueError):
    """Amounts that cannot be read; the text says which, and what was expected."""


def amounts(stated: Any) -> dict[str, int]:
    """Amounts by resource as a document states them; they may be negative.

    Raises:
        AmountError: they cannot be read.
    """
    if not isinstance(stated, dict):
        raise AmountError(f"expected amounts by resource, got {stated!r}")
    return {name: _amount(name, value) for name, value in stated.items()}


def counts(stated: Any) -> dict[str, int]:
    """The same, none of them negative.

    Raises:
        AmountError: they cannot be read, or one is.
    """
    found = amounts(stated)
    for name, value in found.items():
        if value < 0:
            raise AmountError(f"{name}: {value} is negative")
    return found


def meant(name: str, known: Iterable[str]) -> str:
    """Which of the known names is meant by one that looks like it misspelt; empty where it is one, or like none."""
    known = sorted(known)
    like = difflib.get_close_matches(name, known, 1, cutoff=0.8) if name not in known else []
    return like[0] if like else ""


def _known(name: str, known: Iterable[str], place: str) -> None:
    like = meant(name, known)
    if like:
        raise AmountError(f"{place}{name}: no such field; is {like} meant?")


def _amount(name: str, value: Any) -> int:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise AmountError(f"{name}: {value!r} is no amount: expected a whole number or a quantity such as '500m'")
    if not isinstance(value, str):
        return value
    try:
        if "/" in name and resources.exact(value) % 1:
            raise AmountError(f"{name}: {value} must be a whole number")
        return resources.amount(name, value)
    except resources.QuantityError as error:
        raise AmountError(f"{name}: {error}") from error


def request(stated: Any, place: str = "") -> dict[str, int]:
    """What a pod asks for, as the scheduler counts it; ``place`` is where this is, as errors name it.

    Raises:
        AmountError: it cannot be read.
    """
    if not isinstance(stated, dict):
        raise AmountError(f"{place}expected amounts by resource, or containers, got {stated!r}")
    if "spec" in stated:
        for name in stated:
            if name != "spec" and not _OF_POD.fullmatch(name):
                raise AmountError(f"{place}{name}: with spec beside it, expected within that")
        return request(_of_spec(stated["spec"], f"{place}spec."), f"{place}spec.")
    sections: dict[str, list[Container]] = {"containers": [], "sidecars": [], "init": []}
    overhead: dict[str, int] = {}
    own: dict[str, Any] = {}
    for name, value in stated.items():
        section = _SECTIONS.get(name)
        if section == "overhead":
            overhead = _placed(value, f"{place}{name}")
        elif section is not None:
            sections[section] += _containers(value, f"{place}{name}", sidecars=section == "sidecars")
        elif not _OF_POD.fullmatch(name):
            own[name] = value
    whole = _container(own, place)
    inits = [*sections["sidecars"], *sections["init"]]
    if not sections["containers"] and not inits:
        return pod_request([whole], overhead=overhead)
    for name in {**whole.requests, **whole.limits}:
        if not is_pod_level(name):
            raise AmountError(f"{place}{name}: with containers beside it, expected within one of them")
    return pod_request(sections["containers"], inits, overhead, whole)


def _of_spec(spec: Any, place: str) -> dict[str, Any]:
    """What of a pod's ``spec`` asks for something."""
    if not isinstance(spec, dict):
        raise AmountError(f"{place}expected containers, got {spec!r}")
    known = [*_SECTIONS, "resources"]
    for name in spec:
        _known(name, known, place)
    return {name: value for name, value in spec.items() if name in known}


def _containers(stated: Any, place: str, *, sidecars: bool) -> list[Container]:
    if not isinstance(stated, list) or not all(isinstance(each, dict) for each in stated):
        raise AmountError(f"{place}: expected a list of containers")
    return [
        _container({**each, "sidecar": True} if sidecars else each, f"{place}[{position}].", _OF_CONTAINER)
        for position, each in enumerate(stated)
    ]


def _container(stated: Mapping[str, Any], place: str, others: re.Pattern[str] | None = None) -> Container:
    """What a container, or a pod as a whole, asks for; ``others`` are fields that say nothing of it."""
    requests: dict[str, int] = {}
    limits: dict[str, int] = {}
    for name, value in stated.items():
        where = f"{place}{name}"
        if others is not None and others.fullmatch(name):
            continue
        if name == "limits":
            found = Container(limits=_placed(value, where))
        elif name == "resources" and isinstance(value, dict):
            found = _container(value, f"{where}.", _CLAIMS)
        elif name in _OWN:
            found = Container(_placed(value, where))
        else:
            _known(name, PARTS, place)
            found = Container(_placed({name: value}, place.removesuffix(".")))
        twice = requests.keys() & found.requests.keys() | limits.keys() & found.limits.keys()
        if twice:
            raise AmountError(f"{where}: {min(twice)} is there twice")
        requests |= found.requests
        limits |= found.limits
    runs_on = "Always" in (stated.get("restartPolicy"), stated.get("restart_policy"))
    return Container(requests, limits, runs_on or stated.get("sidecar") is True)


def _placed(stated: Any, place: str) -> dict[str, int]:
    try:
        return counts(stated)
    except AmountError as error:
        raise AmountError(f"{place}: {error}" if place else str(error)) from error
