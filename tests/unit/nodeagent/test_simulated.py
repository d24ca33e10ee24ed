"""The simulated hardware keeps the rules that real hardware has."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from nodeagent.errors import (
    DriverError,
    GpuLostError,
    InsufficientResourcesError,
    InUseError,
    InvalidArgumentError,
    NotFoundError,
    NotSupportedError,
)
from nodeagent.gpu.driver import Placement
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver

if TYPE_CHECKING:
    from pathlib import Path


def bare(path: Path, model: str = "A100-40GB") -> SimulatedNode:
    return SimulatedNode.install(path, [(model, 1)], geometry=[[]])


def placements(node: SimulatedNode) -> list[tuple[str, int]]:
    return [(device.profile, device.start) for device in node.mig_devices()]


def test_by_default_each_gpu_holds_one_instance_that_takes_it_whole(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 1), ("NVIDIA-A30", 1), ("RTX-PRO-6000-96GB", 1)])
    assert placements(node) == [("7g.40gb", 0), ("4g.24gb", 0), ("4g.96gb", 0)]


# One line each: model, instances made in this order, how the last one ends.
CREATES: list[tuple[str, list[tuple[str, int]], type[DriverError] | None]] = [
    # Orders that the driver refuses without placements work with them.
    ("A100-40GB", [("1g.5gb", 6), ("1g.5gb", 2), ("2g.10gb", 0), ("3g.20gb", 4)], InsufficientResourcesError),
    ("A100-40GB", [("1g.5gb", 2), ("1g.5gb", 3), ("2g.10gb", 0), ("3g.20gb", 4)], None),
    ("A100-40GB", [("4g.20gb", 0), ("3g.20gb", 4)], None),
    ("A100-40GB", [("3g.20gb", 0), ("4g.20gb", 0)], InsufficientResourcesError),
    ("A100-40GB", [("1g.5gb", start) for start in range(7)], None),
    ("A100-40GB", [("1g.5gb", 7)], InvalidArgumentError),
    ("A100-40GB", [("2g.10gb", 6)], InvalidArgumentError),
    ("A100-40GB", [("1g.10gb", 6), ("1g.10gb", 4)], None),
    ("A100-40GB", [("1g.5gb", 7 - 1), ("1g.10gb", 6)], InsufficientResourcesError),
    ("A100-40GB", [("7g.40gb", 0), ("1g.5gb", 0)], InsufficientResourcesError),
    # The same placement again is no "exists already".
    ("A100-40GB", [("1g.5gb", 0), ("1g.5gb", 0)], InsufficientResourcesError),
    # Media extensions exist once.
    ("A100-40GB", [("1g.5gb+me", 0), ("1g.5gb+me", 1)], InsufficientResourcesError),
    ("A100-40GB", [("1g.5gb+me", 0), ("1g.5gb", 1)], None),
    ("A30-24GB", [("2g.12gb+me", 0), ("1g.6gb+me", 2)], InsufficientResourcesError),
    ("A30-24GB", [("2g.12gb", 0), ("1g.6gb+me", 2), ("1g.6gb", 3)], None),
    ("RTX-PRO-6000-96GB", [("1g.24gb+me.all", 0), ("1g.24gb", 3)], InsufficientResourcesError),
    ("RTX-PRO-6000-96GB", [("1g.24gb+me.all", 0), ("1g.24gb-me", 3), ("2g.48gb-me", 6)], None),
    ("RTX-PRO-6000-96GB", [("1g.24gb", 0), ("1g.24gb+me.all", 3)], InsufficientResourcesError),
    ("RTX-PRO-6000-96GB", [("1g.24gb", 1)], InvalidArgumentError),
    ("RTX-PRO-6000-96GB", [("1g.24gb", 9), ("2g.48gb", 0), ("1g.24gb", 6)], None),
]


@pytest.mark.parametrize(("model", "creates", "error"), CREATES)
def test_creation(tmp_path: Path, model: str, creates: list[tuple[str, int]], error: type[DriverError] | None) -> None:
    node = bare(tmp_path, model)
    driver = SimulatedDriver(node)
    *first, (profile, start) = creates
    for name, at in first:
        driver.create(0, Placement(at, name))
    if error is None:
        driver.create(0, Placement(start, profile))
        assert sorted(placements(node)) == sorted(creates)
    else:
        with pytest.raises(error):
            driver.create(0, Placement(start, profile))
        assert sorted(placements(node)) == sorted(first)


def test_the_profile_id_is_not_the_enum(tmp_path: Path) -> None:
    node = bare(tmp_path)
    assert node.profile_info(0, 0).id == 19
    with pytest.raises(InvalidArgumentError):
        node.create_gpu_instance(0, 1, 0)
    with pytest.raises(NotSupportedError):
        node.profile_info(0, 5)


def test_ids_tell_nothing_of_the_placement_and_are_given_again(tmp_path: Path) -> None:
    node = bare(tmp_path)
    first = node.create_gpu_instance(0, 19, 6)
    second = node.create_gpu_instance(0, 19, 2)
    assert first < second
    node.destroy_gpu_instance(0, first)
    assert node.create_gpu_instance(0, 9, 4) == first


def test_gpu_and_compute_instance_come_and_go_separately(tmp_path: Path) -> None:
    node = bare(tmp_path)
    instance = node.create_gpu_instance(0, 19, 3)
    assert node.mig_devices() == []  # no compute instance, no MIG device
    uuid = node.create_compute_instance(0, instance)
    assert [device.uuid for device in node.mig_devices()] == [uuid]
    with pytest.raises(InUseError):
        node.destroy_gpu_instance(0, instance)
    node.destroy_compute_instance(0, instance)
    assert node.create_compute_instance(0, instance) != uuid  # new each time
    node.destroy_compute_instance(0, instance)
    node.destroy_gpu_instance(0, instance)
    with pytest.raises(NotFoundError):
        node.destroy_gpu_instance(0, instance)


def test_a_held_instance_is_in_use_until_its_process_lets_go(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 1)])
    driver = SimulatedDriver(node)
    node.hold(node.mig_devices()[0].uuid, 4711)
    (instance,) = driver.read()[0].instances
    assert instance.processes == (4711,)
    with pytest.raises(InUseError) as caught:
        driver.destroy(0, instance)
    assert caught.value.processes == (4711,)
    node.release(4711)
    driver.destroy(0, instance)
    assert driver.read()[0].instances == ()


def test_an_instance_that_is_not_the_one_meant_stays(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 1)])
    driver = SimulatedDriver(node)
    (old,) = driver.read()[0].instances
    driver.destroy(0, old)
    driver.create(0, old.placement)
    (new,) = driver.read()[0].instances
    assert (new.id, new.placement) == (old.id, old.placement)
    with pytest.raises(NotFoundError):
        driver.destroy(0, old)


def test_a_failing_compute_instance_leaves_no_gpu_instance(tmp_path: Path) -> None:
    node = bare(tmp_path)
    driver = SimulatedDriver(node)
    node.inject("create_compute_instance", GpuLostError)
    with pytest.raises(GpuLostError):
        driver.create(0, Placement(0, "7g.40gb"))
    assert driver.read()[0].instances == ()


def test_after_a_reboot_nothing_is_left(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 2)])
    boot = node.boot_id
    node.hold(node.mig_devices()[0].uuid, 1)
    node.reboot()
    assert node.mig_devices() == []
    assert node.boot_id != boot
    assert SimulatedDriver(node).boot_id() == node.boot_id


def test_a_lost_gpu_is_shown_as_last_seen_until_a_reboot_and_leaves_the_others_alone(tmp_path: Path) -> None:
    node = SimulatedNode.install(tmp_path, [("A100-40GB", 2)])
    driver = SimulatedDriver(node)
    whole, other = driver.read()
    node.hold(whole.instances[0].uuid or "", 4711)
    node.lose(0)
    lost, there = driver.read()
    assert there == other
    assert (lost.uuid, lost.profiles, lost.problem_code) == (whole.uuid, (), "gpu-lost")
    assert lost.problem == "GPU is lost; reset the GPU or reboot the node"
    assert [(one.uuid, one.processes) for one in lost.instances] == [(whole.instances[0].uuid, None)]
    assert [device.gpu for device in node.mig_devices()] == [1]
    with pytest.raises(GpuLostError):
        driver.destroy(0, lost.instances[0])
    with pytest.raises(GpuLostError):
        driver.create(0, Placement(0, "1g.5gb"))
    with pytest.raises(KeyError):
        node.hold(whole.instances[0].uuid or "", 4712)
    (unseen, _) = SimulatedDriver(node).read()
    assert (unseen.uuid, unseen.instances, unseen.problem_code) == ("", (), "gpu-lost")
    node.reboot()
    assert [(gpu.problem_code, gpu.problem, gpu.instances) for gpu in driver.read()] == [("", "", ())] * 2


def test_faults_hit_the_next_calls_only(tmp_path: Path) -> None:
    node = bare(tmp_path)
    node.inject("create_gpu_instance", InUseError, times=2)
    node.inject("read", GpuLostError)
    with pytest.raises(GpuLostError):
        node.gpus()
    for _ in range(2):
        with pytest.raises(InUseError):
            node.create_gpu_instance(0, 19, 0)
    node.create_gpu_instance(0, 19, 0)


def test_nothing_is_there_before_it_is_installed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SimulatedNode(tmp_path)
    with pytest.raises(KeyError, match="T4"):
        SimulatedNode.install(tmp_path, [("T4", 1)])


def _grab(path: str) -> None:
    node = SimulatedNode(path)
    for start in range(7):
        try:
            node.create_compute_instance(0, node.create_gpu_instance(0, 19, start))
        except InsufficientResourcesError:
            continue


def test_processes_share_the_hardware(tmp_path: Path) -> None:
    node = bare(tmp_path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_grab, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert placements(node) == [("1g.5gb", start) for start in range(7)]
