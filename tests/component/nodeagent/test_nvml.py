"""The driver for real GPUs through the real binding, on the stand-in for NVIDIA's library."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pynvml
import pytest

from n8s.catalogue import models
from n8s.v1 import agent_pb2
from nodeagent import errors
from nodeagent.apply import Applier
from nodeagent.gpu import nvml_driver
from nodeagent.gpu.bounded import BoundedDriver
from nodeagent.gpu.driver import Placement, Profile
from nodeagent.gpu.nvml import _name
from nodeagent.gpu.nvml_driver import NvmlDriver, label
from tests.nvml.standin import HANG, StandIn
from tests.unit.nodeagent.standins import MemoryKubelet, MemoryPlugin

if TYPE_CHECKING:
    from pathlib import Path

    from nodeagent.gpu.driver import Gpu, Instance


@pytest.fixture
def node(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path / "state")


def only(driver: NvmlDriver) -> Instance:
    (instance,) = driver.read()[0].instances
    return instance


def shown(gpu: Gpu) -> list[tuple[str, bool]]:
    return [(str(instance.placement), instance.uuid is not None) for instance in gpu.instances]


@pytest.mark.parametrize("key", sorted(models()))
def test_what_each_model_can_make_is_read_from_the_driver(node: StandIn, key: str) -> None:
    node.add(key)
    (gpu,) = NvmlDriver().read()
    model = models()[key]
    assert (gpu.index, gpu.slots, gpu.instances, gpu.problem) == (0, model.memory_slices, (), "")
    assert gpu.uuid.startswith("GPU-")
    assert gpu.model in model.product_names
    assert set(gpu.profiles) == {
        Profile(one.name, one.size, one.starts, one.max_count, one.memory_mib or 0) for one in model.profiles
    }


def test_an_instance_is_made_where_it_is_wanted_and_destroyed(node: StandIn) -> None:
    for key in ("A100-40GB", "A30-24GB", "RTX-PRO-6000-96GB"):
        node.add(key)
    driver = NvmlDriver()
    driver.create(0, Placement(4, "3g.20gb"))
    driver.create(0, Placement(2, "1g.5gb+me"))
    driver.create(1, Placement(2, "2g.12gb"))
    driver.create(2, Placement(9, "1g.24gb-me"))
    a100, a30, rtx = driver.read()
    assert shown(a100) == [("1g.5gb+me at 2", True), ("3g.20gb at 4", True)]
    assert (shown(a30), shown(rtx)) == ([("2g.12gb at 2", True)], [("1g.24gb-me at 9", True)])
    assert [instance.size for instance in a100.instances] == [1, 4]
    old = a100.instances[1]
    driver.destroy(0, old)
    driver.create(0, Placement(4, "3g.20gb"))
    new = driver.read()[0].instances[1]
    assert (new.id, new.placement) == (old.id, old.placement)
    assert new.uuid != old.uuid
    with pytest.raises(errors.NotFoundError):  # the id is there again, but it is another instance
        driver.destroy(0, old)
    assert driver.read()[0].instances[1] == new


@pytest.mark.parametrize(
    ("placement", "error"),
    [
        (Placement(0, "4g.20gb"), errors.InsufficientResourcesError),  # slots are taken
        (Placement(5, "1g.5gb+me"), errors.InsufficientResourcesError),  # one with media engines is there
        (Placement(1, "2g.10gb"), errors.InvalidArgumentError),
        (Placement(0, "1g.10gb+me"), errors.InvalidArgumentError),
    ],
)
def test_what_the_hardware_refuses(node: StandIn, placement: Placement, error: type[errors.DriverError]) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    driver.create(0, Placement(3, "1g.5gb+me"))
    before = driver.read()
    with pytest.raises(error):
        driver.create(0, placement)
    assert driver.read() == before


@pytest.mark.parametrize("kind", ["compute", "graphics", "mps"])
def test_processes_of_each_kind_hold_an_instance(node: StandIn, kind: str) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    driver.create(0, Placement(0, "7g.40gb"))
    uuid = only(driver).uuid or ""
    node.hold(uuid, 4711, kind)  # type: ignore[arg-type]
    node.hold(uuid, 42, "compute")
    assert only(driver).processes == (42, 4711)
    with pytest.raises(errors.InUseError) as caught:
        driver.destroy(0, only(driver))
    assert caught.value.processes == (42, 4711)
    node.release(42)
    node.release(4711)
    driver.destroy(0, only(driver))
    assert driver.read()[0].instances == ()


def test_of_an_open_handle_it_is_told_who_has_the_gpu_open(node: StandIn, tmp_path: Path) -> None:
    for pid, name, device in ((31, "nsys", "/dev/nvidia3"), (7, "other", "/dev/nvidia4")):
        (tmp_path / "proc" / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "comm").write_text(f"{name}\n")
        (tmp_path / "proc" / str(pid) / "fd" / "5").symlink_to(device)
    (tmp_path / "proc" / "9").mkdir()  # it has just ended
    node.add("A100-40GB")
    driver = NvmlDriver(tmp_path / "proc")
    driver.create(0, Placement(0, "7g.40gb"))
    node.hold(only(driver).uuid or "", 0, "handle")
    assert only(driver).processes == ()
    with pytest.raises(
        errors.InUseError, match=r"\(NVML error 19\); it is open in nsys \(31\); end what uses it"
    ) as caught:
        driver.destroy(0, only(driver))
    assert caught.value.processes == ()
    node.release(0)
    driver.destroy(0, only(driver))
    node.fail("nvmlDeviceCreateGpuInstanceWithPlacement", pynvml.NVML_ERROR_IN_USE)
    with pytest.raises(errors.InUseError, match="it is open in nsys"):
        driver.create(0, Placement(0, "7g.40gb"))
    node.fail("nvmlDeviceCreateGpuInstanceWithPlacement", pynvml.NVML_ERROR_IN_USE)
    node.fail("nvmlDeviceGetMinorNumber", pynvml.NVML_ERROR_NOT_SUPPORTED)
    with pytest.raises(errors.InUseError, match="nobody knows"):
        driver.create(0, Placement(0, "7g.40gb"))


def test_a_call_of_the_library_that_hangs_is_given_up(node: StandIn) -> None:
    node.add("A100-40GB")
    driver = BoundedDriver(NvmlDriver(), read_seconds=0.2)
    before = driver.read()
    node.fail("nvmlDeviceGetMigMode", HANG)
    for _ in range(2):
        with pytest.raises(errors.DriverSilentError, match="read has not returned since"):
            driver.read()
    node.heal()
    hung = driver._hung
    assert hung is not None
    assert hung.done.wait(10)
    assert driver.read() == before


def test_a_gpu_instance_left_without_compute_instance_is_seen_repaired_and_destroyed(node: StandIn) -> None:
    node.add("H100-80GB")
    driver = NvmlDriver()
    driver.create(0, Placement(4, "3g.40gb"))
    node.fail("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_IN_USE)
    meant = only(driver)
    with pytest.raises(errors.InUseError):
        driver.destroy(0, meant)
    assert (only(driver).uuid, only(driver).placement) == (None, meant.placement)
    driver.repair(0, only(driver))
    assert only(driver).uuid not in {None, meant.uuid}
    driver.repair(0, only(driver))  # nothing to do
    node.fail("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_IN_USE)
    meant = only(driver)
    with pytest.raises(errors.InUseError):
        driver.destroy(0, meant)
    driver.destroy(0, meant)  # the same once more, as after a wait
    assert driver.read()[0].instances == ()


@pytest.mark.parametrize(
    "call", ["nvmlGpuInstanceCreateComputeInstance", "nvmlComputeInstanceGetInfo_v2", "nvmlGpuInstanceGetInfo"]
)
def test_what_cannot_be_finished_is_removed_where_that_is_possible(node: StandIn, call: str) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    node.fail(call, pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(errors.DriverError, match="NVML error 999"):
        driver.create(0, Placement(0, "3g.20gb"))
    # A GPU instance of which the driver has not told the handle stays, for the next look to show.
    expected = [("3g.20gb at 0", False)] if call == "nvmlGpuInstanceGetInfo" else []
    assert shown(driver.read()[0]) == expected


def test_another_placement_than_asked_for_is_not_taken_for_success(
    node: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    real = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement

    def elsewhere(device: object, profile: int, _: object) -> object:
        return real(device, profile, ctypes.byref(pynvml.c_nvmlGpuInstancePlacement_t(start=4, size=4)))

    monkeypatch.setattr(pynvml, "nvmlDeviceCreateGpuInstanceWithPlacement", elsewhere)
    with pytest.raises(errors.DriverError, match="at 0 was asked for, 4 slots at 4 were made"):
        driver.create(0, Placement(0, "3g.20gb"))
    assert driver.read()[0].instances == ()


@pytest.mark.parametrize(
    ("number", "error", "remedy"),
    [
        (pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, errors.InsufficientResourcesError, "planned anew"),
        (pynvml.NVML_ERROR_IN_USE, errors.InUseError, "end what uses it"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, errors.NotSupportedError, "enable MIG mode"),
        (pynvml.NVML_ERROR_NO_PERMISSION, errors.NoPermissionError, "NVIDIA_MIG_CONFIG_DEVICES=all"),
        (pynvml.NVML_ERROR_INVALID_ARGUMENT, errors.InvalidArgumentError, "defect of Nebulnetes"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, errors.ResetRequiredError, "reset the GPU"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, errors.GpuLostError, "reset the GPU or reboot"),
        (pynvml.NVML_ERROR_UNINITIALIZED, errors.DriverMissingError, "install NVIDIA's driver"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, errors.DriverMissingError, "after the driver was updated"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, errors.DriverTooOldError, "update NVIDIA's driver"),
        (pynvml.NVML_ERROR_TIMEOUT, errors.DriverError, "see the driver's log"),
        (12345, errors.DriverError, "see the driver's log"),
    ],
)
def test_each_error_says_what_it_means_and_what_to_do(
    node: StandIn, number: int, error: type[errors.DriverError], remedy: str
) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    node.fail("nvmlDeviceCreateGpuInstanceWithPlacement", number)
    with pytest.raises(errors.DriverError) as caught:
        driver.create(0, Placement(0, "1g.5gb"))
    assert type(caught.value) is error
    assert caught.value.gpu == 0
    assert "making a GPU instance of profile 19 at 0" in str(caught.value)
    assert f"(NVML error {number})" in str(caught.value)
    assert remedy in str(caught.value)


def test_gpus_that_cannot_be_partitioned_are_shown_with_the_reason(node: StandIn) -> None:
    for _ in range(6):
        node.add("A100-40GB")
    node.add_plain("Tesla T4", 15360)
    driver = NvmlDriver()
    driver.create(1, Placement(0, "7g.40gb"))
    node.set(0, mode=0, pending=0)
    node.set(1, pending=0)
    node.set(2, mode=0, pending=1)
    node.set(3, virtualization=pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU)
    node.set(4, virtualization=pynvml.NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU)
    node.set(5, virtualization=pynvml.NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH)
    gpus = driver.read()
    for gpu, part in zip(
        gpus,
        ["MIG mode is off", "next reset", "next reset", "virtual GPU", "virtual machines", "", "no MIG"],
        strict=True,
    ):
        assert part in gpu.problem
        assert bool(gpu.problem) == bool(part)
    codes = ["mig-off", "other", "other", "other", "other", "", "no-mig"]
    assert [gpu.problem_code for gpu in gpus] == codes
    assert [bool(gpu.profiles) for gpu in gpus] == [False, True, False, True, True, True, False]
    assert shown(gpus[1]) == [("7g.40gb at 0", True)]
    assert (gpus[6].model, gpus[6].memory_mib) == ("Tesla-T4", 15360)
    with pytest.raises(errors.InvalidArgumentError):
        driver.create(6, Placement(0, "1g.5gb"))


CONFIG = "driver/nvidia/capabilities/mig/config"


@pytest.mark.parametrize(
    ("rights", "files", "problem"),
    [
        ("000001ffffffffff", {"driver/nvidia/version": ""}, ""),
        ("0000000000000000", {}, ""),  # no driver of NVIDIA's to judge by
        ("0000000000000000", {"driver/nvidia/version": ""}, "mig/config: No such file or directory"),
        ("0000000000000000", {CONFIG: "DeviceFileMinor: 1\nDeviceFileMode: 256\n"}, ""),
        ("0000000000000000", {CONFIG: "DeviceFileMinor: 2\nDeviceFileMode: 256\n"}, "nvidia-cap2: "),
        ("0000000000000000", {CONFIG: "DeviceFileMinor: 3\nDeviceFileMode: 256\n"}, ""),  # the driver makes it
    ],
)
def test_an_agent_that_may_not_configure_mig_says_so(
    node: StandIn, tmp_path: Path, rights: str, files: dict[str, str], problem: str
) -> None:
    node.add("A100-40GB")
    for name, text in {"self/status": f"Name:\tx\nCapEff:\t{rights}\n", **files}.items():
        (tmp_path / "proc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / name).write_text(text)
    (tmp_path / "dev" / "nvidia-caps").mkdir(parents=True)
    (tmp_path / "dev" / "nvidia-caps" / "nvidia-cap1").touch()
    (tmp_path / "dev" / "nvidia-caps" / "nvidia-cap2").symlink_to("nvidia-cap2")  # stands in for a file that is refused
    (gpu,) = NvmlDriver(tmp_path / "proc", tmp_path / "dev").read()
    assert problem in gpu.problem
    assert bool(gpu.problem) == bool(problem)
    assert gpu.problem_code == ("no-permission" if problem else "")
    assert gpu.profiles


def test_once_a_change_was_not_permitted_none_is_expected_to_be(node: StandIn) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    assert driver.read()[0].problem == ""
    node.fail("nvmlDeviceCreateGpuInstanceWithPlacement", pynvml.NVML_ERROR_NO_PERMISSION)
    with pytest.raises(errors.NoPermissionError):
        driver.create(0, Placement(0, "1g.5gb"))
    (gpu,) = driver.read()
    assert (gpu.problem_code, "NVIDIA_MIG_CONFIG_DEVICES=all" in gpu.problem) == ("no-permission", True)


def test_a_driver_that_tells_no_profile_is_asked_again(node: StandIn) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    node.fail("nvmlDeviceGetGpuInstancePossiblePlacements_v2", pynvml.NVML_ERROR_NOT_SUPPORTED, times=0)
    (gpu,) = driver.read()
    assert (gpu.profiles, gpu.slots) == ((), 0)
    assert "the driver tells no profile" in gpu.problem
    node.heal()
    node.fail("nvmlDeviceGetGpuInstancePossiblePlacements_v2", pynvml.NVML_ERROR_INVALID_ARGUMENT)
    assert [profile.name for profile in driver.read()[0].profiles][:2] == ["2g.10gb", "3g.20gb"]


def test_a_driver_too_old_for_placements_is_named_so(node: StandIn) -> None:
    node.add("A100-40GB")
    node.fail("nvmlDeviceGetGpuInstancePossiblePlacements_v2", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, times=0)
    (gpu,) = NvmlDriver().read()
    assert "update NVIDIA's driver" in gpu.problem
    assert gpu.model == "NVIDIA-A100-SXM4-40GB"


def test_a_virtual_gpu_without_mig_says_so(node: StandIn) -> None:
    node.add_plain("GRID A100-10C", 10240)
    node.set(0, virtualization=pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU)
    assert "its host decides" in NvmlDriver().read()[0].problem


def test_a_lost_gpu_is_shown_as_last_seen_and_leaves_the_others_alone(
    node: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add("A100-40GB")
    node.add("A100-40GB")
    driver = NvmlDriver()
    driver.create(0, Placement(0, "3g.20gb"))
    driver.create(1, Placement(0, "4g.20gb"))
    whole, other = driver.read()
    node.set(0, lost=True)
    gpu, there = driver.read()
    assert there == other
    assert (gpu.uuid, gpu.model, gpu.profiles, gpu.problem_code) == (whole.uuid, whole.model, (), "gpu-lost")
    assert "GPU is lost" in gpu.problem
    assert "reset the GPU or reboot the node" in gpu.problem
    assert [(one.uuid, one.processes) for one in gpu.instances] == [(whole.instances[0].uuid, None)]
    with pytest.raises(errors.GpuLostError):
        driver.destroy(0, whole.instances[0])
    monkeypatch.setattr(nvml_driver, "REOPEN_SECONDS", 0)
    opened = driver._library._opened_at
    node.set(0, lost=False)
    assert driver.read() == (whole, other)
    assert driver._library._opened_at > opened


def test_a_gpu_that_was_lost_from_the_start_is_shown(node: StandIn) -> None:
    node.add("A100-40GB")
    node.set(0, lost=True)
    (gpu,) = NvmlDriver().read()
    assert (gpu.uuid, gpu.model, gpu.instances, gpu.problem_code) == ("", "", (), "gpu-lost")
    assert "lost" in gpu.problem


def test_a_gpu_that_cannot_even_be_found_is_lost_and_one_that_tells_no_profile_is_not(node: StandIn) -> None:
    node.add("A100-40GB")
    node.fail("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_UNKNOWN)
    assert NvmlDriver().read()[0].problem_code == "gpu-lost"
    node.fail("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_UNKNOWN)
    (gpu,) = NvmlDriver().read()
    assert gpu.problem
    assert gpu.problem_code != "gpu-lost"


@pytest.mark.parametrize(
    "number", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN]
)
def test_where_processes_cannot_be_listed_nobody_knows(node: StandIn, number: int) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    driver.create(0, Placement(0, "7g.40gb"))
    node.fail("nvmlDeviceGetComputeRunningProcesses_v3", number, times=0)
    (gpu,) = driver.read()
    assert gpu.instances[0].processes is None
    assert gpu.instances[0].uuid
    assert "listing compute processes" in gpu.problem


async def test_what_the_driver_cannot_tell_of_is_not_destroyed(node: StandIn) -> None:
    node.add("A100-40GB")
    driver, kubelet = NvmlDriver(), MemoryKubelet()
    driver.create(0, Placement(0, "3g.20gb"))
    driver.create(0, Placement(4, "3g.20gb"))
    before = driver.read()
    applier = Applier(driver, kubelet, MemoryPlugin(kubelet), in_use_seconds=0.1)
    # From the second look on, that is the last one before the destroy.
    node.fail("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_UNKNOWN, skip=2, times=0)
    ending = await applier.apply([(0, [Placement(0, "3g.20gb"), Placement(6, "1g.5gb")])], asyncio.Event())
    assert ending.outcome == agent_pb2.OUTCOME_IN_USE
    assert "3g.20gb at 4 must stay: perhaps held, " in ending.message
    assert "listing compute processes" in ending.message
    node.heal()
    assert driver.read() == before


def test_compute_instances_of_others_are_not_touched(node: StandIn) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    driver.create(0, Placement(0, "3g.20gb"))
    node.fail("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_IN_USE)
    meant = only(driver)
    with pytest.raises(errors.InUseError):
        driver.destroy(0, meant)
    split()
    (gpu,) = driver.read()
    assert [(one.uuid, one.processes) for one in gpu.instances] == [(None, None)]
    assert "nvidia-smi mig -i 0 -gi 1 -dci" in gpu.problem
    changes = node.changes
    for change in (driver.destroy, driver.repair):
        with pytest.raises(errors.NotFoundError):
            change(0, gpu.instances[0])
    assert node.changes == changes


def split() -> None:
    """Make a compute instance of one slice in the first GPU instance of profile 9, as ``nvidia-smi mig -cci`` does."""
    count = ctypes.c_uint(8)
    instances = (pynvml.c_nvmlGpuInstance_t * 8)()
    pynvml.nvmlDeviceGetGpuInstances(pynvml.nvmlDeviceGetHandleByIndex(0), 9, instances, ctypes.byref(count))
    one_slice = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instances[0], 0, 0).id
    pynvml.nvmlGpuInstanceCreateComputeInstance(instances[0], one_slice)


def test_a_driver_that_fails_as_a_whole_raises_and_is_found_again(
    node: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    node.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    assert driver.name == "nvml"
    node.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    with pytest.raises(errors.DriverMissingError, match="GPU driver: opening NVML: Driver Not Loaded"):
        driver.read()
    assert len(driver.read()) == 1
    assert driver.name == "nvml 580.95.05"
    node.fail("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_UNINITIALIZED)
    monkeypatch.setattr(nvml_driver, "REOPEN_SECONDS", 0)
    with pytest.raises(errors.DriverMissingError):
        driver.read()
    assert len(driver.read()) == 1


def test_reading_waits_for_a_change_and_does_not_see_half_of_it(node: StandIn) -> None:
    node.add("A100-40GB")
    driver = NvmlDriver()
    driver.read()
    node.fail("nvmlGpuInstanceCreateComputeInstance", HANG)  # hangs between GPU instance and compute instance
    making = threading.Thread(target=driver.create, args=(0, Placement(0, "7g.40gb")), daemon=True)
    making.start()
    seen: list[tuple[Gpu, ...]] = []
    looking = threading.Thread(target=lambda: seen.append(driver.read()), daemon=True)
    while not node.changes:
        making.join(0.001)
    looking.start()
    looking.join(0.05)
    assert not seen
    node.heal()
    making.join(10)
    looking.join(10)
    assert shown(seen[0][0]) == [("7g.40gb at 0", True)]


def test_names_are_those_of_gpu_feature_discovery() -> None:
    assert label("NVIDIA A100-SXM4-40GB") == "NVIDIA-A100-SXM4-40GB"
    assert label("NVIDIA H100 80GB HBM3 (TM)") == "NVIDIA-H100-80GB-HBM3-TM"


def inspect(node: StandIn, *flags: str, **more: str) -> tuple[int, dict[str, object]]:
    environment = os.environ | node.environment(*flags) | more
    command = [sys.executable, "-m", "nodeagent", "inspect", "--json", "--pod-resources-socket", "/nowhere/k.sock"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert not done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return done.returncode, told


@pytest.mark.parametrize(
    ("key", "total_mib"),  # the whole memory as nvidia-smi shows it
    [("A30-24GB", 24576), ("A100-40GB", 40960), ("A100-80GB", 81920), ("H100-80GB", 81559), ("H200-141GB", 143771)],
)
def test_names_by_rule_are_those_of_drivers_that_give_names(key: str, total_mib: int) -> None:
    for profile in models()[key].profiles:
        slices = int(profile.name.partition("g")[0])
        assert _name(profile.nvml_profile, slices, profile.memory_mib or 0, total_mib) == profile.name


def test_an_old_driver_lacks_calls_and_does_its_work_all_the_same(node: StandIn) -> None:
    for key in ("A100-40GB", "A30-24GB"):
        node.add(key)
    driver = NvmlDriver()
    driver.create(0, Placement(4, "3g.20gb"))
    node.hold(only(driver).uuid or "", 4711, "compute")
    _, new = inspect(node)
    _, old = inspect(node, "-DOLD_DRIVER")
    assert old == new  # names put together by rule are those that a newer driver gives
    assert old["differences_from_catalogue"] == {"0": [], "1": []}
    assert "4711" in json.dumps(old)


def test_inspection_changes_nothing(node: StandIn) -> None:
    node.add("A100-40GB")
    NvmlDriver().create(0, Placement(4, "3g.20gb"))
    changes = node.changes
    code, told = inspect(node)
    assert node.changes == changes
    assert code == 1  # the kubelet does not answer
    assert told["driver"] == "nvml 580.95.05"
    state = told["state"]
    assert isinstance(state, dict)
    assert "kubelet does not answer" in state["problem"]
    assert state["gpus"][0]["instances"][0]["state"] == "INSTANCE_STATE_UNKNOWN"


def test_inspection_without_a_driver_says_so(node: StandIn) -> None:
    node.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, times=0)
    code, told = inspect(node)
    assert (code, told["driver"]) == (1, "nvml")
    assert "install NVIDIA's driver on the node" in json.dumps(told)
