"""Which images stand for programs of this repository, and how those are started.

A table and nothing else: there are no image files, layers or registries here. What the table does not name is never
run; its containers stay records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """What an image runs.

    Attributes:
        module: Python module, started as ``python -m``.
        process_name: first word of the command line as other processes see it; empty leaves Python's own.
    """

    module: str
    process_name: str = ""


ENTRY_POINTS: Final = {
    "nebulnetes/brain": EntryPoint("brain"),
    "nebulnetes/agent": EntryPoint("nodeagent"),
    "nebulnetes/webhook": EntryPoint("webhook"),
    "nvidia/k8s-device-plugin": EntryPoint("deploy.local.deviceplugin", "nvidia-device-plugin"),
}
"""By the last two parts of the image's name."""


def repository(image: str) -> str:
    """An image's name without tag and digest: ``host:5000/a/b:1@sha256:..`` -> ``host:5000/a/b``."""
    name = image.split("@", 1)[0]
    head, _, tail = name.rpartition(":")
    return head if head and "/" not in tail else name


def entry_point(image: str) -> EntryPoint | None:
    """The entry point of an image, whatever its registry, tag and digest; None where it stays a record."""
    return ENTRY_POINTS.get("/".join(repository(image).split("/")[-2:]))
