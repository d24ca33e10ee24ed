"""What is known of one node's agent, apart from the stream it speaks on. No I/O; time comes in as a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from brain import wire
from brain.model.mig import Geometry, Gpu
from brain.model.node import Agent, Failure
from n8s.v1 import agent_pb2

FIRST_RETRY_SECONDS: Final = 2.0
"""How long a node is left alone after its first failed order; doubled with each that follows."""
LONGEST_RETRY_SECONDS: Final = 120.0
REMEMBERED_SECONDS: Final = 600.0
"""An order applied longer ago than this counts as one never applied: no taint stands for so long because of it."""


class _Report(NamedTuple):
    """What an agent last said of its node; see :class:`~brain.model.node.Agent`."""

    gpus: tuple[Gpu, ...]
    allocatable: Mapping[str, frozenset[str]]
    problem: str
    plugin_problem: str
    plugin_awaited: bool


class Record:
    """One node's agent: its last report, the order in flight, how the last order ended.

    It outlives the session: a silent agent's node is judged by what was last known of it.
    """

    def __init__(self, hello: agent_pb2.Hello, now: float) -> None:
        self.connected = False
        self.heard = now
        self._hello = hello
        self._reported: _Report | None = None
        self._awaited_at: float | None = None
        self._fresh = False
        self._sent: tuple[int, int] | None = None
        self._ordered: Mapping[int, Geometry] | None = None
        self._applying = 0
        self._failures = 0
        self._failure: tuple[str, str] | None = None
        self._retry_at = 0.0
        self._applied_at: float | None = None
        self._at_rest: Agent | None = None

    def hello(self, hello: agent_pb2.Hello, now: float) -> None:
        """The agent opens a session. Until its state follows, it counts as silent.

        What was ordered is forgotten: an agent that restarted has no order, one that did not says what it applies.
        """
        self.connected = True
        self.heard = now
        self._at_rest = None
        self._hello = hello
        self._fresh = False
        self._awaited_at = None
        self._sent = self._ordered = None
        self._applying = 0

    def state(self, state: agent_pb2.NodeState, now: float) -> bool:
        """The agent reports. Returns whether that says anything new."""
        gpus = tuple(sorted(map(wire.gpu_from, state.gpus), key=lambda gpu: gpu.index))
        allocatable = {entry.name: frozenset(entry.device_ids) for entry in state.allocatable}
        report = _Report(gpus, allocatable, state.problem, state.plugin_problem, state.plugin_awaited)
        if not state.plugin_awaited:
            self._awaited_at = None
        elif self._awaited_at is None:
            self._awaited_at = now
        new = not self._fresh or report != self._reported or state.applying != self._applying
        self.heard = now
        if new:
            self._at_rest = None
            self._fresh = True
            self._reported = self._reported if report == self._reported else report
            self._applying = state.applying
            self.agent(now)  # found as reports come: for thousands of nodes at once it holds up everything else
        return new

    def ended(self, now: float) -> None:
        """The agent's session has ended: from now on it is silent. It need not have had anything to say before."""
        self.connected = False
        self.heard = now
        self._at_rest = None

    def sent(self, order: agent_pb2.Order, geometries: Mapping[int, Geometry]) -> None:
        """An order is on its way to the agent; it replaces the one before."""
        self._at_rest = None
        self._sent = (order.epoch, order.id)
        self._ordered = geometries

    def result(self, result: agent_pb2.OrderResult, now: float) -> str:
        """An order has ended.

        Returns:
            How, in a word; empty where it is not the one in flight, so that its end says nothing any more.
        """
        self.heard = now
        self._at_rest = None
        outcome = wire.OUTCOMES.get(result.outcome, "failed")
        if result.id == self._applying:
            self._applying = 0
        if outcome == "applied":
            self._applied_at = now
        if self._sent != (result.epoch, result.id):
            return ""
        self._sent = self._ordered = None
        if outcome == "applied":
            self._failure = None
            self._failures = 0
        elif outcome != "replaced":
            self._failure = (outcome, result.message)
            self._retry_at = now + min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 16))
            self._failures += 1
        return outcome

    def agent(self, now: float) -> Agent | None:
        """What the decisions get to see; None until the agent has reported once.

        An order that the agent applies and that this brain did not send (a former leader's, or one from before a
        session broke) counts as in flight with a geometry that is not known. While time alone changes nothing, the same
        object is given again.
        """
        if self._reported is None or self._at_rest is not None:
            return self._at_rest
        ordered = self._ordered
        if ordered is None and self._applying:
            ordered = {}
        failure = None
        if self._failure is not None:
            failure = Failure(*self._failure, max(0.0, self._retry_at - now))
        applied = float("inf") if self._applied_at is None else now - self._applied_at
        if applied > REMEMBERED_SECONDS:
            applied = float("inf")
        connected = self.connected and self._fresh
        report = self._reported
        agent = Agent(
            connected=connected,
            silent_seconds=0.0 if connected else now - self.heard,
            gpus=report.gpus,
            allocatable=report.allocatable,
            problem=report.problem,
            plugin_problem=report.plugin_problem,
            awaited_seconds=None if self._awaited_at is None else now - self._awaited_at,
            ordered=ordered,
            failure=failure,
            applied_seconds=applied,
            version=self._hello.agent_version,
            driver=self._hello.driver,
        )
        if (
            connected
            and applied == float("inf")
            and self._awaited_at is None
            and (failure is None or failure.retry_seconds == 0.0)
        ):
            self._at_rest = agent
        return agent
