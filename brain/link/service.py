"""AgentService: one session per node, with one slot for its latest order.

Built anew each time that this brain begins to lead: nothing of an earlier term is trusted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, Protocol

import grpc

from brain import wire
from brain.errors import BrainError
from brain.link.record import Record
from brain.metrics import Metrics
from brain.model.mig import Geometry
from brain.model.node import Agent
from n8s.v1 import agent_pb2, agent_pb2_grpc

_log = logging.getLogger(__name__)

HELLO_SECONDS: Final = 10.0
"""Who opens a session and does not say within this time who it is, is sent away."""

FORGOTTEN_SECONDS: Final = 3600.0
"""An agent that has been silent for so long counts as never heard: most likely its node is gone."""

_Context = grpc.aio.ServicerContext[agent_pb2.AgentMessage, agent_pb2.BrainMessage]


class Epochs(Protocol):
    """The fencing number that orders carry."""

    @property
    def epoch(self) -> int:
        """That of this term."""

    async def raise_above(self, epoch: int) -> None:
        """Makes it higher than one that an agent has seen. Raises BrainError where that cannot be written."""


class _Session:
    """What is to be sent on one stream: the latest order, a request for state, or why the stream ends."""

    def __init__(self) -> None:
        self.order: agent_pb2.Order | None = None
        self.state_wanted = False
        self.end: tuple[grpc.StatusCode, str] | None = None
        self.wake = asyncio.Event()

    def close(self, code: grpc.StatusCode, reason: str) -> None:
        """Has the stream end."""
        self.end = (code, reason)
        self.wake.set()

    async def send(self, context: _Context) -> None:
        """Sends what there is to send, until the stream is to end."""
        while self.end is None:
            await self.wake.wait()
            self.wake.clear()
            order, self.order = self.order, None
            wanted, self.state_wanted = self.state_wanted, False
            if order is not None and self.end is None:
                await context.write(agent_pb2.BrainMessage(order=order))
            if wanted and self.end is None:
                await context.write(agent_pb2.BrainMessage(state_request=agent_pb2.StateRequest()))


class Link(agent_pb2_grpc.AgentServiceServicer):
    """All agents: what they say, and the way to them."""

    def __init__(
        self,
        epochs: Epochs,
        changed: Callable[[], None],
        clock: Callable[[], float],
        metrics: Metrics,
        objection: Callable[[str], str],
    ) -> None:
        """``changed`` is called when an agent says something new; ``clock`` is monotonic, in seconds.

        ``objection`` says why the caller may not speak for a node; it returns an empty text where it may.
        """
        self._epochs = epochs
        self._changed = changed
        self._clock = clock
        self._metrics = metrics
        self._objection = objection
        self._records: dict[str, Record] = {}
        self._sessions: dict[str, _Session] = {}
        self._last_id = 0
        self._closed = False
        metrics.sessions.set(0)

    def agents(self, now: float) -> Mapping[str, Agent]:
        """What each agent says, by node name, at a moment of the monotonic clock."""
        silent = {node: now - record.heard for node, record in self._records.items() if not record.connected}
        for node, seconds in silent.items():
            if seconds > FORGOTTEN_SECONDS:
                del self._records[node]
        self._metrics.silent_seconds.set(
            max((each for each in silent.values() if each <= FORGOTTEN_SECONDS), default=0)
        )
        known = ((node, record.agent(now)) for node, record in self._records.items())
        return {node: agent for node, agent in known if agent is not None}

    def order(self, node: str, geometries: Mapping[int, Geometry]) -> bool:
        """Hands an order to a node's session, in place of one not sent yet. False where it has no session."""
        session = self._sessions.get(node)
        if session is None:
            return False
        self._last_id += 1
        order = agent_pb2.Order(id=self._last_id, epoch=self._epochs.epoch, gpus=wire.geometries_to(geometries))
        self._records[node].sent(order, geometries)
        session.order = order
        session.wake.set()
        self._metrics.orders.labels("sent").inc()
        _log.info("order", extra={"node": node, "id": order.id, "epoch": order.epoch, "gpus": _shown(geometries)})
        self._changed()
        return True

    def request_state(self, node: str) -> None:
        """Asks a node's agent for its state now; nothing happens where it has no session."""
        session = self._sessions.get(node)
        if session is not None:
            session.state_wanted = True
            session.wake.set()

    def close(self) -> None:
        """Ends all sessions, and each that comes later: this brain stops leading."""
        self._closed = True
        for session in self._sessions.values():
            session.close(grpc.StatusCode.UNAVAILABLE, "this brain leads no longer")

    async def Session(  # type: ignore[override]  # noqa: N802 - grpc.aio takes a coroutine too; named by the contract
        self, request_iterator: AsyncIterator[agent_pb2.AgentMessage], context: _Context
    ) -> None:
        """One agent's session, from its hello to its end."""
        messages = aiter(request_iterator)
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(messages)
        except (TimeoutError, StopAsyncIteration):
            first = agent_pb2.AgentMessage()
        hello = first.hello
        if not hello.node:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a Hello that names the node"
            )
        if problem := self._objection(hello.node):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
        if hello.epoch > self._epochs.epoch:
            try:
                await self._epochs.raise_above(hello.epoch)
            except BrainError as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"cannot raise the epoch above yours: {error}")
        if self._closed:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this brain leads no longer")
        session = self._open(hello)
        try:
            await context.send_initial_metadata(())  # which the agent waits for
            await self._converse(hello.node, session, messages, context)
        finally:
            self._ended(hello.node, session)
        if session.end is not None:
            await context.abort(*session.end)

    async def _converse(
        self, node: str, session: _Session, messages: AsyncIterator[agent_pb2.AgentMessage], context: _Context
    ) -> None:
        """Reads and writes until either side is done; a stream that broke is an end like any other."""
        receiving = asyncio.create_task(self._receive(node, session, messages))
        sending = asyncio.create_task(session.send(context))
        try:
            await asyncio.wait([receiving, sending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiving.cancel()
            sending.cancel()
            ended = await asyncio.gather(receiving, sending, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                _log.info("stream broke", extra={"node": node, "problem": repr(error)})

    async def _receive(self, node: str, session: _Session, messages: AsyncIterator[agent_pb2.AgentMessage]) -> None:
        record = self._records[node]
        async for message in messages:
            if session.end is not None:
                return
            now = self._clock()
            match message.WhichOneof("body"):
                case "state":
                    if record.state(message.state, now):
                        self._changed()
                case "result":
                    outcome = record.result(message.result, now)
                    if outcome:
                        self._metrics.orders.labels(outcome).inc()
                        told = {"node": node, "id": message.result.id, "outcome": outcome}
                        _log.info("order ended", extra=told | {"problem": message.result.message})
                    self._changed()
                case _:
                    _log.warning("message ignored", extra={"node": node, "body": message.WhichOneof("body")})

    def _open(self, hello: agent_pb2.Hello) -> _Session:
        old = self._sessions.pop(hello.node, None)
        if old is not None:
            old.close(grpc.StatusCode.ABORTED, "the node's agent has opened a newer session")
        session = self._sessions[hello.node] = _Session()
        now = self._clock()
        record = self._records.setdefault(hello.node, Record(hello, now))
        record.hello(hello, now)
        self._metrics.sessions.set(len(self._sessions))
        _log.info("agent connected", extra={"node": hello.node, "driver": hello.driver, "version": hello.agent_version})
        self._changed()
        return session

    def _ended(self, node: str, session: _Session) -> None:
        if self._sessions.get(node) is not session:
            return
        del self._sessions[node]
        self._records[node].ended(self._clock())
        self._metrics.sessions.set(len(self._sessions))
        _log.info("agent gone", extra={"node": node})
        self._changed()


def _shown(geometries: Mapping[int, Geometry]) -> str:
    return " ".join(
        f"{index}:" + ",".join(f"{placement.profile}@{placement.start}" for placement in geometry)
        for index, geometry in sorted(geometries.items())
    )
