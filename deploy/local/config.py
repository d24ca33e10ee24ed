"""Which nodes the cluster has: a small YAML file, read once and checked whole.

An error names the place in the document and what would be right. Nothing is guessed or left out silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from n8s import catalogue

from .errors import ConfigError

DEFAULT: Final = Path(__file__).with_name("nodes.yaml")
MOST_GPUS: Final = 16
"""GPUs on one node: what the largest machines have."""
MOST_NODES: Final = 250
"""Each node's pods get a /24 of the cluster's /16."""
INOTIFY_PER_KUBELET: Final = 5
"""inotify instances that one kubelet takes (measured with v1.36.3)."""
INOTIFY_LEFT: Final = 28
"""Instances that are left to everything else on the machine."""
INOTIFY_LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_instances")


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of a node.

    Attributes:
        model: from the catalogue.
        count: how many.
    """

    model: catalogue.GpuModel
    count: int


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node.

    Attributes:
        name: its name.
        gpus: its GPUs, or None.
        status_seconds: how often its kubelet looks whether its status has changed; None: as the cluster's others.
    """

    name: str
    gpus: Gpus | None
    status_seconds: float | None = None


def load(path: Path = DEFAULT, *, inotify_instances: int | None = None) -> tuple[NodeSpec, ...]:
    """Reads the nodes from a file.

    Args:
        path: YAML file.
        inotify_instances: how many the machine grants a user; by default what it says itself.

    Raises:
        ConfigError: the file cannot be read, or a value is wrong.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {error}") from error
    top = _mapping(document, "the document", {"nodes"})
    entries = top.get("nodes")
    if not isinstance(entries, list) or not entries:
        raise ConfigError("nodes", "must be a list with at least one node")
    nodes = tuple(_node(entry, f"nodes[{index}]") for index, entry in enumerate(entries))
    for index, node in enumerate(nodes):
        if any(other.name == node.name for other in nodes[:index]):
            raise ConfigError(f"nodes[{index}].name", f"{node.name} is the name of an earlier node too")
    granted = int(INOTIFY_LIMIT.read_text()) if inotify_instances is None else inotify_instances
    most = min(MOST_NODES, (granted - INOTIFY_LEFT) // INOTIFY_PER_KUBELET)
    if len(nodes) > most:
        raise ConfigError(
            "nodes", f"{len(nodes)} nodes; this machine bears {most} (fs.inotify.max_user_instances={granted})"
        )
    return nodes


def _node(entry: object, where: str) -> NodeSpec:
    fields = _mapping(entry, where, {"name", "gpus", "statusSeconds"})
    name = fields.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ConfigError(f"{where}.name", f"{name!r} is no node name: small letters, digits and '-'")
    seconds = fields.get("statusSeconds")
    if seconds is not None and not (type(seconds) in {int, float} and seconds > 0):
        raise ConfigError(f"{where}.statusSeconds", f"{seconds!r} is not a number of seconds above 0")
    if "gpus" not in fields:
        return NodeSpec(name, None, seconds)
    gpus = _mapping(fields["gpus"], f"{where}.gpus", {"model", "count"})
    model = catalogue.lookup(str(gpus.get("model")))
    if model is None:
        known = ", ".join(catalogue.models())
        raise ConfigError(f"{where}.gpus.model", f"{gpus.get('model')!r} is not known; known are {known}")
    count = gpus.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_GPUS:
        raise ConfigError(f"{where}.gpus.count", f"{count!r} is not a number from 1 to {MOST_GPUS}")
    return NodeSpec(name, Gpus(model, count), seconds)


def _mapping(value: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(where, f"must be a mapping with {', '.join(sorted(known))}")
    for key in value:
        if key not in known:
            raise ConfigError(
                f"{where}.{key}".removeprefix("the document."), f"unknown; known: {', '.join(sorted(known))}"
            )
    return value
