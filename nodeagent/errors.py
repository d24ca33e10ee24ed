"""What can go wrong on a node, as types whose fields say what and where.

    AgentError
    ├── ConfigError                  a setting that cannot work
    ├── KubeletError                 the kubelet's PodResources API does not answer
    ├── HeldError                    an instance may not be destroyed now
    └── DriverError                  the GPU driver refused or failed
        ├── InUseError               a process or handle is open
        ├── InsufficientResourcesError  slots taken, or the profile's maximum count reached
        ├── InvalidArgumentError     asked for what this GPU does not have
        ├── NotFoundError            the GPU instance is not there (any more)
        ├── NotSupportedError        no MIG on this GPU, or MIG mode is off
        ├── NoPermissionError        the agent may not configure MIG
        ├── ResetRequiredError       a change of the GPU's mode waits for its reset
        ├── GpuLostError             the GPU fell off the bus
        ├── DriverMissingError       there is no driver to speak to
        ├── DriverTooOldError        the driver lacks a call that is needed
        └── DriverSilentError        a call does not return

No error of a library leaves the module that talks to it: it becomes one of these.
"""

from __future__ import annotations

from typing import ClassVar


class AgentError(Exception):
    """Root of all errors of the agent."""


class ConfigError(AgentError):
    """A setting that cannot work.

    Attributes:
        field: The setting as it is written on the command line, e.g. ``--gpu-driver``.
        problem: What is wrong with it and what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class KubeletError(AgentError):
    """The kubelet's PodResources API does not answer.

    Attributes:
        socket: Path of the API's socket.
        detail: What the attempt ended with.
    """

    def __init__(self, socket: str, detail: str) -> None:
        super().__init__(f"the kubelet does not answer at {socket}: {detail}")
        self.socket = socket
        self.detail = detail


class HeldError(AgentError):
    """An instance may not be destroyed now: something holds it, or nobody can tell.

    Attributes:
        gpu: Index of the GPU.
        what: The instance, e.g. ``3g.20gb at 4``.
        why: What holds it, or why nobody can tell, for people.
        passing: Whether it may pass by itself within seconds; a pod that has the instance keeps it.
    """

    def __init__(self, gpu: int, what: str, why: str, *, passing: bool) -> None:
        super().__init__(f"GPU {gpu}: {what} must stay: {why}")
        self.gpu = gpu
        self.what = what
        self.why = why
        self.passing = passing


class DriverError(AgentError):
    """The GPU driver refused or failed.

    Attributes:
        gpu: Index of the GPU on its node; None where the whole driver is meant.
        detail: What was asked and what is in the way.
    """

    code: ClassVar[str] = "driver-failed"
    """Name of the error in logs and in the simulated hardware's faults."""
    remedy: ClassVar[str] = "see the driver's log on the node"
    """What a person can do about it."""

    def __init__(self, gpu: int | None, detail: str) -> None:
        self.gpu = gpu
        self.detail = detail
        super().__init__(f"{'GPU driver' if gpu is None else f'GPU {gpu}'}: {self.reason}")

    @property
    def reason(self) -> str:
        """What is in the way and what to do about it, for a place where the GPU is named already."""
        return f"{self.detail}; {self.remedy}"


class InUseError(DriverError):
    """A process or an open handle is in the way; passes by itself within tenths of a second of the process's end.

    Attributes:
        processes: Process ids that the driver names; may be empty, since handles show no process.
    """

    code = "in-use"
    remedy = "end what uses it"

    def __init__(self, gpu: int | None, detail: str, processes: tuple[int, ...] = ()) -> None:
        super().__init__(gpu, detail)
        self.processes = processes


class InsufficientResourcesError(DriverError):
    """The slots are taken, or the profile's maximum count is reached. Trying again changes nothing."""

    code = "insufficient-resources"
    remedy = "the geometry must be planned anew from what the GPU holds"


class InvalidArgumentError(DriverError):
    """Asked for a profile or a start that this GPU does not have."""

    code = "invalid-argument"
    remedy = "this is a defect of Nebulnetes, please report it"


class NotFoundError(DriverError):
    """The GPU instance is not there, or is no longer the one that was meant."""

    code = "not-found"
    remedy = "something else changes MIG instances on this node; let only one do it"


class NotSupportedError(DriverError):
    """The GPU has no MIG, or MIG mode is off."""

    code = "not-supported"
    remedy = "enable MIG mode on this GPU"


class NoPermissionError(DriverError):
    """The agent may not configure MIG."""

    code = "no-permission"
    remedy = "run the agent privileged, with NVIDIA_MIG_CONFIG_DEVICES=all and NVIDIA_MIG_MONITOR_DEVICES=all"


class ResetRequiredError(DriverError):
    """A change of the GPU's mode takes effect with its reset only, and nothing else can be done until then."""

    code = "reset-required"
    remedy = "reset the GPU or reboot the node when nothing runs there"


class GpuLostError(DriverError):
    """The GPU does not answer any more."""

    code = "gpu-lost"
    remedy = "reset the GPU or reboot the node"


class DriverMissingError(DriverError):
    """There is no driver to speak to: no library, no kernel module, or the two are not of one version."""

    code = "driver-missing"
    remedy = (
        "install NVIDIA's driver on the node, run the agent with the nvidia runtime class, and restart the agent after"
        " the driver was updated"
    )


class DriverTooOldError(DriverError):
    """The driver lacks a call, or a version of it, that the agent needs."""

    code = "driver-too-old"
    remedy = "update NVIDIA's driver on the node"


class DriverSilentError(DriverError):
    """A call to the driver does not return. No other is made until it does: that one would hang as well."""

    code = "driver-silent"
    remedy = "see the kernel's log on the node; where it stays so, reboot the node"
