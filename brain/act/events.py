"""Tells events beside the control loop, each once: a burst of them must not hold decisions up.

What was told is remembered for as long as the API server keeps an event; after that, the same may be told again.
A brain that has just started learns from the API server (409) what was told before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from brain.act.writes import event
from brain.decide.decisions import EmitEvent
from brain.errors import ApiError, RefusedError
from brain.metrics import Metrics

_log = logging.getLogger(__name__)

KEPT_SECONDS: Final = 3600.0
"""For how long kube-apiserver keeps events by default (``--event-ttl``)."""
_PENDING: Final = 10_000
"""Events that wait to be told at most; the oldest are dropped and come again from a later round."""
_CALL_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 5.0
"""After a failure, before the next attempt."""


class Api(Protocol):
    """What telling events needs of the API server."""

    async def call(self, method: str, path: str, *, body: object, content_type: str, seconds: float) -> bytes:
        """One request; raises ApiError."""


class Teller:
    """Events to be told and those told lately."""

    def __init__(self, api: Api, metrics: Metrics, clock: Callable[[], float], today: Callable[[], datetime]) -> None:
        """``clock`` is monotonic, in seconds; ``today`` is the time of day in UTC."""
        self._api = api
        self._metrics = metrics
        self._clock = clock
        self._today = today
        self._pending: dict[EmitEvent, None] = {}
        self._told: dict[EmitEvent, float] = {}
        self._wake = asyncio.Event()
        self._forbidden = False

    def tell(self, told: EmitEvent) -> None:
        """Has an event told, unless that was done lately or is about to be."""
        since = self._told.get(told)
        if told in self._pending or (since is not None and self._clock() - since < KEPT_SECONDS):
            return
        self._pending[told] = None
        if len(self._pending) > _PENDING:
            del self._pending[next(iter(self._pending))]
        self._wake.set()

    async def run(self) -> None:
        """Tells what there is to tell, one after the other, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                told = next(iter(self._pending))
                if await self._send(told):
                    self._pending.pop(told, None)
                    self._remember(told)
                else:
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self, told: EmitEvent) -> bool:
        """Whether nothing is left to be done for an event."""
        request = event(told, self._today())
        result = "ok"
        try:
            await self._api.call(
                request.method,
                request.path,
                body=request.body,
                content_type=request.content_type,
                seconds=_CALL_SECONDS,
            )
        except RefusedError as error:
            result = {409: "stale", 403: "forbidden"}.get(error.status, "failed")
            if result == "forbidden" and not self._forbidden:
                self._forbidden = True
                _log.error("no right to tell events", extra={"path": error.path, "problem": error.problem})
            if result == "failed":
                _log.warning("event refused", extra={"path": error.path, "problem": error.problem})
            if error.status in {429, 500, 502, 503, 504}:
                self._metrics.writes.labels("EmitEvent", result).inc()
                return False
        except ApiError as error:
            _log.warning("event not told, tried again", extra={"path": error.path, "problem": error.problem})
            self._metrics.writes.labels("EmitEvent", "failed").inc()
            return False
        self._metrics.writes.labels("EmitEvent", result).inc()
        return True

    def _remember(self, told: EmitEvent) -> None:
        now = self._clock()
        self._told.pop(told, None)
        self._told[told] = now
        for old, since in list(self._told.items()):
            if now - since < KEPT_SECONDS:
                break
            del self._told[old]
