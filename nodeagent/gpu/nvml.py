"""NVML as values and our own errors: the one module that speaks to NVIDIA's library, through ``nvidia-ml-py``.

It hides what catches people out in that library. A profile is asked for by an enum and named by an id in every other
call, which is another number. Structures go to C as they are given, so a placement is passed by reference or the
process dies. Newer calls are missing in older drivers. Names are not unique and not always given. A GPU instance is not
a MIG device: that is the compute instance in it.

It holds no handle for longer than its caller, who knows when the library is open, and decides nothing.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from ctypes import byref, c_uint
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pynvml

from nodeagent.errors import (
    DriverError,
    DriverMissingError,
    DriverTooOldError,
    GpuLostError,
    InsufficientResourcesError,
    InUseError,
    InvalidArgumentError,
    NoPermissionError,
    NotFoundError,
    NotSupportedError,
    ResetRequiredError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROFILE_ENUMS: Final = 64
"""More than any driver has (18 in 2026); the driver says where they end."""
MOST_INSTANCES: Final = 64
"""More than any GPU holds of one profile: 7 in 2026."""

VGPU_GUEST: Final = pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU
VGPU_HOSTS: Final = (pynvml.NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU, pynvml.NVML_GPU_VIRTUALIZATION_MODE_HOST_VSGA)

_MEANING: Final[dict[int, type[DriverError]]] = {
    pynvml.NVML_ERROR_UNINITIALIZED: DriverMissingError,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: DriverMissingError,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: DriverMissingError,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: DriverMissingError,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: DriverTooOldError,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: DriverTooOldError,
    pynvml.NVML_ERROR_INVALID_ARGUMENT: InvalidArgumentError,
    pynvml.NVML_ERROR_NOT_SUPPORTED: NotSupportedError,
    pynvml.NVML_ERROR_NO_PERMISSION: NoPermissionError,
    pynvml.NVML_ERROR_NOT_FOUND: NotFoundError,
    pynvml.NVML_ERROR_GPU_NOT_FOUND: NotFoundError,
    pynvml.NVML_ERROR_IN_USE: InUseError,
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES: InsufficientResourcesError,
    pynvml.NVML_ERROR_RESET_REQUIRED: ResetRequiredError,
    pynvml.NVML_ERROR_GPU_IS_LOST: GpuLostError,
}
"""What NVML's errors mean to the agent; any other is a :class:`DriverError` that names it."""

_SUFFIXES: Final = {
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
}
"""By profile enum, what the name ends with where the driver gives none."""

_NAME: Final = re.compile(r"\d+g\.\d+gb(?:[+-][a-z.]+)?")

_Handle: TypeAlias = Any  # ctypes pointers of a package without types
_Lister: TypeAlias = "Callable[[_Handle], Sequence[Any]]"

_PROCESS_LISTS: Final[tuple[tuple[str, tuple[_Lister, ...]], ...]] = (
    (
        "compute",
        (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetComputeRunningProcesses_v2),
    ),
    (
        "graphics",
        (pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
    ),
    (
        "MPS",
        (pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v2),
    ),
)
"""Kinds of processes with the calls that list them, newest first. Only the first kind exists on every GPU."""


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """What the driver says of one GPU instance profile.

    Attributes:
        id: What calls name it by; means nothing on another GPU model.
        name: E.g. ``1g.5gb+me``.
        slices: Compute slices.
        size: Slots that an instance takes.
        starts: Slots where an instance may start, ascending.
        max_count: The most instances on one GPU.
        memory_mib: Memory of an instance in MiB.
    """

    id: int
    name: str
    slices: int
    size: int
    starts: tuple[int, ...]
    max_count: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class ComputeProfile:
    """A profile of compute instances in one GPU instance: the id that calls take, and its compute slices."""

    id: int
    slices: int


def start() -> None:
    """Open the library.

    Raises:
        DriverError: There is none, or it finds no driver.
    """
    with _asked(None, "opening NVML"):
        pynvml.nvmlInit()


def stop() -> None:
    """Close the library; every handle is void afterwards."""
    with _asked(None, "closing NVML"):
        pynvml.nvmlShutdown()


def driver_version() -> str:
    """E.g. ``580.95.05``."""
    with _asked(None, "reading the driver's version"):
        return str(pynvml.nvmlSystemGetDriverVersion())


def gpu_count() -> int:
    """Number of GPUs on the node."""
    with _asked(None, "counting the GPUs"):
        return int(pynvml.nvmlDeviceGetCount())


class Device:
    """One GPU, by its index on the node."""

    def __init__(self, index: int) -> None:
        self.index = index
        with self._asked("finding it"):
            self._handle: _Handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def uuid(self) -> str:
        """``GPU-...``."""
        with self._asked("reading its UUID"):
            return str(pynvml.nvmlDeviceGetUUID(self._handle))

    def name(self) -> str:
        """Product name, e.g. ``NVIDIA A100-SXM4-40GB``."""
        with self._asked("reading its name"):
            return str(pynvml.nvmlDeviceGetName(self._handle))

    def memory_mib(self) -> int:
        """Memory of the whole GPU in MiB; 0 where it has none of its own."""
        try:
            with self._asked("reading its memory"):
                return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).total) // 1024**2
        except NotSupportedError:
            return 0

    def file(self) -> str:
        """Its device file, e.g. ``/dev/nvidia0``, whose number need not be the index."""
        with self._asked("reading its minor number"):
            return f"/dev/nvidia{int(pynvml.nvmlDeviceGetMinorNumber(self._handle))}"

    def virtualization(self) -> int:
        """NVML's virtualization mode; 0 (none) also where the driver does not know the question."""
        try:
            with self._asked("reading its virtualization mode"):
                return int(pynvml.nvmlDeviceGetVirtualizationMode(self._handle))
        except (NotSupportedError, DriverTooOldError):
            return 0

    def mig_mode(self) -> tuple[bool, bool]:
        """Whether MIG is on, and whether it will be after the next reset.

        Raises:
            NotSupportedError: This GPU has no MIG.
            DriverError: Anything else.
        """
        with self._asked("reading its MIG mode"):
            current, pending = pynvml.nvmlDeviceGetMigMode(self._handle)
        return bool(current), bool(pending)

    def profiles(self) -> tuple[GpuProfile, ...]:
        """All GPU instance profiles that have a placement, by enum; the driver answers for certain with MIG on only."""
        found = []
        memory = self.memory_mib()
        for enum in range(PROFILE_ENUMS):
            try:
                info, name = self._profile_info(enum)
            except NotSupportedError:
                continue
            except InvalidArgumentError:
                break
            try:
                starts, size = self._placements(info.id)
            except (NotSupportedError, InvalidArgumentError):
                continue
            if starts:
                found.append(
                    GpuProfile(
                        id=info.id,
                        name=name or _name(enum, info.sliceCount, info.memorySizeMB, memory),
                        slices=info.sliceCount,
                        size=size,
                        starts=starts,
                        max_count=_max_count(enum, info.instanceCount, starts, size),
                        memory_mib=int(info.memorySizeMB),
                    )
                )
        return tuple(found)

    def _profile_info(self, enum: int) -> tuple[Any, str]:
        """The driver's structure and the name in it, empty where the driver is too old to give one."""
        with self._asked(f"reading the profile of enum {enum}"):
            try:
                info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(self._handle, enum, version=2)
            except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_ArgumentVersionMismatch):
                return pynvml.nvmlDeviceGetGpuInstanceProfileInfo(self._handle, enum, version=1), ""
        name = str(info.name).removeprefix("MIG ")
        return info, name if _NAME.fullmatch(name) else ""

    def _placements(self, profile_id: int) -> tuple[tuple[int, ...], int]:
        """Where instances may start, ascending, and how many slots one takes."""
        count = c_uint(0)
        with self._asked(f"counting the placements of profile {profile_id}"):
            pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._handle, profile_id, None, byref(count))
        array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        if count.value:
            with self._asked(f"reading the placements of profile {profile_id}"):
                pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._handle, profile_id, array, byref(count))
        found = array[: count.value]
        return tuple(sorted({one.start for one in found})), found[0].size if found else 0

    def gpu_instances(self, profile_id: int) -> tuple[GpuInstance, ...]:
        """The GPU instances of a profile, with and without compute instance."""
        count = c_uint(MOST_INSTANCES)
        array = (pynvml.c_nvmlGpuInstance_t * MOST_INSTANCES)()
        with self._asked(f"listing GPU instances of profile {profile_id}"):
            pynvml.nvmlDeviceGetGpuInstances(self._handle, profile_id, array, byref(count))
        return tuple(GpuInstance(self.index, handle) for handle in array[: count.value])

    def create_gpu_instance(self, profile_id: int, start: int, size: int) -> GpuInstance:
        """Make a GPU instance at an exact placement; ``size`` must be the profile's."""
        placement = pynvml.c_nvmlGpuInstancePlacement_t(start=start, size=size)
        with self._asked(f"making a GPU instance of profile {profile_id} at {start}"):
            handle = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(self._handle, profile_id, byref(placement))
        return GpuInstance(self.index, handle)

    def _asked(self, what: str) -> Any:
        return _asked(self.index, what)


class GpuInstance:
    """A GPU instance as it is now.

    Attributes:
        id: The driver's id on this GPU.
        profile_id: Of its profile.
        start: First slot.
        size: Slots taken.
    """

    def __init__(self, gpu: int, handle: _Handle) -> None:
        """Read what the driver says of the instance.

        Raises:
            NotFoundError: It has just gone.
        """
        self._gpu = gpu
        self._handle = handle
        with _asked(gpu, "reading a GPU instance"):
            info = pynvml.nvmlGpuInstanceGetInfo(handle)
        self.id = int(info.id)
        self.profile_id = int(info.profileId)
        # Only this is true: the id says nothing about where an instance lies.
        self.start, self.size = int(info.placement.start), int(info.placement.size)

    def compute_profiles(self) -> tuple[ComputeProfile, ...]:
        """Profiles of compute instances that it can hold, by enum."""
        found = []
        for enum in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            try:
                with self._asked(f"reading the compute profile of enum {enum}"):
                    found.append(self._compute_profile(enum))
            except NotSupportedError:
                continue
            except InvalidArgumentError:
                break
        return tuple(found)

    def _compute_profile(self, enum: int) -> ComputeProfile:
        shared = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
        try:
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(self._handle, enum, shared, version=2)
        except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_ArgumentVersionMismatch):
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(self._handle, enum, shared, version=1)
        return ComputeProfile(id=int(info.id), slices=int(info.sliceCount))

    def compute_instances(self, profile: ComputeProfile) -> tuple[ComputeInstance, ...]:
        """The compute instances of a profile."""
        count = c_uint(MOST_INSTANCES)
        array = (pynvml.c_nvmlComputeInstance_t * MOST_INSTANCES)()
        with self._asked("listing compute instances"):
            pynvml.nvmlGpuInstanceGetComputeInstances(self._handle, profile.id, array, byref(count))
        return tuple(ComputeInstance(self._gpu, self.id, handle, profile) for handle in array[: count.value])

    def create_compute_instance(self, profile: ComputeProfile) -> ComputeInstance:
        """Make a compute instance."""
        with self._asked("making its compute instance"):
            handle = pynvml.nvmlGpuInstanceCreateComputeInstance(self._handle, profile.id)
        return ComputeInstance(self._gpu, self.id, handle, profile)

    def destroy(self) -> None:
        """Destroy it; it must have no compute instance any more."""
        with self._asked("destroying it"):
            pynvml.nvmlGpuInstanceDestroy(self._handle)

    def _asked(self, what: str) -> Any:
        return _asked(self._gpu, f"GPU instance {self.id}: {what}")


class ComputeInstance:
    """A compute instance: what a MIG device is.

    Attributes:
        profile: Its profile.
        uuid: ``MIG-...`` of the MIG device.
    """

    def __init__(self, gpu: int, gpu_instance: int, handle: _Handle, profile: ComputeProfile) -> None:
        self._gpu = gpu
        self._gpu_instance = gpu_instance
        self._handle = handle
        self.profile = profile
        with self._asked("reading its MIG device"):
            self._device: _Handle = pynvml.nvmlComputeInstanceGetInfo_v2(handle).device
            self.uuid = str(pynvml.nvmlDeviceGetUUID(self._device))

    def processes(self) -> tuple[int, ...]:
        """Ids of the processes on it, ascending: compute, graphics and MPS.

        Raises:
            DriverError: The driver cannot tell.
        """
        found: set[int] = set()
        for kind, versions in _PROCESS_LISTS:
            try:
                with self._asked(f"listing {kind} processes"):
                    found.update(self._pids(versions))
            except (NotSupportedError, DriverTooOldError):
                if kind == "compute":
                    raise
        return tuple(sorted(found))

    def _pids(self, versions: Sequence[_Lister]) -> list[int]:
        newest, *older = versions
        try:
            return [int(process.pid) for process in newest(self._device)]
        except pynvml.NVMLError_FunctionNotFound:
            if not older:
                raise
            return self._pids(older)

    def destroy(self) -> None:
        """Destroy it.

        Raises:
            InUseError: A process or handle is open on it.
        """
        try:
            with self._asked("destroying its compute instance"):
                pynvml.nvmlComputeInstanceDestroy(self._handle)
        except InUseError as error:
            raise InUseError(self._gpu, error.detail, self._processes_or_none_seen()) from error

    def _processes_or_none_seen(self) -> tuple[int, ...]:
        try:
            return self.processes()
        except DriverError:
            return ()

    def _asked(self, what: str) -> Any:
        return _asked(self._gpu, f"GPU instance {self._gpu_instance}: {what}")


@contextmanager
def _asked(gpu: int | None, what: str) -> Iterator[None]:
    """Turn NVML's errors into ours, with what was asked."""
    try:
        yield
    except pynvml.NVMLError as error:
        meaning = _MEANING.get(error.value, DriverError)
        raise meaning(gpu, f"{what}: {error} (NVML error {error.value})") from error
    except UnicodeDecodeError as error:
        raise DriverError(gpu, f"{what}: the answer is no text") from error


def _name(enum: int, slices: int, memory_mib: int, total_mib: int) -> str:
    """A profile's name where the driver gives none: as NVIDIA's own tools put it together (go-nvlib, ``mig_profile``).

    The share of the whole memory is rounded up to eighths, and what that makes of the whole GB to the nearest one.
    """
    share = math.ceil(memory_mib / total_mib * 8) / 8 if total_mib else 0.0
    gigabytes = math.floor(share * math.ceil(total_mib / 1024) + 0.5)
    return f"{slices}g.{gigabytes}gb{_SUFFIXES.get(enum, '')}"


def _max_count(enum: int, told: int, starts: Sequence[int], size: int) -> int:
    """The most instances of a profile: as many as lie side by side, fewer where media engines are what is scarce.

    Drivers tell a wrong number for plain profiles of the A30, so only for profiles that are about media engines the
    number told counts.
    """
    beside, free = 0, 0
    for start in starts:
        if start >= free:
            beside, free = beside + 1, start + size
    return min(told, beside) if told and "me" in _SUFFIXES.get(enum, "") else beside
