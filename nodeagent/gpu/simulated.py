"""GPUs that exist only as a file, and keep the rules of the hardware.

A directory is the hardware of one node: every process that opens it sees the same GPUs, as processes share a driver.
The agent partitions them, a stand-in for the device plugin lists their MIG devices, a fake container runtime opens
them. What it obeys is what catches people out on real parts: placements and maximum counts, occupied slots are
"insufficient resources" and not "exists already", GPU and compute instances are made and destroyed one by one, ids are
given in order of creation and again after a destroy, UUIDs are new each time, a held instance is "in use".

It refuses to be clever for its caller: no creation without a placement, no retry, no order of its own. It knows nothing
of Kubernetes, and does not show memory, clocks, errors of single chips or MIG mode changes.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypedDict

from n8s import catalogue
from nodeagent.errors import (
    DriverError,
    GpuLostError,
    InsufficientResourcesError,
    InUseError,
    InvalidArgumentError,
    NoPermissionError,
    NotFoundError,
    NotSupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Call = Literal[
    "read", "create_gpu_instance", "create_compute_instance", "destroy_compute_instance", "destroy_gpu_instance"
]
"""The calls that a fault can be injected into."""

_ERRORS: Final = {
    error.code: error
    for error in (
        DriverError,
        GpuLostError,
        InsufficientResourcesError,
        InUseError,
        InvalidArgumentError,
        NoPermissionError,
        NotFoundError,
        NotSupportedError,
    )
}


class MigDevice(NamedTuple):
    """A GPU instance with a compute instance: what the device plugin lists and a container can open.

    Attributes:
        uuid: ``MIG-...``.
        profile: Profile name, e.g. ``1g.5gb``.
        gpu: Index of the GPU.
        start: First slot.
    """

    uuid: str
    profile: str
    gpu: int
    start: int


@dataclass(frozen=True, slots=True)
class SimulatedInstance:
    """A GPU instance.

    Attributes:
        id: The driver's id, unique on its GPU while the instance exists.
        profile_id: NVML profile id, not the enum.
        start: First slot.
        uuid: UUID of its MIG device; None while it has no compute instance.
        processes: Ids of the processes that hold it, ascending.
    """

    id: int
    profile_id: int
    start: int
    uuid: str | None
    processes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """A whole GPU.

    Attributes:
        index: Number on its node, from 0.
        uuid: ``GPU-...``.
        model: Entry of the catalogue.
        instances: By id; none while it is lost.
        lost: Whether it fell off the bus: every call that means it fails.
    """

    index: int
    uuid: str
    model: catalogue.GpuModel
    instances: tuple[SimulatedInstance, ...]
    lost: bool


class _Instance(TypedDict):
    id: int
    profile_id: int
    start: int
    uuid: str | None


class _Gpu(TypedDict):
    uuid: str
    model: str
    instances: list[_Instance]
    lost: bool


class _Fault(TypedDict):
    call: Call
    error: str
    times: int


class _State(TypedDict):
    boot_id: str
    create_seconds: float
    destroy_seconds: float
    gpus: list[_Gpu]
    processes: dict[str, list[str]]
    faults: list[_Fault]


class SimulatedNode:
    """The GPUs of one simulated node.

    Its methods block, as a driver's do, and are safe to call from several processes and threads. Changes take effect
    at once when their time has passed: a caller that is killed meanwhile leaves nothing half done within one call.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open the hardware in ``directory``.

        Raises:
            FileNotFoundError: No hardware has been installed there.
        """
        self._state = Path(directory) / "hardware.json"
        self._lock = Path(directory) / "hardware.lock"
        self._load()

    @classmethod
    def install(
        cls,
        directory: str | os.PathLike[str],
        gpus: Sequence[tuple[str, int]],
        *,
        create_seconds: float = 0.0,
        destroy_seconds: float = 0.0,
        geometry: Sequence[Sequence[tuple[str, int]]] | None = None,
    ) -> SimulatedNode:
        """Lay hardware down in ``directory``, in place of what was there.

        Args:
            directory: Made if it does not exist.
            gpus: Model (key or product name of the catalogue) and number of GPUs of it.
            create_seconds: Time to make one instance, half for the GPU instance and half for its compute instance.
            destroy_seconds: Time to destroy one, split likewise.
            geometry: For each GPU the (profile name, start) of its instances; by default one that takes it whole.

        Raises:
            KeyError: The catalogue does not know a model or profile.
            DriverError: The hardware would refuse the geometry.
        """
        models = [(_known(name), count) for name, count in gpus]
        parts = [model for model, count in models for _ in range(count)]
        state: _State = {
            "boot_id": str(uuid.uuid4()),
            "create_seconds": 0.0,
            "destroy_seconds": 0.0,
            "gpus": [
                {"uuid": f"GPU-{uuid.uuid4()}", "model": model.key, "instances": [], "lost": False} for model in parts
            ],
            "processes": {},
            "faults": [],
        }
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        _write(path / "hardware.json", state)
        node = cls(path)
        wanted = [[(model.largest.name, 0)] for model in parts] if geometry is None else geometry
        for index, (model, placements) in enumerate(zip(parts, wanted, strict=True)):
            for name, start in placements:
                profile = model.profile(name)
                if profile is None:
                    raise KeyError(f"{model.key} has no profile {name}")
                node.create_compute_instance(index, node.create_gpu_instance(index, profile.id, start))
        node.set_times(create_seconds=create_seconds, destroy_seconds=destroy_seconds)
        return node

    # What a driver offers.

    @property
    def boot_id(self) -> str:
        """Id of the current boot; a new one means that all instances are gone."""
        return self._load()["boot_id"]

    def gpus(self) -> tuple[SimulatedGpu, ...]:
        """All GPUs with their instances."""
        state = self._load()
        if any(fault["call"] == "read" for fault in state["faults"]):
            with self._change() as changed:
                _fail_if_injected(changed, "read", 0)
        return tuple(
            SimulatedGpu(
                index=index,
                uuid=gpu["uuid"],
                model=catalogue.models()[gpu["model"]],
                instances=tuple(
                    SimulatedInstance(
                        id=instance["id"],
                        profile_id=instance["profile_id"],
                        start=instance["start"],
                        uuid=instance["uuid"],
                        processes=_holders(state, instance["uuid"]),
                    )
                    for instance in gpu["instances"]
                    if not gpu["lost"]
                ),
                lost=gpu["lost"],
            )
            for index, gpu in enumerate(state["gpus"])
        )

    def profile_info(self, gpu: int, nvml_profile: int) -> catalogue.GpuProfile:
        """The profile behind NVML's enum value; every other call takes its ``id``.

        Raises:
            NotSupportedError: This GPU has no such profile.
        """
        for profile in self.gpus()[gpu].model.profiles:
            if profile.nvml_profile == nvml_profile:
                return profile
        raise NotSupportedError(gpu, f"no profile with enum {nvml_profile}")

    def create_gpu_instance(self, gpu: int, profile_id: int, start: int) -> int:
        """Make a GPU instance at an exact placement and return its id. It has no MIG device yet.

        Raises:
            InvalidArgumentError: No such GPU, profile id or start.
            InsufficientResourcesError: Slots taken, or no more of this profile.
        """
        self._take_half("create_seconds")
        with self._change() as state:
            model, instances = _part(state, gpu)
            _fail_if_injected(state, "create_gpu_instance", gpu)
            profile = next((known for known in model.profiles if known.id == profile_id), None)
            if profile is None:
                raise InvalidArgumentError(gpu, f"no profile with id {profile_id}")
            if start not in profile.starts:
                raise InvalidArgumentError(gpu, f"{profile.name} cannot start at {start}, only at {profile.starts}")
            others = [(_by_id(model, other["profile_id"]), other["start"]) for other in instances]
            if any(start < at + other.size and at < start + profile.size for other, at in others):
                raise InsufficientResourcesError(gpu, f"{profile.name} at {start}: slots are taken")
            if sum(other.id == profile_id for other, _ in others) >= profile.max_count:
                raise InsufficientResourcesError(gpu, f"{profile.name}: all {profile.max_count} exist")
            if any(_media_conflict(profile.name, other.name) for other, _ in others):
                raise InsufficientResourcesError(gpu, f"{profile.name}: media engines are taken")
            taken = {instance["id"] for instance in instances}
            new = next(number for number in range(1, len(taken) + 2) if number not in taken)
            instances.append({"id": new, "profile_id": profile_id, "start": start, "uuid": None})
            return new

    def create_compute_instance(self, gpu: int, gpu_instance: int) -> str:
        """Make the compute instance that fills a GPU instance and return the MIG device's UUID.

        Raises:
            NotFoundError: No such GPU instance.
            InsufficientResourcesError: It has one already.
        """
        self._take_half("create_seconds")
        with self._change() as state:
            instance = _instance(state, gpu, gpu_instance)
            _fail_if_injected(state, "create_compute_instance", gpu)
            if instance["uuid"] is not None:
                raise InsufficientResourcesError(gpu, f"GPU instance {gpu_instance} has its compute instance")
            instance["uuid"] = device = f"MIG-{uuid.uuid4()}"
            return device

    def destroy_compute_instance(self, gpu: int, gpu_instance: int) -> None:
        """Destroy a GPU instance's compute instance; the MIG device goes with it.

        Raises:
            NotFoundError: No such GPU instance, or it has no compute instance.
            InUseError: A process holds it.
        """
        self._take_half("destroy_seconds")
        with self._change() as state:
            instance = _instance(state, gpu, gpu_instance)
            _fail_if_injected(state, "destroy_compute_instance", gpu)
            if instance["uuid"] is None:
                raise NotFoundError(gpu, f"GPU instance {gpu_instance} has no compute instance")
            holders = _holders(state, instance["uuid"])
            if holders:
                raise InUseError(gpu, f"{instance['uuid']} is held by processes {list(holders)}", holders)
            instance["uuid"] = None

    def destroy_gpu_instance(self, gpu: int, gpu_instance: int) -> None:
        """Destroy a GPU instance that has no compute instance any more.

        Raises:
            NotFoundError: No such GPU instance.
            InUseError: Its compute instance exists.
        """
        self._take_half("destroy_seconds")
        with self._change() as state:
            instance = _instance(state, gpu, gpu_instance)
            _fail_if_injected(state, "destroy_gpu_instance", gpu)
            if instance["uuid"] is not None:
                raise InUseError(gpu, f"GPU instance {gpu_instance} has a compute instance")
            state["gpus"][gpu]["instances"].remove(instance)

    # What happens on the node besides.

    def mig_devices(self) -> list[MigDevice]:
        """All MIG devices, by GPU and start: what an enumeration by handle sees, so none without compute instance."""
        devices = [
            MigDevice(instance.uuid, _by_id(gpu.model, instance.profile_id).name, gpu.index, instance.start)
            for gpu in self.gpus()
            for instance in gpu.instances
            if instance.uuid is not None
        ]
        return sorted(devices, key=lambda device: (device.gpu, device.start))

    def hold(self, device: str, pid: int) -> None:
        """A process opens a MIG device; it holds it until :meth:`release`.

        Raises:
            KeyError: There is no MIG device of that UUID.
        """
        with self._change() as state:
            there = [gpu for gpu in state["gpus"] if not gpu["lost"]]
            if not any(instance["uuid"] == device for gpu in there for instance in gpu["instances"]):
                raise KeyError(f"no MIG device {device}")
            held = state["processes"].setdefault(str(pid), [])
            if device not in held:
                held.append(device)

    def release(self, pid: int) -> None:
        """A process closes all it holds; nothing happens when it holds nothing."""
        with self._change() as state:
            state["processes"].pop(str(pid), None)

    def lose(self, gpu: int) -> None:
        """A GPU falls off the bus, until the next reboot; the processes on it go on, and get nothing from it."""
        with self._change() as state:
            state["gpus"][gpu]["lost"] = True

    def reboot(self) -> None:
        """All processes and instances are gone, lost GPUs are back, and the boot id is a new one. Faults stay."""
        with self._change() as state:
            state["boot_id"] = str(uuid.uuid4())
            state["processes"] = {}
            for gpu in state["gpus"]:
                gpu["instances"] = []
                gpu["lost"] = False

    def set_times(self, *, create_seconds: float, destroy_seconds: float) -> None:
        """Set how long it takes to make and to destroy one instance, in seconds."""
        with self._change() as state:
            state["create_seconds"] = create_seconds
            state["destroy_seconds"] = destroy_seconds

    def inject(self, call: Call, error: type[DriverError], *, times: int = 1) -> None:
        """Let the next ``times`` calls of this kind, by any process, fail with ``error`` and change nothing."""
        with self._change() as state:
            state["faults"].append({"call": call, "error": error.code, "times": times})

    def clear_faults(self) -> None:
        """Take back all injected faults."""
        with self._change() as state:
            state["faults"] = []

    def _take_half(self, times: Literal["create_seconds", "destroy_seconds"]) -> None:
        """Let pass what one of two steps takes; a sleep of no time would still give the processor away."""
        seconds = self._load()[times] / 2
        if seconds:
            time.sleep(seconds)

    def _load(self) -> _State:
        state: _State = json.loads(self._state.read_text(encoding="utf-8"))
        return state

    @contextmanager
    def _change(self) -> Iterator[_State]:
        """The state, alone; written back also on a refusal, because that may have used up a fault."""
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._load()
            before = json.dumps(state)
            try:
                yield state
            finally:
                if json.dumps(state) != before:
                    _write(self._state, state)


def _write(path: Path, state: _State) -> None:
    """Replace the file in one step, so that readers need no lock."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(state, indent=1), encoding="utf-8")
    new.replace(path)


def _known(name: str) -> catalogue.GpuModel:
    model = catalogue.lookup(name)
    if model is None:
        raise KeyError(f"unknown GPU model {name}; known are {', '.join(catalogue.models())}")
    return model


def _by_id(model: catalogue.GpuModel, profile_id: int) -> catalogue.GpuProfile:
    return next(profile for profile in model.profiles if profile.id == profile_id)


def _part(state: _State, gpu: int) -> tuple[catalogue.GpuModel, list[_Instance]]:
    if not 0 <= gpu < len(state["gpus"]):
        raise InvalidArgumentError(gpu, f"the node has {len(state['gpus'])} GPUs")
    if state["gpus"][gpu]["lost"]:
        raise GpuLostError(gpu, "GPU is lost")
    return catalogue.models()[state["gpus"][gpu]["model"]], state["gpus"][gpu]["instances"]


def _instance(state: _State, gpu: int, gpu_instance: int) -> _Instance:
    for instance in _part(state, gpu)[1]:
        if instance["id"] == gpu_instance:
            return instance
    raise NotFoundError(gpu, f"no GPU instance {gpu_instance}")


def _holders(state: _State, device: str | None) -> tuple[int, ...]:
    return tuple(sorted(int(pid) for pid, held in state["processes"].items() if device in held))


def _media_conflict(one: str, other: str) -> bool:
    """Whether two profiles exclude each other by the media engines they take.

    One instance with media extensions (``+me``) per GPU; beside one with all of them (``+me.all``) only profiles
    without any (``-me``).
    """
    if one.endswith("+me.all") or other.endswith("+me.all"):
        return not (one.endswith("-me") or other.endswith("-me"))
    return one.endswith("+me") and other.endswith("+me")


def _fail_if_injected(state: _State, call: Call, gpu: int) -> None:
    for fault in state["faults"]:
        if fault["call"] == call:
            fault["times"] -= 1
            if fault["times"] <= 0:
                state["faults"].remove(fault)
            raise _ERRORS[fault["error"]](gpu, f"{call}: injected fault")
