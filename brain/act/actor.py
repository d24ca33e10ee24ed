"""Carries the decisions of one round out: orders and writes side by side, events in their own time.

Objects that are gone or have changed since the snapshot are normal: the next round sees them. Everything else
that fails is logged, once while it lasts, and makes the round count as incomplete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol

from brain.act.events import Teller
from brain.act.writes import JSON, Write, Written, node_path, taint, write
from brain.decide.decisions import (
    AskState,
    Decision,
    EmitEvent,
    Evict,
    LetIn,
    OrderGeometry,
    ReplacePlugin,
    TaintNode,
    UntaintNode,
)
from brain.errors import ApiError, RefusedError
from brain.metrics import Metrics
from brain.model.mig import Geometry

_log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Writes under way at one time; the API server's fair queues give one client about as many."""
LOOKED_AT_ONCE: Final = 500
"""Decisions that are looked at before others have their turn on the event loop."""
WRITE_SECONDS: Final = 5.0
"""Time-out of one write: a slow one must not hold the next round up for long."""
TAINT_ATTEMPTS: Final = 3
_STALE: Final = frozenset({404, 409, 422})
"""Gone, changed meanwhile, or another object of that name (a patch with another uid is answered 409 or 422)."""
_BUDGET: Final = "DisruptionBudget"
"""Cause with which an eviction is refused (429) that a PodDisruptionBudget does not allow now."""


class Api(Protocol):
    """What acting needs of the API server."""

    async def call(
        self, method: str, path: str, *, body: object = None, content_type: str = JSON, seconds: float
    ) -> bytes:
        """One request; raises ApiError."""


class Orders(Protocol):
    """The way to the agents."""

    def order(self, node: str, geometries: Mapping[int, Geometry]) -> bool:
        """Hands a node's agent an order; False where it has no session."""

    def request_state(self, node: str) -> None:
        """Asks a node's agent for its state now."""


class Actor:
    """Carries decisions out."""

    def __init__(
        self, api: Api, orders: Orders, teller: Teller, metrics: Metrics, today: Callable[[], datetime]
    ) -> None:
        """``today`` is the time of day in UTC, for what is written to objects."""
        self._api = api
        self._orders = orders
        self._teller = teller
        self._metrics = metrics
        self._today = today
        self._told: set[str] = set()
        self._done: set[tuple[type, str]] = set()

    async def act(self, decisions: Iterable[Decision]) -> bool:
        """Carries decisions out, and returns once all writes but the events' are done.

        What is done to a pod once for all is not done again while snapshots are late to show it.

        Returns:
            Whether all went well; where not, the same should be decided again before long.
        """
        writes: list[Written | OrderGeometry | TaintNode | UntaintNode] = []
        done, self._done = self._done, set()
        for number, decision in enumerate(decisions, 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)  # a round of a large cluster decides 100,000 things
            self._metrics.decisions.labels(type(decision).__name__).inc()
            match decision:
                case AskState(node):
                    self._orders.request_state(node)
                case EmitEvent():
                    self._teller.tell(decision)
                case LetIn(uid=uid) | Evict(uid=uid) | ReplacePlugin(uid=uid) if (
                    once := (type(decision), uid)
                ) in done:
                    self._done.add(once)
                case _:
                    writes.append(decision)
        left = iter(writes)
        results = await asyncio.gather(*(self._write_all(left) for _ in range(min(AT_ONCE, len(writes)))))
        return all(results)

    async def _write_all(self, left: Iterator[Written | OrderGeometry | TaintNode | UntaintNode]) -> bool:
        """Writes what is left, one after the other, while others take of the same; whether all went well."""
        well = True
        for decision in left:
            well &= await (self._order(decision) if isinstance(decision, OrderGeometry) else self._write(decision))
        return well

    async def _order(self, order: OrderGeometry) -> bool:
        """Hands an order to its session, if the node is as closed as it must be."""
        if order.closed:
            path = node_path(order.node)
            try:
                node = await self._api.call("GET", path, seconds=WRITE_SECONDS)
            except ApiError as error:
                self._failed(type(order).__name__, error)
                return False
            self._told.discard(path)
            if taint(node, wanted=True) is not None:
                _log.info("not ordered: the node has been opened meanwhile", extra={"node": order.node})
                return False
        return self._orders.order(order.node, order.geometries)

    async def _write(self, decision: Written | TaintNode | UntaintNode) -> bool:
        kind = type(decision).__name__
        try:
            match decision:
                case TaintNode(node):
                    path = await self._taint(node, wanted=True)
                case UntaintNode(node):
                    path = await self._taint(node, wanted=False)
                case _:
                    path = await self._send(write(decision, self._today()))
        except ApiError as error:
            result = self._failed(kind, error)
        else:
            result = "ok"
            self._told.discard(path)
            if isinstance(decision, LetIn | Evict | ReplacePlugin):
                self._done.add((type(decision), decision.uid))
            if isinstance(decision, LetIn):
                self._metrics.admission_seconds.observe(max(0.0, self._today().timestamp() - decision.created))
            if isinstance(decision, Evict):
                self._metrics.evictions.labels(decision.cause).inc()
                told = {"pod": f"{decision.namespace}/{decision.name}", "beneficiary": decision.beneficiary}
                _log.info("pod evicted", extra=told | {"why": decision.reason})
            if isinstance(decision, ReplacePlugin):
                told = {"node": decision.node, "pod": f"{decision.namespace}/{decision.name}"}
                _log.info("device plugin's pod evicted", extra=told)
        self._metrics.writes.labels(kind, result).inc()
        return result == "ok"

    async def _taint(self, node: str, *, wanted: bool) -> str:
        """Puts the taint on or takes it off; looks again where the node changes in between, as busy nodes do."""
        path = node_path(node)
        for attempt in range(TAINT_ATTEMPTS):
            request = taint(await self._api.call("GET", path, seconds=WRITE_SECONDS), wanted=wanted)
            try:
                return path if request is None else await self._send(request)
            except RefusedError as error:
                if error.status != 409 or attempt == TAINT_ATTEMPTS - 1:
                    raise
        return path

    async def _send(self, request: Write) -> str:
        """Sends one request, and returns its path."""
        await self._api.call(
            request.method, request.path, body=request.body, content_type=request.content_type, seconds=WRITE_SECONDS
        )
        return request.path

    def _failed(self, kind: str, error: ApiError) -> str:
        told = {"decision": kind, "path": error.path, "problem": error.problem}
        status, causes = (error.status, error.causes) if isinstance(error, RefusedError) else (0, {})
        if status in _STALE:
            self._told.discard(error.path)
            _log.debug("object has changed meanwhile", extra=told)
            return "stale"
        known = kind if status == 403 else error.path
        new = known not in self._told
        self._told.add(known)
        if status == 403:
            if new:
                _log.error("no right to write: give the brain this right", extra=told | {"verb": error.method})
            return "forbidden"
        if status == 429 and _BUDGET in causes:
            if new:
                _log.info("eviction held by a disruption budget", extra=told | {"budget": causes[_BUDGET]})
            return "held"
        if new:
            _log.warning("write failed, decided again with back-off", extra=told)
        return "failed"
