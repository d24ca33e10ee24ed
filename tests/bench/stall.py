"""How long the brain's event loop stands still while it plans for a large cluster: 5,000 nodes of 8 GPUs, 60,000 pods.

The control loop runs as it does in the brain, on its store and its agents' records; every 0.3 s a pod changes.
Meanwhile a task asks for its turn every millisecond; what it waits beyond that is a stall. Printed are the longest ones
by what the loop was doing, and how long a round takes. Beside each longest stall stands the longest by the processor
time that this process spent meanwhile: what other programs take of a busy machine is in the first alone. All runs on
one core: a second one of a virtual machine may take tens of milliseconds to wake. Does not show: the watch's decoding,
gRPC, and carrying decisions out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from brain import wire
from brain.decide.decisions import Decision, Decisions
from brain.decide.loop import Settings
from brain.link.record import Record
from brain.loop import Loop
from brain.metrics import Metrics
from brain.model.node import Agent, Node
from brain.model.snapshot import Snapshot
from brain.observe.store import Store
from n8s.v1 import agent_pb2
from tests.bench.planner import cluster

NODES: Final = 5_000
PODS: Final = 60_000
ROUNDS: Final = 5
TICK_SECONDS: Final = 0.001


class Fleet:
    """All agents, each with one report."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._records: dict[str, Record] = {}
        for node in nodes:
            if node.agent is not None:
                hello = agent_pb2.Hello(node=node.name)
                record = self._records[node.name] = Record(hello, 0.0)
                record.hello(hello, 0.0)
                shown = node.agent.allocatable.items()
                devices = [agent_pb2.AllocatableResource(name=name, device_ids=sorted(ids)) for name, ids in shown]
                state = agent_pb2.NodeState(gpus=map(wire.gpu_to, node.agent.gpus), allocatable=devices)
                record.state(state, 0.0)

    def agents(self, now: float) -> Mapping[str, Agent]:
        """By node name."""
        known = ((name, record.agent(now)) for name, record in self._records.items())
        return {name: agent for name, agent in known if agent is not None}


class Idle:
    """Acts on nothing, and tells what is done at the moment."""

    def __init__(self) -> None:
        self.rounds = 0
        self.doing = "starts"

    def publish(self, snapshot: Snapshot) -> None:
        """A snapshot is made."""
        del snapshot
        self.doing = "decides"

    def decided(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Decisions are made."""
        del snapshot, decisions
        self.doing = "acts"

    async def act(self, decisions: Iterable[Decision]) -> bool:
        """Nothing happens."""
        del decisions
        self.rounds += 1
        self.doing = "makes a snapshot"
        return True


async def measure() -> None:
    """Runs the loop and prints what it does to others."""
    world = cluster(NODES, PODS, random.Random(1))  # noqa: S311
    store, fleet, idle = Store(time.monotonic), Fleet(world.nodes), Idle()
    store.nodes.replace({node.name: replace(node, agent=None) for node in world.nodes})
    store.pods.replace({pod.key: pod for pod in world.pods})
    loop = Loop(
        snapshot=lambda now: store.snapshot(now, fleet),
        changed=store.changed,
        actor=idle,
        board=idle,
        settings=Settings(),
        metrics=Metrics(),
        clock=time.monotonic,
    )
    gc.collect()
    gc.freeze()
    longest: dict[str, float] = {}
    own: dict[str, float] = {}
    running = asyncio.create_task(loop.run())
    began = seen = time.perf_counter()
    changed_at, number, spent = began, 0, time.process_time()
    while idle.rounds < ROUNDS:
        doing = idle.doing
        await asyncio.sleep(TICK_SECONDS)
        now = time.perf_counter()
        used = time.process_time()
        longest[doing] = max(longest.get(doing, 0.0), now - seen - TICK_SECONDS)
        own[doing] = max(own.get(doing, 0.0), min(now - seen - TICK_SECONDS, used - spent))
        seen, spent = now, used
        if now - changed_at > 0.3:
            changed_at, number = now, number + 1
            pod = world.pods[number]
            store.pods.put(pod.key, replace(pod, scheduler_message=str(number)))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    print(f"{NODES} nodes, {PODS} pods: {ROUNDS} rounds, {(time.perf_counter() - began) / ROUNDS:.2f} s each")
    for doing, seconds in longest.items():
        print(f"longest stall while the loop {doing}: {seconds * 1000:.0f} ms, our own {own[doing] * 1000:.0f} ms")


def main() -> None:
    """Prints the figures."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        asyncio.run(measure())
    finally:
        os.sched_setaffinity(0, cores)
