"""What the node's processes show of who uses a GPU: the third witness, beside kubelet and driver.

After a forced delete the kubelet calls a device free while the old container still runs for its stop time (measured on
Kubernetes 1.36), and the driver lists a process only once it has opened the device. A container in between is seen by
neither. NVIDIA's container runtime is told the devices by a variable in the container's environment, which its
processes carry for as long as they live. And the driver calls a GPU in use for an open handle without naming a holder.

No container is seen that is given its devices by CDI or by mounts, whose environment names none, and no process that
has cleaned its environment. So finding nobody proves nothing; finding somebody does.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE: Final = b"NVIDIA_VISIBLE_DEVICES="
"""What the device plugin tells NVIDIA's container runtime by: UUIDs, separated by commas."""


def started_with(uuid: str, proc: Path) -> tuple[int, ...]:
    """Ids of the processes that were started with a MIG device, ascending.

    Args:
        uuid: Of the device.
        proc: The proc file system of the node, e.g. ``/proc`` where the node's process ids are shared.
    """
    needle = uuid.encode()
    found = []
    with os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
                    environment = (proc / entry.name / "environ").read_bytes()
                    if needle in environment and _given(needle, environment):
                        found.append(int(entry.name))
    return tuple(sorted(found))


def openers(device: str, proc: Path) -> list[str]:
    """Names and ids of the processes that have a device file open, this one aside, e.g. ``nsys (4711)``.

    That is no proof that they are in the way: whoever watches GPUs has them open.
    """
    found = []
    with os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    process = proc / entry.name
                    if any(str(opened.readlink()) == device for opened in (process / "fd").iterdir()):
                        name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                        found.append((int(entry.name), name))
    return [f"{name} ({pid})" for pid, name in sorted(found)]


def _given(uuid: bytes, environment: bytes) -> bool:
    """Whether an environment gives the device; elsewhere in it a UUID may stand for anything."""
    return any(
        line.startswith(VARIABLE) and uuid in line.removeprefix(VARIABLE).split(b",")
        for line in environment.split(b"\0")
    )
