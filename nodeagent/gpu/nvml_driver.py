"""The agent's driver for real GPUs, on NVML.

What it reads is the hardware's truth and nothing it remembers: GPU instances one by one, because one without compute
instance has no MIG device and would be missed, each with the placement that the driver tells, because ids say nothing
of it. GPUs that cannot be partitioned (no MIG, MIG off, in a virtual machine, lost) are shown with the reason.

It refuses to change a GPU's MIG mode, which needs all that runs there gone, to touch GPU instances that hold anything
but one compute instance that fills them, which somebody else has made, and to make one without a placement, which
leaves the choice to the driver.

Reading and changing exclude each other on one GPU: an instance that goes while it is read would look like an error.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nodeagent.errors import (
    DriverError,
    DriverMissingError,
    GpuLostError,
    InUseError,
    InvalidArgumentError,
    NoPermissionError,
    NotFoundError,
    NotSupportedError,
)
from nodeagent.gpu import nvml
from nodeagent.gpu.driver import Gpu, Instance, Placement, Profile
from nodeagent.processes import openers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
REOPEN_SECONDS: Final = 30.0
"""Between two openings of the library while a GPU is lost. Only a new opening finds one that was reset, and each takes
time from the other GPUs."""

_MIG_OFF: Final = "MIG mode is off; enable it (nvidia-smi -mig 1) when nothing runs on the GPU"
_MIG_PENDING: Final = "its MIG mode changes at the next reset; reset the GPU or reboot the node when nothing runs there"
_NO_MIG: Final = "this GPU has no MIG and is left as it is"
_NO_PROFILES: Final = "MIG mode is on, but the driver tells no profile; update NVIDIA's driver on the node"
_VGPU_GUEST: Final = "this is a virtual GPU of a virtual machine; its host decides how the GPU is partitioned"
_CODES: Final = {_MIG_OFF: "mig-off", _NO_MIG: "no-mig"}
"""Words for problems that others tell apart."""
_CAPABILITIES: Final = Path("driver/nvidia/capabilities")
"""In the proc file system, the driver's capabilities. One is to configure MIG (MIG user guide, device nodes)."""
_CAP_SYS_ADMIN: Final = 1 << 21
"""Who has it has all capabilities of the driver."""
_VGPU_HOST: Final = "the GPU serves virtual machines, whose use of its instances cannot be seen from here"

logger = logging.getLogger(__name__)


class NvmlDriver:
    """A :class:`nodeagent.gpu.driver.GpuDriver` on NVML. May be called from several threads."""

    def __init__(self, proc: Path = Path("/proc"), devices: Path = Path("/dev")) -> None:
        """Speak to the node's driver; ``proc`` is the node's proc file system, ``devices`` where device files are."""
        self._proc = proc
        self._forbidden = forbidden(proc, devices)
        self._library = _Library()
        self._gpus: dict[int, threading.Lock] = {}
        self._profiles: dict[str, tuple[nvml.GpuProfile, ...]] = {}
        self._compute_profiles: dict[tuple[str, int], tuple[nvml.ComputeProfile, ...]] = {}
        self._seen: dict[int, Gpu] = {}

    @property
    def name(self) -> str:
        """See :class:`GpuDriver`."""
        try:
            with self._library.use():
                return f"nvml {nvml.driver_version()}"
        except DriverError:
            return "nvml"

    def boot_id(self) -> str:
        """See :class:`GpuDriver`."""
        return BOOT_ID.read_text(encoding="ascii").strip()

    def read(self) -> tuple[Gpu, ...]:
        """See :class:`GpuDriver`."""
        with self._library.use():
            gpus = []
            for index in range(nvml.gpu_count()):
                with self._alone(index):
                    gpus.append(self._read(index))
            return tuple(gpus)

    def create(self, gpu: int, placement: Placement) -> None:
        """See :class:`GpuDriver`."""
        with self._changing(gpu) as device:
            profile = next((one for one in self._known(device) if one.name == placement.profile), None)
            if profile is None:
                raise InvalidArgumentError(gpu, f"no profile {placement.profile}")
            if placement.start not in profile.starts:
                raise InvalidArgumentError(gpu, f"{placement.profile} cannot start at {placement.start}")
            made = device.create_gpu_instance(profile.id, placement.start, profile.size)
            try:
                self._fill(gpu, made, profile, placement)
            except DriverError:
                with suppress(DriverError):  # what cannot be removed is reported as broken
                    for inside in self._inside(made, device.uuid()):
                        inside.destroy()
                    made.destroy()
                raise

    def destroy(self, gpu: int, instance: Instance) -> None:
        """See :class:`GpuDriver`."""
        with self._changing(gpu) as device:
            found, inside, _ = self._meant(device, instance)
            if inside is not None:
                inside.destroy()
            found.destroy()

    def repair(self, gpu: int, instance: Instance) -> None:
        """See :class:`GpuDriver`."""
        with self._changing(gpu) as device:
            found, inside, profile = self._meant(device, instance)
            if inside is None:
                self._fill(gpu, found, profile, instance.placement)

    @contextmanager
    def _changing(self, gpu: int) -> Iterator[nvml.Device]:
        """The GPU alone; where it is in use and NVML names nobody, the error tells who has it open.

        That changes are not permitted is kept in mind: a pod's rights do not change while it runs.
        """
        with self._library.use(), self._alone(gpu):
            device = nvml.Device(gpu)
            try:
                yield device
            except NoPermissionError as error:
                self._forbidden = error.reason
                raise
            except InUseError as error:
                if error.processes:
                    raise
                raise InUseError(gpu, f"{error.detail}; it is open in {self._openers(device)}") from error

    def _alone(self, gpu: int) -> threading.Lock:
        return self._gpus.setdefault(gpu, threading.Lock())

    def _openers(self, device: nvml.Device) -> str:
        try:
            return ", ".join(openers(device.file(), self._proc)) or "no other process that can be seen"
        except (DriverError, OSError):
            return "nobody knows which processes"

    def _read(self, index: int) -> Gpu:
        """One GPU; what cannot be read is as it was seen last, with nobody knowing who uses it."""
        seen = self._seen.get(index) or Gpu(index, "", "", 0, 0, (), ())
        unknown = tuple(replace(one, processes=None) for one in seen.instances)
        known = replace(seen, profiles=(), instances=unknown)
        reached = False
        try:
            device = nvml.Device(index)
            uuid = device.uuid()
            reached = True
            if uuid != known.uuid:
                known = Gpu(index, uuid, label(device.name()), device.memory_mib(), 0, (), ())
            on, obstacle = _mode(device)
            if not on:
                self._profiles.pop(uuid, None)
                code = _CODES.get(obstacle, "other")
                return self._keep(replace(known, profiles=(), instances=(), problem=obstacle, problem_code=code))
            return self._keep(self._with_instances(device, known, obstacle))
        except DriverError as error:
            if isinstance(error, GpuLostError | DriverMissingError):
                self._library.doubt()
            # A GPU that fell off the bus is "lost" to some drivers, and to others an unknown error in finding it.
            return replace(known, problem=error.reason, problem_code=error.code if reached else GpuLostError.code)

    def _keep(self, gpu: Gpu) -> Gpu:
        self._seen[gpu.index] = gpu
        return gpu

    def _with_instances(self, device: nvml.Device, known: Gpu, problem: str) -> Gpu:
        """A GPU with MIG on, as it is now."""
        profiles = self._known(device, known.uuid)
        problems = [problem] if problem else []
        if self._forbidden:
            problems.append(self._forbidden)
        if not profiles:
            problems.append(_NO_PROFILES)
        instances = []
        for profile in profiles:
            for found in _gpu_instances(device, profile):
                inside = self._inside(found, known.uuid)
                processes: tuple[int, ...] | None = ()
                uuid = None
                if [one.profile.slices for one in inside] == [profile.slices]:
                    uuid = inside[0].uuid
                    try:
                        processes = inside[0].processes()
                    except DriverError as error:
                        processes = None
                        problems.append(error.reason)
                elif inside:
                    processes = None
                    problems.append(_foreign(device.index, found, inside))
                placement = Placement(found.start, profile.name)
                instances.append(Instance(found.id, placement, found.size, uuid, processes))
        return replace(
            known,
            slots=max((start + one.size for one in profiles for start in one.starts), default=0),
            profiles=tuple(Profile(one.name, one.size, one.starts, one.max_count, one.memory_mib) for one in profiles),
            instances=tuple(sorted(instances, key=lambda instance: instance.placement)),
            problem="; ".join(problems),
            problem_code=NoPermissionError.code if self._forbidden else "other" if problems else "",
        )

    def _known(self, device: nvml.Device, uuid: str | None = None) -> tuple[nvml.GpuProfile, ...]:
        """The GPU's profiles, which stay the same while MIG is on."""
        uuid = uuid or device.uuid()
        if not self._profiles.get(uuid):
            self._profiles[uuid] = device.profiles()
        return self._profiles[uuid]

    def _inside(self, found: nvml.GpuInstance, uuid: str) -> list[nvml.ComputeInstance]:
        """All compute instances in a GPU instance."""
        key = (uuid, found.profile_id)
        if key not in self._compute_profiles:
            self._compute_profiles[key] = found.compute_profiles()
        return [one for profile in self._compute_profiles[key] for one in found.compute_instances(profile)]

    def _meant(
        self, device: nvml.Device, instance: Instance
    ) -> tuple[nvml.GpuInstance, nvml.ComputeInstance | None, nvml.GpuProfile]:
        """The instance as it is now, if it is still the one that was meant: ids are given again."""
        uuid = device.uuid()
        for profile in self._known(device, uuid):
            if profile.name != instance.placement.profile:
                continue
            for found in device.gpu_instances(profile.id):
                if (found.id, found.start) != (instance.id, instance.placement.start):
                    continue
                inside = self._inside(found, uuid)
                if not inside:
                    return found, None, profile
                if [one.profile.slices for one in inside] == [profile.slices] and inside[0].uuid == instance.uuid:
                    return found, inside[0], profile
        raise NotFoundError(device.index, f"GPU instance {instance.id} is not {instance.placement} any more")

    @staticmethod
    def _fill(gpu: int, found: nvml.GpuInstance, profile: nvml.GpuProfile, wanted: Placement) -> None:
        """Make the compute instance that takes a whole GPU instance, once that is seen to be what was wanted."""
        if (found.profile_id, found.start, found.size) != (profile.id, wanted.start, profile.size):
            raise DriverError(gpu, f"{wanted} was asked for, {found.size} slots at {found.start} were made")
        for compute in found.compute_profiles():
            if compute.slices == profile.slices:  # of several the plainest, which comes first
                found.create_compute_instance(compute)
                return
        raise NotSupportedError(gpu, f"{profile.name} has no compute instance that fills it")


class _Library:
    """NVML's being open: opened when first needed, opened anew after it was in doubt and nobody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._open = False
        self._doubted = False
        self._opened_at = 0.0

    @contextmanager
    def use(self) -> Iterator[None]:
        """The library, open.

        Raises:
            DriverError: It cannot be opened.
        """
        with self._lock:
            again = self._doubted and time.monotonic() - self._opened_at >= REOPEN_SECONDS
            if self._open and again and not self._users:
                with suppress(DriverError):
                    nvml.stop()
                self._open = False
            if not self._open:
                nvml.start()
                self._open, self._doubted, self._opened_at = True, False, time.monotonic()
            self._users += 1
        try:
            yield
        except DriverMissingError:
            self.doubt()
            raise
        finally:
            with self._lock:
                self._users -= 1

    def doubt(self) -> None:
        """Something is wrong that only a new opening can put right."""
        self._doubted = True


def label(name: str) -> str:
    """A product name as GPU feature discovery writes it: ``NVIDIA A30`` is ``NVIDIA-A30`` (k8s-device-plugin)."""
    return re.sub(r"[^A-Za-z0-9._ -]", "", name).strip().replace(" ", "-")


def _mode(device: nvml.Device) -> tuple[bool, str]:
    """Whether MIG is on, and what keeps the GPU from being partitioned all the same or because of that."""
    virtualization = device.virtualization()
    try:
        on, will_be = device.mig_mode()
    except NotSupportedError:
        return False, _VGPU_GUEST if virtualization == nvml.VGPU_GUEST else _NO_MIG
    if virtualization == nvml.VGPU_GUEST:
        return on, _VGPU_GUEST
    if on != will_be:
        return on, _MIG_PENDING
    if virtualization in nvml.VGPU_HOSTS:
        return on, _VGPU_HOST
    return on, "" if on else _MIG_OFF


def forbidden(proc: Path, devices: Path) -> str:
    """Why this process may not make or destroy MIG instances, and what to do; empty where it may or nobody can tell.

    Args:
        proc: The node's proc file system.
        devices: Where its device files are.
    """
    if not (proc / _CAPABILITIES.parent).exists() or _is_admin(proc):
        return ""
    capability = proc / _CAPABILITIES / "mig" / "config"
    try:
        minor = re.search(r"^DeviceFileMinor:\s*(\d+)", capability.read_text(encoding="ascii"), re.MULTILINE)
        if minor is not None:
            with suppress(FileNotFoundError):  # the driver's own helper makes it
                os.close(os.open(devices / "nvidia-caps" / f"nvidia-cap{minor[1]}", os.O_RDONLY))
    except OSError as error:
        return NoPermissionError(None, f"the agent may not configure MIG ({error.filename}: {error.strerror})").reason
    return ""


def _is_admin(proc: Path) -> bool:
    for line in (proc / "self" / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
    return False


def _gpu_instances(device: nvml.Device, profile: nvml.GpuProfile) -> Sequence[nvml.GpuInstance]:
    """The GPU instances of a profile; listed once more where one went meanwhile, by somebody else's hand."""
    try:
        return device.gpu_instances(profile.id)
    except NotFoundError:
        return device.gpu_instances(profile.id)


def _foreign(gpu: int, found: nvml.GpuInstance, inside: Sequence[nvml.ComputeInstance]) -> str:
    return (
        f"GPU instance {found.id} holds compute instances ({len(inside)}) that somebody else has made and that pods"
        f" cannot use; remove them (nvidia-smi mig -i {gpu} -gi {found.id} -dci)"
    )
