"""A kubelet, a device plugin and GPUs in memory, for tests of what calls them; and a time that takes none.

They do not show: gRPC, a device plugin that enumerates by itself or is down. For those see tests/component.
"""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from nodeagent.errors import KubeletError
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.kubelet import DeviceIds, Holder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

_Result = TypeVar("_Result")


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that skips its waits, and does at once what would be done in a thread.

    So a test takes no time, and what several tasks do comes in the same order each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skipped = 0.0
        self.set_default_executor(_Here())
        select = self._selector.select  # type: ignore[attr-defined]

        def skip(timeout: float | None) -> Any:
            self._skipped += timeout or 0.0
            return select(None if timeout is None else 0)

        self._selector.select = skip  # type: ignore[attr-defined]

    def time(self) -> float:
        return super().time() + self._skipped


class _Here(ThreadPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*arguments, **named))
        except BaseException as error:  # raised where the result is wanted
            future.set_exception(error)
        return future


def at_once(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What ``work`` comes to, in an event loop that skips its waits."""
    loop = SkippingLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class MemoryNode(SimulatedNode):
    """Simulated GPUs as they are now, and from now on without a file."""

    def __init__(self, node: SimulatedNode) -> None:
        self._now = copy.deepcopy(node._load())

    def _load(self) -> Any:
        return self._now

    @contextmanager
    def _change(self) -> Iterator[Any]:
        yield self._now


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
