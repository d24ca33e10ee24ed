"""The control loop's rhythm, with stand-ins for what it reads and what it acts through."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest

from brain import loop as module
from brain.decide.decisions import Decision, Decisions
from brain.decide.loop import Settings
from brain.loop import Loop
from brain.metrics import Metrics
from brain.model.hold import Hold
from brain.model.node import Agent, Node
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from n8s import names
from tests.component.brain.fakeapi import until

ENABLED = Node("n1", labels={names.AUTO_MIG_LABEL: "true"})


class World:
    """What the loop reads and acts through."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.nodes: tuple[Node, ...] = ()
        self.published = 0
        self.rounds: list[float] = []
        self.seconds = 0.0
        self.under_way = 0
        self.most = 0
        self.well = True
        self.wake: float | None = None
        self.fitting: frozenset[str] = frozenset()
        self.holds: dict[str, Hold] = {}
        self.late = 0
        self.metrics = Metrics()
        self.pods: tuple[Pod, ...] = ()
        self.error: Callable[[Snapshot], bool] = lambda _: False
        self.seen: list[Snapshot] = []
        self.decided_from: list[Snapshot] = []

    def snapshot(self, now: float) -> Snapshot:
        del now
        return Snapshot(nodes=self.nodes, pods=self.pods)

    def publish(self, snapshot: Snapshot) -> None:
        del snapshot
        self.published += 1

    def decided(self, snapshot: Snapshot, decisions: Decisions) -> None:
        del decisions
        self.decided_from.append(snapshot)

    async def act(self, decisions: Iterable[Decision]) -> bool:
        del decisions
        self.rounds.append(time.monotonic())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        return self.well


@asynccontextmanager
async def looping(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    def decide(snapshot: Snapshot, _settings: Settings) -> Decisions:
        world.seen.append(snapshot)
        if world.error(snapshot):
            raise OverflowError("cannot convert float infinity to integer")
        looks = {"n1": frozenset({f"round {len(world.seen)}"})}
        return Decisions(
            fitting=world.fitting, holds=world.holds, looks=looks, late=world.late, wake_seconds=world.wake
        )

    monkeypatch.setattr(module, "decide", decide)
    loop = Loop(
        snapshot=world.snapshot,
        changed=world.changed,
        actor=world,
        board=world,
        settings=Settings(),
        metrics=world.metrics,
        clock=time.monotonic,
    )
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_round_shows_what_it_decided_and_from_what(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    async with looping(world, monkeypatch):
        await until(lambda: len(world.rounds) == 1)
        assert world.decided_from == world.seen


async def test_changes_that_come_together_are_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COALESCE_SECONDS", 0.5)
    world = World()
    async with looping(world, monkeypatch):
        await until(lambda: len(world.rounds) == 1)
        for _ in range(10):
            world.changed.set()
            await asyncio.sleep(0.002)
        await asyncio.sleep(1.2)
        assert len(world.rounds) == 2
        assert world.published == 3


async def test_a_change_during_a_round_is_another_round_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.seconds = 0.05
    async with looping(world, monkeypatch):
        await until(lambda: world.under_way == 1)
        world.changed.set()
        await until(lambda: len(world.rounds) == 2)
        await asyncio.sleep(0.2)
        assert (len(world.rounds), world.most) == (2, 1)


async def test_time_alone_wakes_it_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.wake = 0.05
    async with looping(world, monkeypatch):
        await until(lambda: len(world.rounds) >= 3)
        assert world.rounds[2] - world.rounds[0] >= 0.1


async def test_what_failed_is_tried_again_with_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.04)
    world = World()
    world.well = False
    async with looping(world, monkeypatch):
        await until(lambda: len(world.rounds) >= 4)
        gaps = [later - earlier for earlier, later in zip(world.rounds, world.rounds[1:], strict=False)]
        assert gaps[0] < gaps[1] < gaps[2]
        world.well = True
        await asyncio.sleep(0.8)
        assert len(world.rounds) <= 5, "once all went well it rests"


async def test_it_waits_for_its_agents_before_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.nodes = (ENABLED,)
    async with looping(world, monkeypatch):
        await asyncio.sleep(0.1)
        assert (world.rounds, world.published) == ([], 1)
        world.nodes = (Node("n1", labels=ENABLED.labels, agent=Agent(connected=True, silent_seconds=0.0, gpus=())),)
        world.changed.set()
        await until(lambda: len(world.rounds) == 1)


async def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.1)
    world = World()
    world.nodes = (ENABLED,)
    async with looping(world, monkeypatch):
        await until(lambda: len(world.rounds) == 1, 1.0)


async def test_it_says_for_how_long_pods_have_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.wake, world.fitting = 0.05, frozenset({"a/p"})
    async with looping(world, monkeypatch):
        await until(lambda: len(world.seen) == 3)
        assert world.seen[0].fitting == {}
        assert 0.0 < world.seen[1].fitting["a/p"] < world.seen[2].fitting["a/p"]
        world.fitting = frozenset()
        await until(lambda: len(world.seen) == 5)
        assert world.seen[4].fitting == {}


async def test_it_says_for_how_long_room_has_been_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.wake, world.holds = 0.05, {"a/p": Hold("uid", tries=1, seconds=7.0)}
    async with looping(world, monkeypatch):
        await until(lambda: len(world.seen) == 2)
        assert world.seen[0].holds == {}
        hold = world.seen[1].holds["a/p"]
        assert hold.tries == 1
        assert 7.0 < hold.seconds < 17.0


async def test_it_says_whom_the_last_look_knew_of_and_counts_who_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.wake, world.late = 0.05, 2
    async with looping(world, monkeypatch):
        await until(lambda: len(world.seen) == 3)
        assert [each.looks for each in world.seen] == [{}, {"n1": {"round 1"}}, {"n1": {"round 2"}}]
        assert (world.metrics.registry.get_sample_value("n8s_brain_late_binds_total") or 0.0) >= 4


async def test_an_error_leaves_waiting_pods_out_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.04)
    world = World()
    running = Pod("team", "runs", "u1", node="n1")
    world.pods = (running, Pod("team", "waits", "u2"))
    world.error = lambda snapshot: len(snapshot.pods) > 1
    async with looping(world, monkeypatch):
        await until(lambda: len(world.rounds) >= 3)
        assert world.rounds[1] - world.rounds[0] < world.rounds[2] - world.rounds[1]
        assert [held.pods for held in world.seen[:2]] == [world.pods, (running,)]
        assert failed(world) >= 3
        assert len(caplog.records) == 1, "an error that stays is told once"
        assert caplog.records[0].exc_info
        world.error = lambda _: False
        await until(lambda: world.seen[-1].pods == world.pods)
        await asyncio.sleep(0.4)
        before = failed(world)
        world.error = lambda snapshot: len(snapshot.pods) > 1
        world.changed.set()
        await until(lambda: failed(world) > before)
        assert len(caplog.records) == 2, "it had gone"


async def test_an_error_that_always_comes_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.04)
    world = World()
    world.error = lambda _: True
    async with looping(world, monkeypatch):
        await until(lambda: failed(world) >= 4)
        assert [record.levelname for record in caplog.records] == ["CRITICAL"] * len(caplog.records)
        world.error = lambda _: False
        world.changed.set()
        await until(lambda: bool(world.decided_from and world.seen[-1] is world.decided_from[-1]))


ENDLESS = """
import asyncio, time, pytest
from brain import loop
from tests.component.brain.test_loop import World, looping

async def main():
    world = World()
    world.error = lambda _: time.sleep(60)
    async with looping(world, pytest.MonkeyPatch()):
        await asyncio.sleep(60)

loop.LONGEST_DECISION_SECONDS = 0.2
asyncio.run(main())
"""


def test_decisions_without_end_end_the_process_and_say_where_they_stood() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in decide" in ended.stderr


def failed(world: World) -> float:
    return world.metrics.registry.get_sample_value("n8s_brain_failed_decisions_total") or 0.0
