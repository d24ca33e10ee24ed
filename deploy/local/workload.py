"""What runs in a container: a record that only pretends, a process that only sleeps, or a real one of this repository.

The runtime sees them through one Protocol and does not care which it has. A workload knows how to start and how to
end; it keeps no state that Kubernetes would ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from . import crilog
from .process import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KILLED: Final = 128 + signal.SIGKILL
"""Exit code of what SIGKILL ended, as shells and runtimes count."""
REPOSITORY: Final = Path(__file__).resolve().parents[2]
OUTPUT_SECONDS: Final = 2.0
"""How long the rest of a dead process's output is waited for: a child that it left behind may hold the pipe open."""


class Workload(Protocol):
    """One run of a container."""

    @property
    def pid(self) -> int | None:
        """Its process id; None for a record."""

    async def start(self) -> None:
        """Starts it."""

    def terminate(self) -> None:
        """Asks it to end (SIGTERM)."""

    def kill(self) -> None:
        """Ends it (SIGKILL)."""

    async def wait(self) -> int:
        """Waits until it has ended and returns its exit code."""

    def reopen_log(self) -> None:
        """Goes on logging to the log's path, after the file was moved away."""

    async def execute(self, command: Sequence[str]) -> tuple[int, bytes, bytes]:
        """Runs a command beside it and returns exit code, output and error output."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a record behaves; set by environment variables of the container.

    Attributes:
        run_seconds: ``FAKE_RUN_SECONDS``: ends by itself after this time; None runs until stopped.
        exit_code: ``FAKE_EXIT_CODE``: exit code when it ends by itself.
        stop_seconds: ``FAKE_STOP_SECONDS``: time from SIGTERM to its end.
        kill_seconds: ``FAKE_KILL_SECONDS``: time from SIGKILL to its end, as of one that is held up in the kernel.
        open_seconds: ``FAKE_OPEN_SECONDS``: time from its start until it opens its MIG devices.
    """

    run_seconds: float | None
    exit_code: int
    stop_seconds: float
    kill_seconds: float
    open_seconds: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Behaviour:
        """Reads it from a container's environment.

        Raises:
            ValueError: a value is not a number.
        """
        run = environ.get("FAKE_RUN_SECONDS")
        return cls(
            None if run is None else float(run),
            int(environ.get("FAKE_EXIT_CODE", "0")),
            float(environ.get("FAKE_STOP_SECONDS", "0")),
            float(environ.get("FAKE_KILL_SECONDS", "0")),
            float(environ.get("FAKE_OPEN_SECONDS", "0")),
        )


class Record:
    """A container that nothing runs in: it starts at once, and ends when its behaviour or the kubelet says so."""

    def __init__(self, behaviour: Behaviour, log: Path | None) -> None:
        self._behaviour = behaviour
        self._log = log
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """None: there is no process."""
        return None

    async def start(self) -> None:
        """Makes the empty log, and sets the alarm for its own end."""
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log.touch()
        if self._behaviour.run_seconds is not None:
            self._end_after(self._behaviour.run_seconds, self._behaviour.exit_code)

    def terminate(self) -> None:
        """Ends after its stop time, with 0 as a program that shuts down in order does."""
        self._end_after(self._behaviour.stop_seconds, 0)

    def kill(self) -> None:
        """Ends at once, or after its kill time."""
        if self._behaviour.kill_seconds:
            self._end_after(self._behaviour.kill_seconds, KILLED)
        else:
            self._end(KILLED)

    async def wait(self) -> int:
        """Waits for its end."""
        return await asyncio.shield(self._exit)

    def reopen_log(self) -> None:
        """Nothing: a record writes no log."""

    async def execute(self, command: Sequence[str]) -> tuple[int, bytes, bytes]:  # noqa: ARG002 a record agrees to all
        """Every command succeeds."""
        return 0, b"", b""

    def _end_after(self, seconds: float, code: int) -> None:
        asyncio.get_running_loop().call_later(seconds, self._end, code)

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)


class Sleeper(Record):
    """A record with a process that does nothing but carry the container's environment, for as long as it runs."""

    def __init__(self, behaviour: Behaviour, log: Path | None, environ: Mapping[str, str]) -> None:
        super().__init__(behaviour, log)
        self._environ = {**environ, "PATH": os.environ.get("PATH", ""), MARKER: os.environ.get(MARKER, "")}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Starts it; it dies with the runtime."""
        argv = ["setpriv", "--pdeathsig", "KILL", "sleep", "infinity"]
        null = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            *argv, stdin=null, stdout=null, stderr=null, env=self._environ, start_new_session=True
        )
        await super().start()

    async def wait(self) -> int:
        """Waits for its end; only a process that is gone has ended. One that somebody else kills ends the record."""
        assert self._process is not None  # noqa: S101 start() comes first
        gone = asyncio.create_task(self._process.wait())
        told = asyncio.create_task(super().wait())
        await asyncio.wait([gone, told], return_when=asyncio.FIRST_COMPLETED)
        self._end(KILLED)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await gone
        return await told


class RealProcess:
    """A process in a session and a mount namespace of its own, which dies with the runtime."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        environ: Mapping[str, str],
        mounts: Sequence[str],
        cwd: str,
        log: Path,
    ) -> None:
        """Describes it.

        Args:
            argv: program and arguments.
            name: first word of the command line as others see it; empty for the program's own.
            environ: its environment.
            mounts: shell commands that prepare its mount namespace.
            cwd: working directory.
            log: file that its output goes to, in the format of :mod:`.crilog`.
        """
        rename = f"-a {shlex.quote(name)} " if name else ""
        # Who is found by name may get a SIGHUP before its handler stands; an ignored signal stays ignored through exec.
        early = ["trap '' HUP"] if name else []
        script = ["set -e", *early, *mounts, f"cd {shlex.quote(cwd)}", f"exec {rename}{shlex.join(argv)}"]
        # Each of these becomes the next by exec, so the process id stays and so does the death signal.
        self._argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
        self._argv += ["bash", "-c", "\n".join(script)]
        self._environ = dict(environ)
        self._path = log
        self._process: asyncio.subprocess.Process | None = None
        self._copies: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int | None:
        """Process id, also that of its process group and session."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Starts it, and the tasks that copy its output."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self._path.open("ab", buffering=0)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            env=self._environ,
            start_new_session=True,
        )
        for stream, reader in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            if reader is not None:
                self._copies.append(asyncio.create_task(crilog.copy(reader, stream, time.time_ns, self._write)))

    def terminate(self) -> None:
        """SIGTERM to the process alone, as a runtime sends it to a container's first process."""
        self._signal(signal.SIGTERM, group=False)

    def kill(self) -> None:
        """SIGKILL to its whole group."""
        self._signal(signal.SIGKILL, group=True)

    async def wait(self) -> int:
        """Waits for its end, ends what it left behind, and closes the log."""
        assert self._process is not None  # noqa: S101 start() comes first
        code = await self._process.wait()
        self.kill()
        _, unfinished = await asyncio.wait(self._copies, timeout=OUTPUT_SECONDS)
        for copy in unfinished:
            copy.cancel()
        self._log.close()
        return 128 - code if code < 0 else code

    def reopen_log(self) -> None:
        """Opens the log's path anew."""
        self._log.close()
        self._log = self._path.open("ab", buffering=0)

    async def execute(self, command: Sequence[str]) -> tuple[int, bytes, bytes]:
        """Runs the command in its mount namespace, with its environment."""
        enter = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *enter, *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self._environ
        )
        try:
            out, error = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        return process.returncode or 0, out, error

    def _signal(self, sig: signal.Signals, *, group: bool) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                if group:
                    os.killpg(self._process.pid, sig)
                else:
                    self._process.send_signal(sig)

    def _write(self, line: bytes) -> None:
        self._log.write(line)


def python_environment() -> dict[str, str]:
    """What a process needs to run this repository's Python, besides the container's own variables.

    ``PYTHONHOME`` is there because Python finds its library by the first word of its command line, which an entry
    point may replace. ``HOME`` is one without a kubeconfig, so no program can find the person's by mistake.
    """
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "proto"), *packages]),
        "PYTHONUNBUFFERED": "1",
        MARKER: os.environ.get(MARKER, ""),
    }
