"""A kubelet and a device plugin in memory, for tests of what calls them.

They do not show: time, gRPC, a device plugin that enumerates by itself or is down. For those see tests/component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.errors import KubeletError
from nodeagent.kubelet import DeviceIds, Holder

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable


class MemoryKubelet:
    """Gives the account it is given; with ``silent`` it does not answer."""

    def __init__(self) -> None:
        self.held: dict[str, Holder] = {}
        self.known: DeviceIds = {}
        self.silent = False

    def give(self, device: str, pod: str = "p") -> None:
        self.held[device] = Holder("default", pod, "main")

    async def holders(self) -> dict[str, Holder]:
        if self.silent:
            raise KubeletError("memory", "silent")
        return dict(self.held)

    async def allocatable(self) -> DeviceIds:
        if self.silent:
            raise KubeletError("memory", "silent")
        return self.known


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
        if wanted != self.kubelet.known:
            self.kubelet.known = wanted
            self.looked += 1
        return ""
