"""Turns the mounts that the kubelet asks for into commands for a container's own mount namespace.

There is no image and so no root file system: a container sees the node's. Its mounts are bound over that, in a mount
namespace that ends with it. So a mount point must exist or be made in a place that is not the machine's: ``/run`` (a
fresh tmpfs), ``/var/lib`` and ``/var/log`` (the node's own), or inside another of the container's mounts. It refuses
everything else rather than leave a directory behind on the machine.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from .errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEFT_OUT: Final = frozenset({"/dev/termination-log"})
"""Mounts without meaning here: nobody reads termination messages, and /dev is the machine's."""
PRIVATE: Final = ("/run", "/var/lib", "/var/log")
"""Where a mount point can be made without touching the machine."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a container.

    Attributes:
        source: path on the node.
        target: path in the container.
        read_only: whether the container may write.
        directory: whether the source is a directory, else a file.
    """

    source: str
    target: str
    read_only: bool
    directory: bool


def commands(mounts: Sequence[Mount], exists: Callable[[str], bool] = lambda path: Path(path).exists()) -> list[str]:
    """Shell commands that make the mounts, outer ones first.

    Args:
        mounts: as the kubelet lists them.
        exists: whether a path exists on the machine.

    Raises:
        MountError: a mount has no place.
    """
    script = ["mount -t tmpfs -o mode=755 tmpfs /run"]
    made: list[str] = []
    for mount in sorted(mounts, key=lambda mount: mount.target):
        target = _through_run(mount.target)
        if mount.target in LEFT_OUT:
            continue
        if _inside(_through_run(mount.source), ("/run",)):
            raise MountError(
                mount.target, f"its source {mount.source} is below /run, which containers do not share here"
            )
        if _inside(target, (*PRIVATE, *made)):
            parent = target if mount.directory else str(PurePosixPath(target).parent)
            script.append(f"mkdir -p {shlex.quote(parent)}")
            if not mount.directory:
                script.append(f"touch {shlex.quote(target)}")
        elif not exists(target):
            raise MountError(
                mount.target,
                "there is no such path on this machine, and containers have no root file system of their own here; "
                f"mount below one of {', '.join(PRIVATE)}",
            )
        script.append(f"mount --bind {shlex.quote(mount.source)} {shlex.quote(target)}")
        if mount.read_only:
            script.append(f"mount -o remount,bind,ro {shlex.quote(target)}")
        made.append(target)
    return script


def _through_run(path: str) -> str:
    """``/var/run`` is ``/run``, on the machine as in most images."""
    return "/run" + path.removeprefix("/var/run") if _inside(path, ("/var/run",)) else path


def _inside(path: str, roots: Sequence[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(root) for root in roots)
