"""Makes the node's NVIDIA device plugin look again, and waits until the kubelet has what it found.

The plugin enumerates MIG devices when it starts and on SIGHUP, never by itself. It is found by what it does, not by a
pod's name: the process that listens on one of NVIDIA's sockets in this node's device-plugin directory. One that has
no devices listens on nothing; then its program's name counts. Several nodes may share a host and its process ids, so a
process whose view of the directory is another directory is somebody else's.

It refuses to signal when the kubelet already shows the right devices (a restart of the plugin takes all of its
resources away for a second), to signal a process that is not ready for it, and to restart or kill anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

from nodeagent.errors import KubeletError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from nodeagent.kubelet import DeviceIds, Kubelet

PROGRAM: Final = "nvidia-device-plugin"
"""Name of the plugin's program."""
SOCKET_PREFIX: Final = "nvidia"
"""How its sockets' names begin; other vendors' plugins, which may die of SIGHUP, live in the same directory."""
KUBELET_SOCKET: Final = "kubelet.sock"

POLL_SECONDS: Final = 0.05
"""Between two looks at the kubelet's devices. It has a new list within 3 to 25 ms of the plugin's sending it."""
DEADLINE_SECONDS: Final = 30.0
"""For the kubelet to show the devices. A plugin takes about a second; a pod that is being replaced some more."""
SEARCH_SECONDS: Final = 0.25
"""Between two searches for a plugin that is not there, or not ready; a search reads all of /proc."""
RESIGNAL_SECONDS: Final = 5.0
"""After this long without effect the plugin is signalled once more."""
HALTED_SECONDS: Final = 1.5
"""For a plugin to answer after the wait was called off; it takes about a second."""
UNTOLD_SECONDS: Final = 2.0
"""For how long a plugin that cannot be told is searched for before that is told: it may just be starting."""
LOOK_SECONDS: Final = 30.0
"""Between two searches while there is nothing to tell the plugin; so its not being there is known before an order."""
LOOK_AGAIN_SECONDS: Final = 2.0
"""The same while it cannot be told."""
NO_SIGNALS: Final = "the agent does not see the node's processes (chart value agent.hostPID)"

_LISTENING: Final = 0x10000  # __SO_ACCEPTCON in the flags column of /proc/net/unix

logger = logging.getLogger(__name__)


class DevicePlugin(Protocol):
    """What the agent asks of the device plugin."""

    async def settle(self, devices: Callable[[], Awaitable[DeviceIds]], halt: asyncio.Event) -> str:
        """Bring the kubelet's device ids in line with the instances'; see :meth:`SignalledPlugin.settle`."""


@dataclass(frozen=True, slots=True)
class _Listener:
    """A listening unix socket: its inode number and the path it was bound to, as its process sees it."""

    inode: int
    path: PurePosixPath


class SignalledPlugin:
    """The device plugin of this node, told by SIGHUP.

    Args of the constructor: the kubelet, the device-plugin directory as this process sees it, whether the node's
    processes are to be seen at all, the proc file system, and the deadline in seconds.

    Attributes:
        problem: Why the plugin cannot be told to look again, by the last search; empty when it can.
        awaited: Whether :meth:`settle` waits for the plugin though it could not be told.
    """

    def __init__(
        self,
        kubelet: Kubelet,
        directory: Path,
        *,
        signals: bool = True,
        proc: Path = Path("/proc"),
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._kubelet = kubelet
        self._directory = directory
        self._signals = signals
        self._proc = proc
        self._deadline_seconds = deadline_seconds
        self.problem = "" if signals else NO_SIGNALS
        self.awaited = False
        self._settling = False
        self._look_at = 0.0

    async def look(self) -> None:
        """Find out whether the plugin can be told, unless that was found out not long ago."""
        now = asyncio.get_running_loop().time()
        if self._signals and not self._settling and now >= self._look_at:
            self._note(await asyncio.to_thread(self._reach))
            self._look_at = now + (LOOK_AGAIN_SECONDS if self.problem else LOOK_SECONDS)

    async def settle(self, devices: Callable[[], Awaitable[DeviceIds]], halt: asyncio.Event) -> str:
        """Wait until the kubelet shows exactly ``devices``, having the plugin look again where it does not.

        Args:
            devices: Reads the device ids there should be, by resource; asked anew at each look.
            halt: Set when the wait is to end early: the plugin is still told if it was not, and has
                :data:`HALTED_SECONDS` to answer, since nobody may be there to tell it later.

        Returns:
            Empty when the kubelet shows them; else what is missing, for people.
        """
        self._settling = True
        try:
            return await self._settle(devices, halt)
        finally:
            self._settling = self.awaited = False

    async def _settle(self, devices: Callable[[], Awaitable[DeviceIds]], halt: asyncio.Event) -> str:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_seconds
        search_at = loop.time()
        untold_at = search_at + (UNTOLD_SECONDS if self._signals else 0.0)
        while True:
            wanted = await devices()
            try:
                missing = _difference(wanted, await self._kubelet.allocatable())
            except KubeletError as error:
                missing = str(error)  # a kubelet that does not answer is no reason to take the plugin's devices away
            else:
                if missing and loop.time() >= search_at:
                    problem = await asyncio.to_thread(self._tell)
                    search_at = loop.time() + (SEARCH_SECONDS if problem else RESIGNAL_SECONDS)
                    if not problem or loop.time() >= untold_at:
                        self._note(problem)
                        self.awaited = bool(problem)
            if halt.is_set():
                deadline = min(deadline, loop.time() + HALTED_SECONDS)
            if not missing or loop.time() >= deadline:
                return missing
            await asyncio.sleep(POLL_SECONDS)

    def find(self) -> list[int]:
        """Process ids of this node's device plugin; empty where none runs.

        Those that listen on its sockets in the directory; only where there is none, those that are the program.
        """
        try:
            ours = _identity(self._directory)
        except OSError:
            return []
        listening, named = [], []
        tables: dict[str, dict[int, _Listener]] = {}
        for pid in self._pids():
            root = self._proc / str(pid)
            with contextlib.suppress(OSError):  # it ended, or is not ours to look at
                if _identity(_inside(root, self._directory)) != ours:
                    continue
                namespace = str((root / "ns" / "net").readlink())
                if namespace not in tables:
                    tables[namespace] = _listeners(root / "net" / "unix")
                sockets = self._sockets(root, tables[namespace], ours)
                if KUBELET_SOCKET in sockets:
                    continue
                if any(name.startswith(SOCKET_PREFIX) for name in sockets):
                    listening.append(pid)
                elif _is_plugin(root):
                    named.append(pid)
        return listening or named

    def _pids(self) -> Iterator[int]:
        return (
            int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()
        )

    def _sockets(self, root: Path, table: dict[int, _Listener], ours: tuple[int, int]) -> set[str]:
        """Names of the sockets in our directory on which the process at ``root`` listens."""
        names = set()
        for descriptor in (root / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if not target.startswith("socket:["):
                    continue
                listener = table.get(int(target[len("socket:[") : -1]))
                if listener is not None and _identity(_inside(root, listener.path.parent)) == ours:
                    names.add(listener.path.name)
        return names

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("cannot have the device plugin look again", extra={"problem": problem})
        self.problem = problem

    def _reach(self) -> str:
        """Why the plugin cannot be told; empty when it can. Tells it nothing."""
        return self._send(0)

    def _tell(self) -> str:
        """Have the plugin look again; why that cannot be, or empty when it was told."""
        return self._send(signal.SIGHUP) if self._signals else NO_SIGNALS

    def _send(self, number: int) -> str:
        """Send a signal (0: none, but see whether one may be sent) to the plugin's processes.

        One that does not handle SIGHUP yet would die of it, so it gets none.

        Returns:
            Empty when one was sent; else why none was.
        """
        problem = "no process of the device plugin is seen on the node"
        sent = False
        for pid in self.find():
            try:
                if not _handles_hangup(self._proc / str(pid)):
                    problem = f"the device plugin's process {pid} does not handle SIGHUP"
                    continue
                os.kill(pid, number)
            except OSError as error:
                problem = f"the device plugin's process {pid} cannot be signalled ({error.strerror})"
                continue
            sent = True
            if number:
                logger.info("device plugin told to look again", extra={"pid": pid})
        return "" if sent else problem


def _difference(wanted: DeviceIds, shown: DeviceIds) -> str:
    """What the kubelet shows otherwise than the GPUs have it; empty where both agree."""
    return "; ".join(
        f"{name}: the kubelet knows {len(shown.get(name, ()))} devices, the GPUs have {len(wanted.get(name, ()))}"
        for name in sorted(wanted.keys() | shown.keys())
        if shown.get(name, frozenset()) != wanted.get(name, frozenset())
    )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _inside(root: Path, path: Path | PurePosixPath) -> Path:
    """A path as the process at ``root`` (``/proc/PID``) sees it."""
    return root / "root" / str(path).lstrip("/") if path.is_absolute() else root / "cwd" / path


def _listeners(table: Path) -> dict[int, _Listener]:
    """Listening sockets with a path of one network namespace, by inode. Columns: proc_net_unix(5)."""
    found = {}
    for line in table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if len(columns) == 8 and int(columns[3], 16) & _LISTENING and not columns[7].startswith("@"):
            inode = int(columns[6])
            found[inode] = _Listener(inode, PurePosixPath(columns[7]))
    return found


def _is_plugin(root: Path) -> bool:
    """Whether the program's name is the plugin's; a script's interpreter stands before it."""
    arguments = (root / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    program = PurePosixPath(arguments[0]).name
    if program.startswith("python") and len(arguments) > 1:
        program = PurePosixPath(arguments[1]).name
    return program == PROGRAM


def _handles_hangup(root: Path) -> bool:
    for line in (root / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGHUP - 1))
    return False
