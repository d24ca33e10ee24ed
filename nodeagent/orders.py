"""Takes orders, does one at a time, the newest first of all: what it replaces is told so.

It decides nothing about an order but its turn: an order of an earlier leader, or an earlier order of the same leader,
is refused. What it has taken is forgotten at the agent's end; the next leader finds out by looking.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from n8s.v1 import agent_pb2
from nodeagent import metrics
from nodeagent.apply import Ending
from nodeagent.gpu.driver import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


class Applies(Protocol):
    """What carries out a geometry; see :meth:`nodeagent.apply.Applier.apply`."""

    async def apply(self, wanted: Sequence[tuple[int, Sequence[Placement]]], halt: asyncio.Event) -> Ending:
        """Bring each GPU named to the placements given."""


class Tells(Protocol):
    """What tells the brain; see :class:`nodeagent.report.Reporter`."""

    def wake(self) -> None:
        """Something has changed: look and tell."""

    def finished(self, result: agent_pb2.OrderResult) -> None:
        """An order has ended: tell the state that holds, then the result."""


class Orders:
    """The desk where orders arrive and the one worker that does them.

    Attributes:
        epoch: Highest epoch that an order was taken from; 0 when none.
        applying: Id of the order being applied; 0 when none is.
    """

    def __init__(self, applier: Applies) -> None:
        self.epoch = 0
        self.applying = 0
        self._applier = applier
        self._newest_id = 0
        self._waiting: agent_pb2.Order | None = None
        self._arrived = asyncio.Event()
        self._halt = asyncio.Event()
        self._closing = False

    def take(self, order: agent_pb2.Order, tells: Tells) -> None:
        """Take an order up, or refuse it. The same order once more is applied once more, unless it is under way."""
        if (order.epoch, order.id) < (self.epoch, self._newest_id):
            message = f"order {order.id} of epoch {order.epoch} is older than {self._newest_id} of {self.epoch}"
            self._end(order, Ending(agent_pb2.OUTCOME_REFUSED, message), tells)
            return
        if (order.epoch, order.id) == (self.epoch, self._newest_id) and (self.applying or self._waiting):
            return
        self.epoch, self._newest_id = order.epoch, order.id
        if self._waiting is not None:
            self._end(self._waiting, _replaced_by(order), tells)
        self._waiting = order
        self._halt.set()
        self._arrived.set()

    def close(self) -> None:
        """End the work: what is under way is finished or undone, and :meth:`work` returns."""
        self._closing = True
        self._halt.set()
        self._arrived.set()

    async def work(self, tells: Tells) -> None:
        """Do what arrives, until :meth:`close`."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._closing:
                return
            order, self._waiting = self._waiting, None
            if order is None:
                continue
            self._halt.clear()
            self.applying = order.id
            tells.wake()
            told = {"id": order.id, "epoch": order.epoch, "gpus": len(order.gpus)}
            logger.info("order taken up", extra=told)
            with metrics.APPLY_SECONDS.time():
                ending = await self._applier.apply(_wanted(order), self._halt)
            self.applying = 0
            if ending.outcome == agent_pb2.OUTCOME_REPLACED:
                if self._waiting is not None:
                    ending = _replaced_by(self._waiting, ending.message)
                elif self._closing:
                    ending = Ending(ending.outcome, f"the agent was stopped: {ending.message}")
            self._end(order, ending, tells)

    @staticmethod
    def _end(order: agent_pb2.Order, ending: Ending, tells: Tells) -> None:
        outcome = agent_pb2.Outcome.Name(ending.outcome).removeprefix("OUTCOME_").lower()
        metrics.ORDERS.labels(outcome).inc()
        told = {"id": order.id, "epoch": order.epoch, "outcome": outcome, "problem": ending.message}
        logger.info("order ended", extra=told)
        tells.finished(
            agent_pb2.OrderResult(id=order.id, epoch=order.epoch, outcome=ending.outcome, message=ending.message)
        )


def _wanted(order: agent_pb2.Order) -> list[tuple[int, list[Placement]]]:
    return [
        (geometry.index, [Placement(placement.start, placement.profile) for placement in geometry.placements])
        for geometry in order.gpus
    ]


def _replaced_by(newer: agent_pb2.Order, before: str = "") -> Ending:
    message = f"order {newer.id} came before this one was done"
    return Ending(agent_pb2.OUTCOME_REPLACED, f"{message}: {before}" if before else message)
