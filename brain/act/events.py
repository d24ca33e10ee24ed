"""Tells events beside the control loop, each once: a burst of them must not hold decisions up.

Which figures a message held does not matter: who waits for the same reason as before is not told again.

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
from brain.decide import reasons
from brain.decide.decisions import EmitEvent
from brain.errors import ApiError, RefusedError
from brain.metrics import Metrics

_log = logging.getLogger(__name__)

KEPT_SECONDS: Final = 3600.0
"""For how long kube-apiserver keeps events by default (``--event-ttl``)."""
_PENDING: Final = 50_000
"""Events that wait to be told at most; what more there is comes again from a later round."""
_CALL_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 5.0
"""After a failure, before the next attempt."""


Told = tuple[str, ...]
"""An object and what it is told, without figures: what makes two events the same."""


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
        self._first: dict[Told, EmitEvent] = {}
        self._pending: dict[Told, EmitEvent] = {}
        self._told: dict[Told, float] = {}
        self._wake = asyncio.Event()
        self._forbidden = False

    def tell(self, told: EmitEvent) -> None:
        """Has an event told, unless that was done lately; one that is about to be is told in its newest words."""
        same = _same(told)
        since = self._told.get(same)
        if since is not None and self._clock() - since < KEPT_SECONDS:
            return
        # Who is evicted is told so in one round only, and before those who wait, however many.
        queue = self._first if told.reason == reasons.RECLAIMED else self._pending
        if same in queue or len(queue) < _PENDING:
            queue[same] = told
            self._wake.set()

    async def run(self) -> None:
        """Tells what there is to tell, one after the other, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while queue := self._first or self._pending:
                same = next(iter(queue))
                if await self._send(queue[same]):
                    queue.pop(same, None)
                    self._remember(same)
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

    def _remember(self, same: Told) -> None:
        now = self._clock()
        self._told.pop(same, None)
        self._told[same] = now
        for old, since in list(self._told.items()):
            if now - since < KEPT_SECONDS:
                break
            del self._told[old]


def _same(told: EmitEvent) -> Told:
    return told.kind, told.namespace, told.name, told.uid, told.reason, told.about or told.message
