"""Brings GPUs to an ordered geometry, one GPU independent of the other, each wholly or not at all.

What is in use is never destroyed: kubelet, driver and the node's processes are asked again before each destroy, and
where one does not answer the instance counts as used. A pod that has an instance keeps it, so that ends the attempt at
once; a process or an open handle passes, so that is waited for, but not for ever. When a GPU cannot be finished, what
was made on it is removed and what was destroyed is made again, as far as the hardware lets.

It keeps no journal for an agent that dies in the middle. Only what was free is destroyed, so what is lost is room and
no work, and the GPUs show how far it came: a GPU instance without compute instance is one of the steps between. Whoever
orders next plans from that, and the order repairs or removes whatever it finds. Nor does an agent that starts have the
device plugin look again on its own, though it may advertise what is gone: the taint under which that harms no pod is
the brain's to put on, and it stays on the node until a brain has seen to it.

It refuses to improve on an order: no other placements, no partial geometry, nothing on GPUs that are not named.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import tenacity

from n8s.v1 import agent_pb2
from nodeagent.errors import AgentError, DriverError, GpuLostError, HeldError, InUseError, KubeletError, NotFoundError
from nodeagent.geometry import Change, diff, objection
from nodeagent.node import device_ids
from nodeagent.processes import started_with

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nodeagent.gpu.driver import Gpu, GpuDriver, Instance, Placement
    from nodeagent.kubelet import DeviceIds, Kubelet
    from nodeagent.plugin import DevicePlugin

IN_USE_SECONDS: Final = 10.0
"""For an instance in use to become free. Handles linger for tenths of a second; a process that stays is reported."""

_WORST_FIRST: Final = (
    agent_pb2.OUTCOME_FAILED,
    agent_pb2.OUTCOME_IN_USE,
    agent_pb2.OUTCOME_REPLACED,
    agent_pb2.OUTCOME_PLUGIN_LATE,
    agent_pb2.OUTCOME_APPLIED,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an order, or its part for one GPU, ended.

    Attributes:
        outcome: The wire's outcome.
        message: What went wrong and what holds it; empty when applied.
    """

    outcome: agent_pb2.Outcome.ValueType
    message: str = ""


_APPLIED: Final = Ending(agent_pb2.OUTCOME_APPLIED)


class Applier:
    """Carries out geometries on the node's GPUs."""

    def __init__(
        self,
        driver: GpuDriver,
        kubelet: Kubelet,
        plugin: DevicePlugin,
        *,
        proc: Path = Path("/proc"),
        in_use_seconds: float = IN_USE_SECONDS,
    ) -> None:
        """Work through the three; wait up to ``in_use_seconds`` for each instance that is in use for the moment.

        ``proc`` is the node's proc file system.
        """
        self._proc = proc
        self._driver = driver
        self._kubelet = kubelet
        self._plugin = plugin
        self._in_use_seconds = in_use_seconds

    async def apply(self, wanted: Sequence[tuple[int, Sequence[Placement]]], halt: asyncio.Event) -> Ending:
        """Bring each GPU named to the placements given, and the kubelet's devices in line with all GPUs.

        Args:
            wanted: (GPU index, all placements it should hold).
            halt: Set when the waiting is to end: steps on the hardware are finished or undone, then this returns.
        """
        try:
            gpus = {gpu.index: gpu for gpu in await asyncio.to_thread(self._driver.read)}
        except DriverError as error:
            return Ending(agent_pb2.OUTCOME_FAILED, str(error))
        reason = objection(gpus, wanted)
        if reason is not None:
            return Ending(agent_pb2.OUTCOME_REFUSED, reason)
        endings = await asyncio.gather(*(self._bring(gpus[index], placements, halt) for index, placements in wanted))
        endings.append(await self._settle(halt))
        worst = min((ending.outcome for ending in endings), key=_WORST_FIRST.index)
        return Ending(worst, "; ".join(ending.message for ending in endings if ending.message))

    async def _settle(self, halt: asyncio.Event) -> Ending:
        try:
            missing = await self._plugin.settle(self._device_ids, halt)
        except DriverError as error:
            return Ending(agent_pb2.OUTCOME_FAILED, str(error))
        if not missing:
            return _APPLIED
        return Ending(agent_pb2.OUTCOME_REPLACED if halt.is_set() else agent_pb2.OUTCOME_PLUGIN_LATE, missing)

    async def _device_ids(self) -> DeviceIds:
        return device_ids(await asyncio.to_thread(self._driver.read))

    async def _bring(self, gpu: Gpu, wanted: Sequence[Placement], halt: asyncio.Event) -> Ending:
        """Bring one GPU to the wanted placements, or leave it as it was as far as possible."""
        change = diff(gpu, wanted)
        if not change:
            return _APPLIED
        touched = False
        try:
            # All of them before the first: one that cannot go would make it a pity for the others.
            for instance in change.destroys:
                await self._patiently(halt, partial(self._check_free, gpu.index, instance))
            touched = True
            for instance in change.destroys:
                await self._patiently(halt, partial(self._destroy, gpu.index, instance))
            for instance in change.repairs:
                await self._patiently(halt, partial(asyncio.to_thread, self._driver.repair, gpu.index, instance))
            for placement in change.creates:
                await self._patiently(halt, partial(asyncio.to_thread, self._driver.create, gpu.index, placement))
            rest = diff(await self._read(gpu.index), wanted)
            if rest:
                raise DriverError(gpu.index, f"holds something else than was made: {rest}")  # noqa: TRY301, undone below
        except (HeldError, DriverError) as error:
            left = await self._undo(gpu, change, halt) if touched else []
            ending = Ending(_outcome(error, halt), "; ".join([str(error), *left]))
            logger.warning("geometry not reached", extra={"gpu": gpu.index, "problem": ending.message})
            return ending
        counts = {"destroyed": len(change.destroys), "repaired": len(change.repairs), "made": len(change.creates)}
        logger.info("geometry reached", extra={"gpu": gpu.index} | counts)
        return _APPLIED

    async def _undo(self, before: Gpu, change: Change, halt: asyncio.Event) -> list[str]:
        """Remove what was made and make again what was there; return what could not be done, for people.

        What is there now counts, and not which calls went well: one that failed may have had its effect.
        """
        left = []
        try:
            now = await self._read(before.index)
        except DriverError as error:
            return [f"not undone: {error}"]
        deadline = self._deadline()
        there = {instance.placement: instance for instance in now.instances}
        for placement in change.creates:
            new = there.get(placement)
            if new is not None:
                try:
                    await self._patiently(halt, partial(self._destroy, before.index, new), deadline)
                except (HeldError, DriverError) as error:
                    left.append(f"{placement} stays: {error}")
        for old in before.instances:
            new = there.get(old.placement)
            if new is None:
                again = partial(asyncio.to_thread, self._driver.create, before.index, old.placement)
            elif new.uuid is None and old.uuid is not None:
                again = partial(asyncio.to_thread, self._driver.repair, before.index, new)
            else:
                continue
            try:
                await self._patiently(halt, again, deadline)
            except DriverError as error:
                left.append(f"{old.placement} is lost: {error}")
        return left

    async def _destroy(self, gpu: int, instance: Instance) -> None:
        """Destroy an instance if nobody holds it at this moment.

        Raises:
            HeldError: Somebody does, or nobody can tell.
            DriverError: The driver failed otherwise.
        """
        await self._check_free(gpu, instance)
        try:
            await asyncio.to_thread(self._driver.destroy, gpu, instance)
        except InUseError as error:
            by = f"processes {list(error.processes)}" if error.processes else f"an open handle ({error.detail})"
            raise HeldError(gpu, str(instance.placement), f"held by {by}", passing=True) from error

    async def _check_free(self, gpu: int, instance: Instance) -> None:
        """Ask kubelet, driver and the node's processes whether an instance is free.

        Raises:
            HeldError: It is not, or nobody can tell.
            DriverError: It is not there any more.
        """
        what = str(instance.placement)
        if instance.uuid is None:
            return  # without compute instance there is nothing that anybody could hold
        try:
            holder = (await self._kubelet.holders()).get(instance.uuid)
        except KubeletError as error:
            raise HeldError(gpu, what, f"perhaps held, {error}", passing=True) from error
        if holder is not None:
            raise HeldError(gpu, what, f"held by {holder}", passing=False)
        # The kubelet forgets a container whose pod was deleted by force, while it still runs.
        left = await asyncio.to_thread(started_with, instance.uuid, self._proc)
        if left:
            raise HeldError(gpu, what, f"held by a container that still runs (processes {list(left)})", passing=True)
        there = await self._read(gpu)
        now = next((one for one in there.instances if one.id == instance.id), None)
        if now is None:
            raise NotFoundError(gpu, f"{what} is gone")
        if now.processes is None:
            raise HeldError(gpu, what, f"perhaps held, {there.problem}", passing=True)
        if now.processes:
            raise HeldError(gpu, what, f"held by processes {list(now.processes)}", passing=True)

    async def _read(self, gpu: int) -> Gpu:
        """One GPU as it is now.

        Raises:
            DriverError: It cannot be read any more.
        """
        for one in await asyncio.to_thread(self._driver.read):
            if one.index == gpu:
                if not one.profiles:
                    raise DriverError(gpu, one.problem)
                return one
        raise GpuLostError(gpu, "the driver does not list it any more")

    def _deadline(self) -> float:
        """Until when, by the loop's clock, what begins now is tried again."""
        return asyncio.get_running_loop().time() + self._in_use_seconds

    async def _patiently(
        self, halt: asyncio.Event, step: Callable[[], Awaitable[None]], deadline: float | None = None
    ) -> None:
        """Do a step, again and again while it is refused for a reason that passes, for a bounded time.

        Raises:
            AgentError: What the last try ended with.
        """
        clock = asyncio.get_running_loop().time
        end = self._deadline() if deadline is None else deadline

        async def pause(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(halt.wait(), seconds)

        await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1.0),
            stop=lambda _: halt.is_set() or clock() >= end,
            sleep=pause,
            reraise=True,
        )(step)


def _passes(error: BaseException) -> bool:
    return isinstance(error, InUseError) or (isinstance(error, HeldError) and error.passing)


def _outcome(error: AgentError, halt: asyncio.Event) -> agent_pb2.Outcome.ValueType:
    if _passes(error) and halt.is_set():
        return agent_pb2.OUTCOME_REPLACED
    return agent_pb2.OUTCOME_IN_USE if isinstance(error, HeldError) else agent_pb2.OUTCOME_FAILED
