"""An agent's parts together, against a stand-in kubelet, device plugin and brain, over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import grpc

from n8s.v1 import agent_pb2, gpu_pb2
from nodeagent import session
from nodeagent.apply import Applier
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.kubelet import pod_resources
from nodeagent.node import NodeReader
from nodeagent.orders import Orders
from nodeagent.plugin import SignalledPlugin
from nodeagent.report import Reporter
from nodeagent.session import Greeting, Sessions, connect
from tests import tls
from tests.component.nodeagent.standins import (
    StandInBrain,
    StandInKubelet,
    brain_serving,
    kubelet_serving,
    plugin_running,
)
from tests.ports import free_port
from tests.wire import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest

ONES = [("1g.5gb", start) for start in range(7)]


@dataclass
class World:
    node: SimulatedNode
    kubelet: StandInKubelet
    brain: StandInBrain
    token: Path


@contextlib.asynccontextmanager
async def world(path: Path, *, ca: Path | None = None) -> AsyncIterator[World]:
    address = f"127.0.0.1:{free_port()}"
    async with brain_serving(address) as brain, agent(path, address, ca=ca) as (node, kubelet):
        yield World(node, kubelet, brain, path / "token")


@contextlib.asynccontextmanager
async def agent(
    path: Path, brain_address: str, *, ca: Path | None = None
) -> AsyncIterator[tuple[SimulatedNode, StandInKubelet]]:
    node = SimulatedNode.install(path / "sim", [("A100-40GB", 2)])
    plugins = path / "device-plugins"
    plugins.mkdir()
    driver = SimulatedDriver(node)
    token = path / "token"
    token.write_text("token-1\n")
    async with (
        kubelet_serving(path / "k.sock", path / "devices.json") as served,
        plugin_running(plugins, simulation=path / "sim", devices_file=path / "devices.json"),
        pod_resources(str(path / "k.sock")) as kubelet,
    ):
        orders = Orders(Applier(driver, kubelet, SignalledPlugin(kubelet, plugins), in_use_seconds=20))
        reporter = Reporter(NodeReader(driver, kubelet), orders, poll_seconds=0.05)
        greeting = Greeting(node="n1", agent_version="0", driver=lambda: driver.name, boot_id=driver.boot_id)
        sessions = Sessions(
            partial(connect, brain_address, ca or tls.directory() / "ca.crt", token), greeting, orders, reporter
        )
        tasks = [asyncio.create_task(one) for one in (reporter.run(), sessions.run(), orders.work(reporter))]
        try:
            yield node, served
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110, logs tell nobody
            await asyncio.sleep(0.02)


def kinds(brain: StandInBrain) -> list[str | None]:
    return [message.WhichOneof("body") for message in brain.said]


def outcome(result: agent_pb2.OrderResult) -> str:
    return agent_pb2.Outcome.Name(result.outcome).removeprefix("OUTCOME_")


async def test_hello_then_the_state_then_silence(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        await asyncio.sleep(0.2)  # four looks
        assert kinds(w.brain) == ["hello", "state"]
        hello, state = w.brain.hellos[0], w.brain.states[0]
        assert (hello.node, hello.boot_id, hello.driver, hello.epoch) == ("n1", w.node.boot_id, "simulated", 0)
        assert [instance.state for gpu in state.gpus for instance in gpu.instances] == [
            gpu_pb2.INSTANCE_STATE_FREE,
            gpu_pb2.INSTANCE_STATE_FREE,
        ]
        assert len(state.allocatable[0].device_ids) == 2
        w.brain.ask()
        await w.brain.until(3)
        assert w.brain.states[1] == state


async def test_an_order_is_carried_out_and_the_truth_comes_before_the_result(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.brain.order(1, ONES, epoch=3)
        result = await w.brain.result(1)
        assert (outcome(result), result.epoch, result.message) == ("APPLIED", 3, "")
        said = kinds(w.brain)
        assert said[said.index("result") - 1] == "state"
        state = w.brain.states[-1]
        assert state.applying == 0
        assert [(i.profile, i.start) for i in state.gpus[0].instances] == ONES
        assert {a.name: set(a.device_ids) for a in state.allocatable} == {
            "nvidia.com/mig-1g.5gb": {i.uuid for i in state.gpus[0].instances},
            "nvidia.com/mig-7g.40gb": {i.uuid for i in state.gpus[1].instances},
        }
        assert any(state.applying == 1 for state in w.brain.states)
        w.brain.order(9, [], epoch=2)
        assert outcome(await w.brain.result(9)) == "REFUSED"


async def test_use_is_told_as_it_comes_and_states_flow_while_an_order_waits(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        whole, other = w.node.mig_devices()
        w.node.hold(whole.uuid, 4711)
        await w.brain.state(lambda state: list(state.gpus[0].instances[0].processes) == [4711])
        w.brain.order(1, ONES)  # waits for the process
        await w.brain.state(lambda state: state.applying == 1)
        w.kubelet.give(other.uuid, other.profile, "late")
        state = await w.brain.state(lambda state: state.gpus[1].instances[0].holder.pod == "late")
        assert state.applying == 1
        w.brain.order(2, [("7g.40gb", 0)])
        assert outcome(await w.brain.result(1)) == "REPLACED"
        assert outcome(await w.brain.result(2)) == "APPLIED"
        assert {device.uuid for device in w.node.mig_devices()} == {whole.uuid, other.uuid}


async def test_a_session_that_ends_is_opened_again_and_says_it_all_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.brain.order(1, ONES, epoch=7)
        await w.brain.result(1)
        said = len(w.brain.said)
        w.brain.refuse = 1  # the next is replaced at once
        w.brain.end_session()
        await w.brain.until(said + 2)
        assert w.brain.sessions == 3
        assert kinds(w.brain)[said:] == ["hello", "state"]
        assert w.brain.hellos[-1].epoch == 7


async def test_an_order_goes_on_while_the_brain_is_away(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.node.hold(w.node.mig_devices()[0].uuid, 1)
        w.brain.order(1, ONES)
        await w.brain.state(lambda state: state.applying == 1)
        w.brain.end_session()
        w.node.release(1)
        state = await w.brain.state(lambda state: len(state.gpus[0].instances) == len(ONES) and not state.applying)
        assert len(w.brain.hellos) == 2
        assert len(state.allocatable) == 2


async def test_after_a_reboot_of_the_hardware_nothing_is_there_and_an_order_brings_it_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.node.reboot()
        await w.brain.state(lambda state: not any(gpu.instances for gpu in state.gpus))
        w.brain.order(1, ONES, ONES)
        assert outcome(await w.brain.result(1)) == "APPLIED"


async def test_each_session_shows_the_token_of_that_moment(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.token.write_text("token-2")
        w.brain.end_session()
        await w.brain.until(4)
        assert w.brain.tokens == ["Bearer token-1", "Bearer token-2"]


async def test_who_is_not_wanted_says_what_to_do_and_comes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.brain.refuse, w.brain.refusal = 1, grpc.StatusCode.UNAUTHENTICATED
        w.brain.end_session()
        await w.brain.until(4)
        reasons = [vars(record)["reason"] for record in caplog.records if record.msg == "session ended"]
        assert f"UNAUTHENTICATED replaced; {session.ADVICE}" in reasons


async def test_a_token_that_cannot_be_read_is_named_and_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with world(tmp_path) as w:
        await w.brain.until(2)
        w.token.unlink()
        w.brain.end_session()
        await until(lambda: f"--token-file: {w.token} cannot be read" in str([vars(r) for r in caplog.records]))
        w.token.write_text("\n")
        await until(lambda: f"--token-file: {w.token} is empty" in str([vars(r) for r in caplog.records]))
        w.token.write_text("token-3")
        await w.brain.until(4)
        assert w.brain.tokens[-1] == "Bearer token-3"


async def test_a_brain_of_another_authority_gets_no_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 0.3)
    caplog.set_level(logging.INFO)
    (tmp_path / "other").mkdir()
    tls.issue(tmp_path / "other")
    ca = tmp_path / "other" / "ca.crt"
    async with world(tmp_path, ca=ca) as w:
        await until(lambda: session.UNREACHED in str([vars(r) for r in caplog.records]))
        assert w.brain.sessions == 0
        shutil.copy(tls.directory() / "ca.crt", ca)
        await w.brain.until(2)


async def test_an_agent_that_is_there_before_its_brain_waits_for_it_and_for_the_next(tmp_path: Path) -> None:
    port = free_port()
    knocked = asyncio.Event()

    def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.set()
        writer.close()

    nobody = await asyncio.start_server(turn_away, "127.0.0.1", port)
    async with agent(tmp_path, f"127.0.0.1:{port}") as (node, _):
        await asyncio.wait_for(knocked.wait(), 10)
        nobody.close()
        async with brain_serving(f"127.0.0.1:{port}") as brain:
            await brain.until(2)
            brain.order(1, ONES, epoch=4)
            await brain.result(1)
        async with brain_serving(f"127.0.0.1:{port}") as brain:
            await brain.until(2)
            assert brain.hellos[0].epoch == 4
            assert [(i.profile, i.start) for i in brain.states[0].gpus[0].instances] == ONES
            brain.order(9, [], epoch=3)
            assert outcome(await brain.result(9)) == "REFUSED"
        assert [(d.profile, d.start) for d in node.mig_devices() if d.gpu == 0] == ONES


async def test_a_brain_that_falls_silent_is_left_and_the_state_is_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(session, "KEEPALIVE_TIMEOUT_SECONDS", 1)
    caplog.set_level(logging.INFO)
    port = free_port()
    async with (
        brain_serving(f"127.0.0.1:{port}") as brain,
        wire(port) as cable,
        agent(tmp_path, f"127.0.0.1:{cable.port}") as (node, kubelet),
    ):
        await brain.until(2)
        cable.cut()
        await until(lambda: "session ended" in caplog.text)
        # What happens meanwhile is in the state that is told when the brain is back.
        device = node.mig_devices()[0]
        kubelet.give(device.uuid, device.profile, "late")
        cable.mend()
        await brain.state(lambda state: state.gpus[0].instances[0].holder.pod == "late")
        assert len(brain.hellos) == 2
        assert node.mig_devices()[0] == device
