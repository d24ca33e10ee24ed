"""``n8s explain``: asks a brain how a pod stands, and shows the answer to people and programs.

Asks the inventory and nothing else: what it shows, any client of the gRPC service can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from brain.errors import BrainError
from n8s import names
from n8s.v1 import inventory_pb2, inventory_pb2_grpc
from n8s.v1.inventory_pb2 import PodExplanation, PodStanding

ANSWER_SECONDS: Final = 10.0
"""For how long to wait for the brain's answer, which takes it milliseconds."""

_HEADINGS: Final = {
    inventory_pb2.POD_STANDING_NO_MIG: ("asks for no MIG devices", ""),
    inventory_pb2.POD_STANDING_ENDED: ("has ended", ""),
    inventory_pb2.POD_STANDING_GATED: ("is gated", "yellow"),
    inventory_pb2.POD_STANDING_BOUND: ("is bound", "green"),
    inventory_pb2.POD_STANDING_FITS: ("fits", "green"),
    inventory_pb2.POD_STANDING_OVERDUE: ("fits, and is not bound", "yellow"),
    inventory_pb2.POD_STANDING_MAKING_ROOM: ("room is being made", "cyan"),
    inventory_pb2.POD_STANDING_WAITS: ("waits", "yellow"),
    inventory_pb2.POD_STANDING_UNTRIED: ("is up to the scheduler", "cyan"),
}


class NoAnswerError(BrainError):
    """A brain that did not answer, or not with what was asked for.

    Attributes:
        brain: its address.
        problem: what it said, or what went wrong on the way to it.
    """

    def __init__(self, brain: str, problem: str) -> None:
        super().__init__(f"the brain at {brain} {problem}")
        self.brain = brain
        self.problem = problem


def ask(brain: str, credentials: grpc.ChannelCredentials, namespace: str, name: str) -> PodExplanation:
    """How a pod stands, by the brain at an address ``HOST:PORT``.

    Raises:
        NoAnswerError: it cannot be reached, does not take the credentials, has not decided anything yet, or knows no
            such pod.
    """
    request = inventory_pb2.ExplainPodRequest(namespace=namespace, name=name)
    with grpc.secure_channel(brain, credentials) as channel:
        try:
            stub = inventory_pb2_grpc.InventoryServiceStub(channel)
            return stub.ExplainPod(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            unreachable = error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            problem = str(error.details() or error.code())
            raise NoAnswerError(brain, f"{'gives no answer' if unreachable else 'says'}: {problem}") from error


def document(explanation: PodExplanation) -> dict[str, Any]:
    """An explanation as a JSON document: the message's fields by their names, those that are empty included."""
    return MessageToDict(explanation, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def page(explanation: PodExplanation) -> Group:
    """An explanation to read."""
    return Group(*_lines(explanation))


def _lines(explanation: PodExplanation) -> Iterator[RenderableType]:
    heading, style = _HEADINGS.get(explanation.standing, (PodStanding.Name(explanation.standing), ""))
    key = f"{explanation.namespace}/{explanation.name}"
    yield Text.assemble((key, "bold"), " ", (heading, f"bold {style}".strip()))
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for fact, value in _facts(explanation):
        facts.add_row(fact, value)
    yield Padding(facts, (0, 0, 0, 2))


def _facts(explanation: PodExplanation) -> Iterator[tuple[str, RenderableType]]:
    """What is known, each with what it is; what the text says as well is left out."""
    if explanation.devices:
        yield "asks for", Text(_devices(explanation))
    if explanation.lacks:
        yield "nodes", _lacks(explanation)
    else:
        yield "state", Text(explanation.text)
    if explanation.HasField("quota"):
        yield "quota", Text(_quota(explanation.quota))
    if explanation.HasField("would_help"):
        helps = explanation.would_help
        yield "helps", Text(f"node {helps.node} would have room if {helps.pod} ended")
    if explanation.deferred:
        yield "soon", Text("a node may serve it once it is done with the change under way")
    if explanation.scheduler_message and explanation.standing != inventory_pb2.POD_STANDING_OVERDUE:
        yield "scheduler", Text(explanation.scheduler_message)
    if explanation.devices:
        yield "all pods", Text(_round(explanation.round))


def _devices(explanation: PodExplanation) -> str:
    devices = sorted(explanation.devices.items())
    return ", ".join(f"{count} {resource.removeprefix(names.MIG_PREFIX)}" for resource, count in devices)


def _quota(quota: inventory_pb2.PodQuota) -> str:
    """Which quota it is and how the pod stands in it, then a line a resource."""
    key = f"{quota.kind} {quota.namespace}/{quota.name}"
    lines = [f"{key}: the pod is {quota.capacity}" if quota.capacity else key]
    for use in quota.uses:
        limits = [f"{side} {limit}" for side, limit in (("min", use.min), ("max", use.max)) if limit]
        lines.append(f"uses {use.used} {use.resource}; {', '.join(limits)}")
    if not quota.uses:
        lines.append("it names nothing that the pod asks for")
    return "\n".join(lines)


def _lacks(explanation: PodExplanation) -> Table:
    """What nodes lack: how many, what, and which."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_column(style="dim", overflow="fold")
    for lack in explanation.lacks:
        shown = ", ".join(lack.names)
        table.add_row(str(lack.nodes), Text(lack.text), Text(f"{shown}, …" if len(lack.names) < lack.nodes else shown))
    return table


def _round(whole: inventory_pb2.Round) -> str:
    left_out, gap = whole.waiting - whole.served, whole.upper_bound - whole.served
    limit = f"a better plan might serve {gap} more, at most" if gap else "no plan serves more"
    return f"{whole.waiting} waiting for MIG devices: {whole.served} served, {left_out} left out; {limit}"
