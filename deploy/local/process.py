"""Processes of the cluster: started in sessions of their own, written to log files, and never left behind.

Every process carries the cluster's id in its environment, and what it starts inherits it. So all of them can be found
and ended from outside, also when the one who started them is dead. This module ends nothing that lacks the id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MARKER: Final = "NEBULNETES_LOCAL_CLUSTER"
"""Environment variable with the id of the cluster that a process belongs to."""
STEP: Final = 0.02
"""Seconds between two looks while waiting for another process: short beside what is waited for."""


class Process:
    """A long-running program of the cluster, which may be stopped and started again."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        """Describes it; :meth:`start` runs it.

        Args:
            name: for messages, e.g. ``n1/kubelet``.
            argv: command line.
            log: file that its output is appended to.
            environ: its whole environment.
        """
        self.name = name
        self.argv = list(argv)
        self.log = log
        self._environ = dict(environ)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; only while it has been started."""
        if self._popen is None:
            raise StartError(self.name, "is not running")
        return self._popen.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def ended_by_itself(self) -> bool:
        """Whether it was started, and has ended without :meth:`stop`."""
        return self._popen is not None and self._popen.poll() is not None

    def start(self) -> None:
        """Starts it unless it runs."""
        if self.alive():
            return
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            )

    def stop(self, grace: float = 5.0, sig: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and its process group: ``sig`` first, then SIGKILL after ``grace`` seconds."""
        if self._popen is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._popen = None

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Waits for a condition that this process is to bring about.

        Args:
            condition: looked at every :data:`STEP` seconds.
            what: what is waited for, for the message.
            timeout: seconds.

        Raises:
            StartError: the process ended, or the time is over.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.alive():
                raise StartError(self.name, f"ended before {what}", self.log_tail())
            if time.monotonic() > deadline:
                raise StartError(self.name, f"not {what} within {timeout:g} s", self.log_tail())
            time.sleep(STEP)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def members(cluster_id: str) -> list[int]:
    """Ids of all living processes that carry the cluster's id."""
    mark = f"{MARKER}={cluster_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def kill_members(cluster_id: str, timeout: float = 10.0) -> None:
    """Kills every process of a cluster and waits until none is left, at most ``timeout`` seconds.

    Killing without asking is right here: nothing that they keep outlives the cluster.
    """
    deadline = time.monotonic() + timeout
    while (pids := members(cluster_id)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(STEP)


def free_port(address: str) -> int:
    """A TCP port that nobody listens on at this address; it stays free, as nobody else uses a cluster's addresses."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
