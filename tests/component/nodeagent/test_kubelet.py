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

    from nodeagent.kubelet import DeviceAccount, PodResources


async def test_the_account_of_mig_devices(tmp_path: Path) -> None:
    devices = tmp_path / "devices.json"
    devices.write_text(json.dumps({"nvidia.com/mig-1g.5gb": ["MIG-a", "MIG-b"], "nvidia.com/mig-7g.40gb": []}))
    async with (
        kubelet_serving(tmp_path / "k.sock", devices) as served,
        pod_resources(str(tmp_path / "k.sock")) as kubelet,
    ):
        served.give("MIG-a", "1g.5gb", "trainer")
        account = await kubelet.account()
    assert dict(account.holders) == {"MIG-a": Holder("default", "trainer", "main")}
    assert dict(account.allocatable) == {"nvidia.com/mig-1g.5gb": frozenset({"MIG-a", "MIG-b"})}


async def test_a_kubelet_that_is_down_and_comes_back(tmp_path: Path) -> None:
    socket = tmp_path / "k.sock"
    async with pod_resources(str(socket)) as kubelet:
        with pytest.raises(KubeletError, match=str(socket)):
            await kubelet.account()
        async with kubelet_serving(socket, tmp_path / "none"), asyncio.timeout(5):
            account = await kubelet_again(kubelet)
        assert dict(account.allocatable) == {}


async def kubelet_again(kubelet: PodResources) -> DeviceAccount:
    while True:
        try:
            return await kubelet.account()
        except KubeletError:
            await asyncio.sleep(0.02)
