from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from n8s.v1 import agent_pb2, gpu_pb2
from nodeagent.apply import Ending
from nodeagent.gpu.driver import Placement
from nodeagent.orders import Orders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Applies:
    """Applies at once; with ``waits`` only when halted, as while something is in use."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.asked: list[list[tuple[int, list[Placement]]]] = []

    async def apply(self, wanted: Sequence[tuple[int, Sequence[Placement]]], halt: asyncio.Event) -> Ending:
        self.asked.append([(index, list(placements)) for index, placements in wanted])
        await asyncio.sleep(0)
        if self.waits:
            await halt.wait()
            return Ending(agent_pb2.OUTCOME_REPLACED, "waited")
        return Ending(agent_pb2.OUTCOME_APPLIED)


class Told:
    def __init__(self) -> None:
        self.results: list[tuple[int, int, str]] = []

    def wake(self) -> None:
        pass

    def finished(self, result: agent_pb2.OrderResult) -> None:
        self.results.append((result.epoch, result.id, agent_pb2.Outcome.Name(result.outcome).removeprefix("OUTCOME_")))


def order(epoch: int, number: int) -> agent_pb2.Order:
    placement = gpu_pb2.Placement(profile="1g.5gb", start=3)
    return agent_pb2.Order(id=number, epoch=epoch, gpus=[gpu_pb2.Geometry(index=1, placements=[placement])])


@contextlib.asynccontextmanager
async def working(orders: Orders, told: Told) -> AsyncIterator[None]:
    worker = asyncio.create_task(orders.work(told))
    yield
    orders.close()
    await worker


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_order_is_applied_and_its_result_told() -> None:
    applies, told = Applies(), Told()
    orders = Orders(applies)
    async with working(orders, told):
        orders.take(order(5, 1), told)
        await turns()
    assert applies.asked == [[(1, [Placement(3, "1g.5gb")])]]
    assert told.results == [(5, 1, "APPLIED")]
    assert orders.epoch == 5


async def test_an_older_order_is_refused_and_the_same_is_applied_again() -> None:
    told = Told()
    orders = Orders(Applies())
    async with working(orders, told):
        for epoch, number in [(5, 2), (4, 9), (5, 1), (5, 2), (6, 1)]:
            orders.take(order(epoch, number), told)
            await turns()
    assert told.results == [
        (5, 2, "APPLIED"),
        (4, 9, "REFUSED"),
        (5, 1, "REFUSED"),
        (5, 2, "APPLIED"),
        (6, 1, "APPLIED"),
    ]


async def test_the_newest_replaces_the_one_under_way_and_those_that_wait() -> None:
    applies, told = Applies(waits=True), Told()
    orders = Orders(applies)
    async with working(orders, told):
        orders.take(order(1, 1), told)
        await turns()
        assert orders.applying == 1
        orders.take(order(1, 2), told)
        orders.take(order(1, 3), told)
        applies.waits = False
        await turns()
    assert told.results == [(1, 2, "REPLACED"), (1, 1, "REPLACED"), (1, 3, "APPLIED")]
    assert orders.applying == 0


async def test_the_same_order_twice_does_not_disturb_itself() -> None:
    applies, told = Applies(waits=True), Told()
    orders = Orders(applies)
    async with working(orders, told):
        orders.take(order(1, 1), told)
        await turns()
        orders.take(order(1, 1), told)
        await turns()
        assert told.results == []
    assert told.results == [(1, 1, "REPLACED")]  # the agent was stopped


async def test_closing_ends_the_order_under_way() -> None:
    told = Told()
    orders = Orders(Applies(waits=True))
    async with working(orders, told):
        orders.take(order(1, 1), told)
        await turns()
    assert told.results == [(1, 1, "REPLACED")]  # no failure of the node
