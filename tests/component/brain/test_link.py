"""Sessions of node agents on an in-process server over a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from brain.errors import BrainError
from brain.link import service
from brain.link.service import Link
from brain.metrics import Metrics
from brain.model.mig import Placement
from brain.model.node import Agent
from brain.serve import server as brain_server
from n8s.v1 import agent_pb2, agent_pb2_grpc, gpu_pb2
from tests import tls
from tests.component.brain.fakeapi import until
from tests.ports import free_port
from tests.wire import wire

WANTED = {0: (Placement(0, "3g.20gb"), Placement(4, "3g.20gb"))}


class Epochs:
    """The Lease's part."""

    def __init__(self) -> None:
        self.epoch = 3
        self.broken = False

    async def raise_above(self, epoch: int) -> None:
        if self.broken:
            raise BrainError("no answer")
        self.epoch = epoch + 1


class World:
    """A link, its server, and agents that speak to it."""

    def __init__(self, path: Path) -> None:
        self.now = 100.0
        self.epochs = Epochs()
        self.changes = 0
        self.foreign = ""
        self.metrics = Metrics()
        self.link = Link(self.epochs, self._changed, lambda: self.now, self.metrics, self._objection)
        self.target = f"unix:{path / 'brain.sock'}"
        self.channels: list[grpc.aio.Channel] = []

    def _objection(self, node: str) -> str:
        return "not yours" if node == self.foreign else ""

    def _changed(self) -> None:
        self.changes += 1

    def agent(self, node: str = "n1") -> Agent | None:
        return self.link.agents(self.now).get(node)

    def dial(self, channel: grpc.aio.Channel | None = None) -> Any:
        if channel is None:
            channel = grpc.aio.insecure_channel(self.target)
            self.channels.append(channel)
        return agent_pb2_grpc.AgentServiceStub(channel).Session(wait_for_ready=True)

    async def connect(
        self, node: str = "n1", epoch: int = 0, *, state: bool = True, channel: grpc.aio.Channel | None = None
    ) -> Any:
        call = self.dial(channel)
        hello = agent_pb2.Hello(node=node, agent_version="1", driver="simulated", epoch=epoch)
        await call.write(agent_pb2.AgentMessage(hello=hello))
        if state:
            await call.write(report())
            await until(lambda: (agent := self.agent(node)) is not None and agent.connected)
        return call


def report(applying: int = 0, profile: str = "7g.40gb") -> agent_pb2.AgentMessage:
    gpu = gpu_pb2.Gpu(
        index=0,
        model="A100",
        slots=8,
        instances=[gpu_pb2.Instance(profile=profile, size=8, state=gpu_pb2.INSTANCE_STATE_FREE)],
    )
    return agent_pb2.AgentMessage(state=agent_pb2.NodeState(gpus=[gpu], applying=applying))


def result(order: agent_pb2.Order, outcome: agent_pb2.Outcome.ValueType, message: str = "") -> agent_pb2.AgentMessage:
    return agent_pb2.AgentMessage(
        result=agent_pb2.OrderResult(id=order.id, epoch=order.epoch, outcome=outcome, message=message)
    )


@asynccontextmanager
async def world(path: Path) -> AsyncIterator[World]:
    it = World(path)
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(it.link, server)
    server.add_insecure_port(it.target)
    await server.start()
    try:
        yield it
    finally:
        for channel in it.channels:
            await channel.close()
        it.link.close()
        await server.stop(1.0)


async def test_an_agent_counts_once_it_has_reported(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect(state=False)
        await until(lambda: it.changes > 0)
        assert it.agent() is None
        await call.write(report())
        await until(lambda: it.agent() is not None)
        agent = it.agent()
        assert agent is not None
        assert (agent.connected, agent.driver, agent.version, agent.ordered) == (True, "simulated", "1", None)
        assert agent.gpus[0].geometry == (Placement(0, "7g.40gb"),)
        before = it.changes
        await call.write(report())
        await call.write(report(profile="3g.20gb"))
        await until(lambda: it.changes > before)
        assert it.changes == before + 1, "the same again wakes nobody"
        assert it.link.agents(it.now + 5)["n1"] is it.link.agents(it.now)["n1"], "time alone changes nothing of it"
        it.now += 100
        call.cancel()
        await until(lambda: not it.link.agents(it.now)["n1"].connected)
        assert it.link.agents(it.now + 5)["n1"].silent_seconds == 5, "it had nothing to say before, and was there"


async def test_an_order_is_in_flight_until_its_result(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert not it.link.order("n1", WANTED), "no session"
        call = await it.connect()
        assert it.link.order("n1", WANTED)
        order = (await call.read()).order
        assert (order.epoch, [(p.profile, p.start) for p in order.gpus[0].placements]) == (
            3,
            [("3g.20gb", 0), ("3g.20gb", 4)],
        )
        agent = it.agent()
        assert agent is not None
        assert agent.ordered == WANTED
        await call.write(report(applying=order.id))
        await call.write(result(order, agent_pb2.OUTCOME_APPLIED))
        await until(lambda: (agent := it.agent()) is not None and agent.ordered is None)
        it.now += 7
        agent = it.agent()
        assert agent is not None
        assert (agent.failure, agent.applied_seconds) == (None, 7)


async def test_only_the_latest_order_is_sent(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect()
        for _ in range(3):
            it.link.order("n1", WANTED)
        it.link.request_state("n1")
        assert (await call.read()).order.id == 3
        assert (await call.read()).HasField("state_request")


async def test_failures_back_off_and_success_clears_them(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect()
        waits = []
        for _ in range(8):
            it.link.order("n1", WANTED)
            order = (await call.read()).order
            await call.write(result(order, agent_pb2.OUTCOME_IN_USE, "held by a/p"))
            await until(lambda: (agent := it.agent()) is not None and agent.ordered is None)
            agent = it.agent()
            assert agent is not None
            assert agent.failure is not None
            assert (agent.failure.outcome, agent.failure.message) == ("in-use", "held by a/p")
            waits.append(agent.failure.retry_seconds)
        assert waits == [2, 4, 8, 16, 32, 64, 120, 120]
        failure = it.link.agents(it.now + 500)["n1"].failure
        assert failure is not None
        assert failure.retry_seconds == 0
        it.link.order("n1", WANTED)
        order = (await call.read()).order
        await call.write(result(order, agent_pb2.OUTCOME_REPLACED))
        await until(lambda: (agent := it.agent()) is not None and agent.ordered is None)
        agent = it.agent()
        assert agent is not None
        assert agent.failure is not None, "replaced says nothing"
        it.link.order("n1", WANTED)
        await call.write(result((await call.read()).order, agent_pb2.OUTCOME_APPLIED))
        await until(lambda: (agent := it.agent()) is not None and agent.failure is None)


async def test_a_result_of_an_older_order_says_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect()
        it.link.order("n1", WANTED)
        first = (await call.read()).order
        it.link.order("n1", WANTED)
        await call.read()
        await call.write(result(first, agent_pb2.OUTCOME_FAILED))
        await call.write(report(profile="3g.20gb"))
        await until(lambda: (agent := it.agent()) is not None and agent.gpus[0].geometry[0].profile == "3g.20gb")
        agent = it.agent()
        assert agent is not None
        assert (agent.failure, agent.ordered) == (None, WANTED)


async def test_a_silent_agent_keeps_its_report(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect()
        it.link.order("n1", WANTED)
        call.cancel()
        await until(lambda: (agent := it.agent()) is not None and not agent.connected)
        it.now += 9
        agent = it.agent()
        assert agent is not None
        assert (agent.silent_seconds, agent.ordered, len(agent.gpus)) == (9, WANTED, 1)
        assert not it.link.order("n1", WANTED)


async def test_an_agent_says_whether_it_can_tell_the_device_plugin(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect()
        told = agent_pb2.NodeState(plugin_problem="no process", plugin_awaited=True)
        await call.write(agent_pb2.AgentMessage(state=told))
        await until(lambda: (agent := it.agent()) is not None and agent.awaited_seconds is not None)
        it.now += 3
        told.applying = 4
        await call.write(agent_pb2.AgentMessage(state=told))
        await until(lambda: (agent := it.agent()) is not None and agent.ordered is not None)
        agent = it.agent()
        assert agent is not None
        assert (agent.plugin_problem, agent.awaited_seconds) == ("no process", 3)
        await call.write(report())
        await until(lambda: (agent := it.agent()) is not None and agent.awaited_seconds is None)


async def test_a_restarted_agent_has_no_order_and_counts_once_it_reports(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.connect()
        it.link.order("n1", WANTED)
        call = await it.connect(state=False)
        await until(lambda: (agent := it.agent()) is not None and agent.ordered is None)
        agent = it.agent()
        assert agent is not None
        assert not agent.connected, "what it last said may not hold any more"
        await call.write(report())
        await until(lambda: (agent := it.agent()) is not None and agent.connected)


async def test_an_order_of_a_former_leader_counts_as_in_flight(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        call = await it.connect(state=False)
        await call.write(report(applying=8))
        await until(lambda: it.agent() is not None)
        agent = it.agent()
        assert agent is not None
        assert agent.ordered == {}
        await call.write(report())
        await until(lambda: (agent := it.agent()) is not None and agent.ordered is None)


async def test_a_newer_session_replaces_the_older(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        old = await it.connect()
        new = await it.connect()
        assert await old.code() is grpc.StatusCode.ABORTED
        it.link.order("n1", WANTED)
        assert (await new.read()).order.id == 1
        agent = it.agent()
        assert agent is not None
        assert agent.connected, "the end of the old session is not the end of the new one"


async def test_a_higher_epoch_of_an_agent_raises_ours_before_any_order(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.epochs.broken = True
        call = await it.connect(epoch=9, state=False)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        it.epochs.broken = False
        call = await it.connect(epoch=9)
        it.link.order("n1", WANTED)
        assert (await call.read()).order.epoch == 10


async def test_who_does_not_say_who_it_is_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HELLO_SECONDS", 0.1)
    async with world(tmp_path) as it:
        silent, wrong = it.dial(), it.dial()
        await wrong.write(report())
        assert await wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await silent.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_all_sessions_end_when_the_term_ends(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        calls = [await it.connect(f"n{number}") for number in range(20)]
        it.link.close()
        async with asyncio.timeout(1):
            for call in calls:
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
        late = await it.connect("late", state=False)
        assert await late.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_agent_speaks_for_its_own_node_only(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.foreign = "n2"
        await it.connect("n1")
        call = await it.connect("n2", 99, state=False)
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
        assert await call.details() == "not yours"
        assert it.agent("n2") is None
        assert it.epochs.epoch == 3, "what a stranger says has no effect"


async def test_an_agent_that_falls_silent_is_dropped_alone_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = dict.fromkeys(("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"), 1000)
    options = tuple((name, soon.get(name, value)) for name, value in brain_server._OPTIONS)
    monkeypatch.setattr(brain_server, "_OPTIONS", options)
    it, port = World(tmp_path), free_port()

    def register(serves: grpc.aio.Server) -> None:
        agent_pb2_grpc.add_AgentServiceServicer_to_server(it.link, serves)

    def connected(node: str) -> bool:
        agent = it.agent(node)
        return agent is not None and agent.connected

    async with (
        brain_server.serving(f"127.0.0.1:{port}", register, ["n8s.v1.AgentService"], tls.server()),
        wire(port) as cable,
        grpc.aio.secure_channel(f"127.0.0.1:{cable.port}", tls.client()) as far,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", tls.client()) as near,
    ):
        await it.connect("n1", channel=far)
        other = await it.connect("n2", channel=near)
        cable.cut()
        await until(lambda: not connected("n1"))
        assert not it.link.order("n1", WANTED)
        assert connected("n2")
        assert it.link.order("n2", WANTED)
        assert (await other.read()).order.id == 1
        cable.mend()
        alone = [("grpc.use_local_subchannel_pool", 1)]  # as agents do: not the connection that is about to be reset
        async with grpc.aio.secure_channel(f"127.0.0.1:{cable.port}", tls.client(), alone) as anew:
            again = await it.connect("n1", channel=anew)
            assert it.link.order("n1", WANTED)
            assert (await again.read()).order.id == 2
            it.link.close()
