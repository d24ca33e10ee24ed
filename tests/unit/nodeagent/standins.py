"""A kubelet and a device plugin in memory, for tests of what calls them.

They do not show: time, gRPC, a device plugin that enumerates by itself or is down. For those see tests/component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.errors import KubeletError
from nodeagent.kubelet import DeviceAccount, DeviceIds, Holder

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable


class MemoryKubelet:
    """Gives the account it is given; with ``silent`` it does not answer."""

    def __init__(self) -> None:
        self.holders: dict[str, Holder] = {}
        self.allocatable: DeviceIds = {}
        self.silent = False

    def give(self, device: str, pod: str = "p") -> None:
        self.holders[device] = Holder("default", pod, "main")

    async def account(self) -> DeviceAccount:
        if self.silent:
            raise KubeletError("memory", "silent")
        return DeviceAccount(holders=dict(self.holders), allocatable=dict(self.allocatable))


class MemoryPlugin:
    """Shows the kubelet at once what the hardware has; with ``late`` never."""

    def __init__(self, kubelet: MemoryKubelet) -> None:
        self.kubelet = kubelet
        self.late = ""
        self.looked = 0

    async def settle(self, devices: Callable[[], Awaitable[DeviceIds]], halt: asyncio.Event) -> str:
        if self.late:
            if self.late == "until halted":
                await halt.wait()
            return self.late
        wanted = await devices()
        if wanted != self.kubelet.allocatable:
            self.kubelet.allocatable = wanted
            self.looked += 1
        return ""
