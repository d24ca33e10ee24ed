"""The whole cluster, as a value to enter and leave: for the demo, the tests and the command line.

    with Cluster() as cluster:
        cluster.kubectl("get", "nodes")

On the way out, however that happens, nothing is left: a watchdog process kills what belongs to the cluster and removes
its directory as soon as this process is gone or has called :meth:`Cluster.stop`. It refuses to bring an old directory
back to life: a cluster is made new each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from n8s import names

from . import binaries, config, crilog
from .controlplane import ControlPlane
from .errors import CommandError, LocalError, StartError
from .node import Node
from .process import MARKER, Process
from .workload import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from .api import Api

DESCRIPTION: Final = "cluster.json"
"""File of the directory that says who watches over it."""
GUARD_PORT: Final = 61
"""Port whose listener says that a 127.x.0.0/16 is taken; any fixed number that nobody else uses would do."""
PLUGIN_MANIFEST: Final = Path(__file__).with_name("device-plugin.yaml")
PREFIX: Final = "nebulnetes-"
"""Of the names of temporary directories."""
READY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.1
HIDDEN: Final = ("/var/lib", "/var/log", "/run", "/proc", "/sys")
"""Where nothing that nodes need can lie: they see something else there."""


class Cluster:
    """A control plane and nodes on this machine."""

    def __init__(
        self,
        nodes: Path = config.DEFAULT,
        *,
        state: Path | None = None,
        keep: bool = False,
        status_seconds: float = 10.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Describes it; :meth:`start` makes it.

        Args:
            nodes: YAML file with the nodes, see :mod:`.config`.
            state: directory for everything it writes; must be empty or absent. None: a temporary one.
            keep: leave the directory when the cluster ends; its logs are worth reading.
            status_seconds: how often kubelets look whether their status has changed; 10 is the kubelet's default.
            say: takes lines of progress; None: nobody does.
        """
        self._specs = config.load(nodes)
        self._wanted_state = state
        self._keep = keep
        self._status_seconds = status_seconds
        self._say = say or (lambda _: None)
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.id = secrets.token_hex(8)
        """Marks all processes of this cluster, in their environment."""
        self.nodes: dict[str, Node] = {}
        """By name."""
        self._processes: list[Process] = []

    # Life.

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Makes the cluster and returns when all nodes are ready and the device plugin serves on them.

        Raises:
            LocalError: it could not be made; nothing of it is left.
        """
        if os.geteuid() != 0:
            raise LocalError("the local cluster needs root: its nodes are mount namespaces")
        for what, path in (("the repository", REPOSITORY), ("Python", sys.prefix), ("Python", sys.base_prefix)):
            _check_seen_on_nodes(what, Path(path))
        self.binaries = binaries.ensure(self._say)
        for name, path in self.binaries.items():
            _check_seen_on_nodes(name, path)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        began = time.monotonic()
        self.state = self._directory()
        guard, prefix = _take_network()
        with guard:
            self._start_watchdog(guard)
        self.address = f"{prefix}.0.1"
        """Loopback address that is this cluster's alone: for everything that is not on a node."""
        environ = self._environment()
        self._say(f"control plane on {self.address}, state in {self.state}")
        self.control_plane = ControlPlane(self.state / "control-plane", self.address, self.binaries, environ)
        self._processes += self.control_plane.processes.values()
        for number, spec in enumerate(self._specs, 1):
            self.nodes[spec.name] = Node(
                spec,
                self.state / "nodes" / spec.name,
                network=f"{prefix}.{number}",
                status_seconds=self._status_seconds,
                kubelet=self.binaries["kubelet"],
                authority=self.control_plane.authority,
                server=self.control_plane.url,
                environ=environ,
            )
            self._processes += self.nodes[spec.name].processes
        for each in self.nodes.values():
            each.start_runtime()
        self.control_plane.start()
        for each in self.nodes.values():
            each.start_kubelet()
        self.apply(PLUGIN_MANIFEST.read_text())
        self.wait_for("all nodes are ready", self._nodes_ready, READY_SECONDS)
        self.wait_for("the default namespace takes pods", lambda: self._takes_pods("default"), READY_SECONDS)
        for each in self.nodes.values():
            self.wait_for(f"the device plugin serves on {each.name}", partial(_devices_there, each), READY_SECONDS)
            self._publish_devices(each)
        self._say(f"{len(self.nodes)} nodes ready after {time.monotonic() - began:.1f} s")

    def stop(self) -> None:
        """Ends everything and removes the directory unless it is to be kept. May be called again."""
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None
            if self._processes:  # then there is a control plane
                self.control_plane.api.close()
            for process in self._processes:
                process.stop()  # it is dead already; this takes note of it

    def detach(self) -> None:
        """Lets the cluster outlive this process. ``python -m deploy.local down`` ends it then."""
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(b"+")
            self._watchdog.stdin.close()
            self._describe(self._watchdog, detached=True)
            self._watchdog = None

    def check(self) -> None:
        """Looks whether all processes that should run do.

        Raises:
            StartError: one has ended by itself.
        """
        for process in self._processes:
            if process.ended_by_itself():
                raise StartError(process.name, "has ended", process.log_tail())

    def hold(self) -> NoReturn:
        """Keeps the cluster up, for as long as its processes run.

        Raises:
            LocalError: one has ended, by itself or because somebody ended the cluster.
        """
        while True:
            try:
                self.check()
            except StartError as error:
                raise LocalError(f"the cluster is gone: {error}") from error
            time.sleep(1.0)

    # Use.

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""
        return self.control_plane.kubeconfig

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment, with ``KUBECONFIG`` and the cluster's programs first in ``PATH``."""
        folders = dict.fromkeys(str(path.parent) for path in self.binaries.values())
        path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def run(self, *argv: str, stdin: str = "", timeout: float = 120.0, environ: Mapping[str, str] | None = None) -> str:
        """Runs a command with :attr:`environ` and returns its standard output.

        Args:
            argv: the command.
            stdin: what it reads.
            timeout: seconds.
            environ: further variables.

        Raises:
            CommandError: it failed, or took more than ``timeout`` seconds.
        """
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                env={**self.environ, **(environ or {})},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(list(argv), -1, f"no end within {timeout:g} s") from error
        if done.returncode != 0:
            raise CommandError(list(argv), done.returncode, done.stderr or done.stdout)
        return done.stdout

    def kubectl(self, *args: str, stdin: str = "", timeout: float = 120.0) -> str:
        """Runs kubectl as administrator and returns what it prints.

        Raises:
            CommandError: with kubectl's message.
        """
        return self.run(str(self.binaries["kubectl"]), *args, stdin=stdin, timeout=timeout)

    @property
    def api(self) -> Api:
        """The API server as the administrator sees it, without kubectl."""
        return self.control_plane.api

    def apply(self, manifest: str) -> str:
        """Applies YAML or JSON text, and returns what kubectl says."""
        return self.kubectl("apply", "-f", "-", stdin=manifest)

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Creates a namespace and waits for its default service account, without which it takes no pods."""
        metadata = {"name": name, "labels": dict(labels or {})}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.wait_for(f"namespace {name} takes pods", lambda: self._takes_pods(name), 30)

    def logs(self, pod: str, namespace: str = "default", container: str = "") -> str:
        """What a pod's containers wrote, each run under a heading, oldest first.

        Raises:
            ApiError: there is no such pod.
        """
        document = self.api.get("pods", pod, namespace=namespace)
        where = self.nodes.get(document["spec"].get("nodeName", ""))
        if where is None:
            return ""
        text = ""
        for path in where.logs(namespace, pod, document["metadata"]["uid"]):
            if container in ("", path.parent.name):
                with path.open(errors="replace") as lines:
                    text += f"=== {path.parent.name}, run {path.stem}\n" + crilog.plain_text(lines)
        return text

    def kill(self, namespace: str, pod: str) -> None:
        """Kills the processes of a pod's containers (SIGKILL), as a crash would; the kubelet starts them again.

        Raises:
            ApiError: there is no such pod.
            StartError: it has no process: its containers are records, or do not run.
        """
        where = self.api.get("pods", pod, namespace=namespace)["spec"].get("nodeName", "")
        pids = self.nodes[where].pids(namespace, pod) if where in self.nodes else []
        if not pids:
            raise StartError(f"pod {namespace}/{pod}", "has no process to kill")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_for(self, what: str, condition: Callable[[], bool], timeout: float) -> None:
        """Waits until a condition holds.

        Args:
            what: the condition in words, for the message.
            condition: looked at every :data:`LOOK_SECONDS`.
            timeout: seconds.

        Raises:
            StartError: the time is over.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise StartError("cluster", f"not within {timeout:g} s: {what}")
            time.sleep(LOOK_SECONDS)

    # Inside.

    def _directory(self) -> Path:
        if self._wanted_state is None:
            return Path(tempfile.mkdtemp(prefix=PREFIX))
        state = self._wanted_state.absolute()
        _check_seen_on_nodes("the state", state)
        if state.exists() and any(state.iterdir()):
            raise LocalError(f"{state} is not empty: a cluster is made new each time, so name an empty directory")
        state.mkdir(parents=True, exist_ok=True)
        return state

    def _environment(self) -> dict[str, str]:
        wanted = ("PATH", "HOME", "LANG", "TMPDIR", "GOGC", "GOMAXPROCS")
        inherited = {key: os.environ[key] for key in wanted if key in os.environ}
        return {**inherited, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", MARKER: self.id}

    def _start_watchdog(self, guard: socket.socket) -> None:
        directory = "" if self._keep else str(self.state)
        argv = [sys.executable, "-m", "deploy.local.watchdog", self.id, directory]
        self._watchdog = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # it may outlive who reads this process's output
            stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
            start_new_session=True,
            pass_fds=[guard.fileno()],
        )
        self._describe(self._watchdog, detached=False)

    def _describe(self, watchdog: subprocess.Popen[bytes], *, detached: bool) -> None:
        about = {"id": self.id, "watchdog": watchdog.pid, "checkout": str(REPOSITORY), "detached": detached}
        (self.state / DESCRIPTION).write_text(json.dumps(about))

    def _takes_pods(self, namespace: str) -> bool:
        accounts = self.api.items("serviceaccounts", namespace=namespace)
        return any(account["metadata"]["name"] == "default" for account in accounts)

    def _nodes_ready(self) -> bool:
        ready = 0
        for item in self.api.items("nodes"):
            conditions = {c["type"]: c["status"] for c in item["status"].get("conditions", [])}
            ready += conditions.get("Ready") == "True"
        return ready == len(self.nodes)

    def _publish_devices(self, where: Node) -> None:
        """Writes to the node's status what its kubelet would report within :attr:`_status_seconds`."""
        counts = Counter(names.mig_resource(device.profile) for device in where.hardware.mig_devices())
        quantities = {resource: str(count) for resource, count in counts.items()}
        patch = json.dumps({"status": {"capacity": quantities, "allocatable": quantities}})
        self.kubectl("patch", "node", where.name, "--subresource=status", "--type=merge", "-p", patch)


def end(state: Path) -> None:
    """Ends the cluster in a directory, whoever made it, and returns when it is gone.

    Raises:
        LocalError: there is none.
    """
    try:
        about = json.loads((state / DESCRIPTION).read_text())
    except OSError as error:
        raise LocalError(f"there is no cluster in {state}") from error
    if not _watched(about):
        raise LocalError(f"the cluster in {state} has ended already")
    os.kill(about["watchdog"], signal.SIGTERM)
    while _watched(about):
        time.sleep(LOOK_SECONDS)


def detached(directory: Path) -> list[Path]:
    """Directories, among the temporary ones in ``directory``, of running clusters that this checkout has detached."""
    found = []
    for path in sorted(directory.glob(f"{PREFIX}*/{DESCRIPTION}")):
        with contextlib.suppress(OSError, ValueError):  # it may be going, or just being made
            about = json.loads(path.read_text())
            if about.get("detached") and about.get("checkout") == str(REPOSITORY) and _watched(about):
                found.append(path.parent)
    return found


def _watched(about: Mapping[str, Any]) -> bool:
    """Whether the watchdog of a described cluster lives."""
    try:
        return about["id"].encode() in Path(f"/proc/{about['watchdog']}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _check_seen_on_nodes(what: str, path: Path) -> None:
    if any(path.is_relative_to(place) for place in HIDDEN):
        raise LocalError(f"{what} cannot lie in {path}: nodes see something else below {', '.join(HIDDEN)}")


def _devices_there(where: Node) -> bool:
    """Whether the kubelet offers exactly the devices that the hardware has."""
    try:
        return where.device_ids() == {device.uuid for device in where.hardware.mig_devices()}
    except StartError:
        return False


def _take_network() -> tuple[socket.socket, str]:
    """Takes a 127.x.0.0/16 that no other cluster has.

    Returns:
        The socket that says so as long as it is open, and the first two parts of the addresses.
    """
    for second in range(2, 255):
        guard = socket.socket()
        try:
            guard.bind((f"127.{second}.255.254", GUARD_PORT))
            guard.listen(1)
        except OSError:
            guard.close()
        else:
            return guard, f"127.{second}"
    raise LocalError("no free network below 127.0.0.0/8: too many clusters run on this machine")
