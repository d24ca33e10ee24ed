"""Tells the brain the truth about the node: on every change, when asked, and before each result of an order.

It keeps the one line of messages to the brain. A state that has not gone out when a newer one comes is never sent;
a result always goes out after the state that holds. Nothing is told that was not just seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

from n8s.v1 import agent_pb2, gpu_pb2
from nodeagent import metrics

if TYPE_CHECKING:
    from nodeagent.node import NodeView

logger = logging.getLogger(__name__)


class Looks(Protocol):
    """What sees the node; see :class:`nodeagent.node.NodeReader`."""

    async def look(self) -> NodeView:
        """The node now."""


class Busy(Protocol):
    """What knows the order under way; see :class:`nodeagent.orders.Orders`."""

    @property
    def applying(self) -> int:
        """Id of the order being applied; 0 when none is."""


class Reporter:
    """Looks at the node again and again and keeps what the brain must be told.

    Attributes:
        ready: Whether kubelet and driver answered at the last look.
        problem: What was in the way then; empty when nothing was.
    """

    def __init__(self, reader: Looks, orders: Busy, *, poll_seconds: float) -> None:
        """Look every ``poll_seconds``, and whenever woken."""
        self.ready = False
        self.problem = "has not looked yet"
        self._reader = reader
        self._orders = orders
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()
        self._asked = False
        self._results: list[agent_pb2.OrderResult] = []
        self._last_state: agent_pb2.NodeState | None = None
        self._line: deque[agent_pb2.AgentMessage] = deque()
        self._filled = asyncio.Event()

    def wake(self) -> None:
        """Look now; tell only if something changed."""
        self._woken.set()

    def ask(self) -> None:
        """Look now and tell, changed or not."""
        self._asked = True
        self._woken.set()

    def finished(self, result: agent_pb2.OrderResult) -> None:
        """An order has ended: tell the state that holds now, then its result."""
        self._results.append(result)
        self.wake()

    def restart(self) -> None:
        """A new session begins: whatever was in line is old, the state is told anew.

        The result of an order that ended meanwhile is not told: the brain takes the state for what it is.
        """
        self._line.clear()
        self.ask()

    async def next_message(self) -> agent_pb2.AgentMessage:
        """The next message for the brain; waits until there is one."""
        while not self._line:
            self._filled.clear()
            await self._filled.wait()
        return self._line.popleft()

    async def run(self) -> None:
        """Look and tell, until cancelled."""
        while True:
            self._woken.clear()
            # The results that are told after this look are of orders that ended before it.
            results, self._results = self._results, []
            view = await self._reader.look()
            state = view.state(self._orders.applying)
            self._note(view, state)
            asked, self._asked = self._asked, False
            if asked or results or state != self._last_state:
                self._last_state = state
                self._put_state(state)
            self._line.extend(agent_pb2.AgentMessage(result=result) for result in results)
            if self._line:
                self._filled.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._poll_seconds)

    def _put_state(self, state: agent_pb2.NodeState) -> None:
        if self._line and self._line[-1].WhichOneof("body") == "state":
            self._line.pop()
        self._line.append(agent_pb2.AgentMessage(state=state))

    def _note(self, view: NodeView, state: agent_pb2.NodeState) -> None:
        if view.problem != self.problem:
            if view.problem:
                logger.warning("cannot see the whole node", extra={"problem": view.problem})
            else:
                logger.info("kubelet and driver answer", extra={"gpus": len(view.gpus)})
        self.problem, self.ready = view.problem, not view.problem
        metrics.READY.set(self.ready)
        states = Counter(instance.state for gpu in state.gpus for instance in gpu.instances)
        for value in gpu_pb2.InstanceState.values():
            if value != gpu_pb2.INSTANCE_STATE_UNSPECIFIED:
                name = gpu_pb2.InstanceState.Name(value).removeprefix("INSTANCE_STATE_").lower()
                metrics.INSTANCES.labels(name).set(states[value])
