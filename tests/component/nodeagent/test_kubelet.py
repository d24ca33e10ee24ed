from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from nodeagent.errors import KubeletError
from nodeagent.kubelet import Holder, pod_resources
from tests.component.nodeagent.standins import kubelet_serving

if TYPE_CHECKING:
    from pathlib import Path

    from nodeagent.kubelet import DeviceIds, PodResources


async def test_the_account_of_mig_devices(tmp_path: Path) -> None:
    devices = tmp_path / "devices.json"
    devices.write_text(json.dumps({"nvidia.com/mig-1g.5gb": ["MIG-a", "MIG-b"], "nvidia.com/mig-7g.40gb": []}))
    async with (
        kubelet_serving(tmp_path / "k.sock", devices) as served,
        pod_resources(str(tmp_path / "k.sock")) as kubelet,
    ):
        served.give("MIG-a", "1g.5gb", "trainer")
        assert await kubelet.holders() == {"MIG-a": Holder("default", "trainer", "main")}
        assert await kubelet.allocatable() == {"nvidia.com/mig-1g.5gb": frozenset({"MIG-a", "MIG-b"})}


async def test_the_kubelets_rate_limit_is_no_silence(tmp_path: Path) -> None:
    socket = tmp_path / "k.sock"
    async with kubelet_serving(socket, tmp_path / "none") as served, pod_resources(str(socket)) as kubelet:
        served.too_fast = 3
        assert await kubelet.holders() == {}


async def test_a_kubelet_that_is_down_and_comes_back(tmp_path: Path) -> None:
    socket = tmp_path / "k.sock"
    async with pod_resources(str(socket)) as kubelet:
        with pytest.raises(KubeletError, match=str(socket)):
            await kubelet.allocatable()
        async with kubelet_serving(socket, tmp_path / "none"), asyncio.timeout(5):
            assert await once_back(kubelet) == {}


async def once_back(kubelet: PodResources) -> DeviceIds:
    while True:
        try:
            return await kubelet.allocatable()
        except KubeletError:
            await asyncio.sleep(0.02)
