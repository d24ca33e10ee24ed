"""What can go wrong with the local cluster, as one tree.

Foreign errors (of subprocess, PyYAML, grpc) do not get out of this package; what a person needs is in the fields.

    LocalError
     +-- ConfigError     the nodes file is not right
     +-- BuildError      a binary could not be built
     +-- StartError      a process of the cluster did not come up
     +-- CommandError    kubectl or helm said no
     +-- ApiError        the API server did not do what it was asked for
     +-- ChartError      the chart was installed, but its pods are not ready
     +-- MountError      a container's mount cannot be made without touching the machine
"""

from __future__ import annotations


class LocalError(Exception):
    """Root of all errors of the local cluster."""


class ConfigError(LocalError):
    """The description of the nodes is wrong.

    Attributes:
        where: path of the value in the document, e.g. ``nodes[1].gpus.count``.
        problem: what is wrong with it and what would be right.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class BuildError(LocalError):
    """A binary of the cluster could not be found nor built.

    Attributes:
        tool: name of the binary.
        output: the end of what the build said.
    """

    def __init__(self, tool: str, output: str) -> None:
        super().__init__(f"cannot build {tool}:\n{output}")
        self.tool = tool
        self.output = output


class StartError(LocalError):
    """A process ended, or was not ready in time.

    Attributes:
        component: which process, e.g. ``n1/kubelet``.
        problem: what was expected of it.
        log: the end of its log.
    """

    def __init__(self, component: str, problem: str, log: str = "") -> None:
        super().__init__(f"{component}: {problem}" + (f"\n--- end of its log\n{log}" if log else ""))
        self.component = component
        self.problem = problem
        self.log = log


class CommandError(LocalError):
    """A command against the cluster failed.

    Attributes:
        argv: the command.
        code: its exit status.
        output: what it wrote to standard error, else to standard output.
    """

    def __init__(self, argv: list[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(argv)} ended with {code}: {output.strip()}")
        self.argv = argv
        self.code = code
        self.output = output


class ApiError(LocalError):
    """The API server did not do what it was asked for.

    Attributes:
        method: HTTP method of the request.
        path: path of the request.
        status: the HTTP status; 0: there was no answer.
        problem: what the server or the connection said.
    """

    def __init__(self, method: str, path: str, status: int, problem: str) -> None:
        super().__init__(f"{method} {path} ended with {status}: {problem}")
        self.method = method
        self.path = path
        self.status = status
        self.problem = problem


class ChartError(LocalError):
    """The chart could not be installed or did not become ready.

    Attributes:
        problem: what helm said.
        pods: the state of the release's pods, with the last lines of their logs.
    """

    def __init__(self, problem: str, pods: str) -> None:
        super().__init__(f"{problem.strip()}\n{pods}")
        self.problem = problem
        self.pods = pods


class MountError(LocalError):
    """A mount of a container has no place to go.

    Attributes:
        container_path: where the container wants it.
        problem: why that cannot be had.
    """

    def __init__(self, container_path: str, problem: str) -> None:
        super().__init__(f"mount at {container_path}: {problem}")
        self.container_path = container_path
        self.problem = problem
