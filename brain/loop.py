"""The control loop: a change comes, a snapshot is made, decisions follow from it and are carried out.

One round at a time, and only while this brain leads. Remembers nothing from round to round but how often in a
row carrying out has failed, since when waiting pods fit as things are, what is kept for whom and since when, whose
devices stay held though their pod has ended, and which pods it knew of where it had GPUs changed.

Decisions that end with an error are tried again with back-off. An error that the same cluster always brings about
mostly comes from what is planned for pods that wait: until it no longer comes, such rounds decide as if nobody waited,
so that nodes are opened again and labels and quotas stay true. To end instead would bring all that down with it, again
after each restart. Decisions that do not end are another matter: nothing goes on beside them, so the process ends.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol

from brain.decide.decisions import Decision, Decisions
from brain.decide.governed import left_alone
from brain.decide.loop import Settings, decide
from brain.metrics import Metrics
from brain.model.hold import Hold
from brain.model.snapshot import Snapshot

_log = logging.getLogger(__name__)
_STANDARD_ERROR: Final = 2

COALESCE_SECONDS: Final = 0.03
"""Changes that come within this time are taken together."""
GATHER_SECONDS: Final = 5.0
"""For how long a brain that begins to lead waits for the agents of its nodes, which must find it first: deciding by
those that came early would change their nodes for pods that fit on the others'."""
FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 30.0
LONGEST_DECISION_SECONDS: Final = 300.0
"""A process whose decisions take longer ends, and says on standard error where each thread stood: a hundred times as
long as the largest clusters need, so it would be for ever."""
FREED_AT_ONCE: Final = 1_000
"""Decisions of the round before that are freed without a break."""


class Actor(Protocol):
    """Who carries decisions out."""

    async def act(self, decisions: Iterable[Decision]) -> bool:
        """Carries them out; False where the same should be decided again before long."""


class Board(Protocol):
    """Where others read what the brain sees."""

    def publish(self, snapshot: Snapshot) -> None:
        """Shows the newest snapshot."""

    def decided(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Shows what a round decided, and from which snapshot."""


class Loop:
    """The control loop."""

    def __init__(
        self,
        *,
        snapshot: Callable[[float], Snapshot],
        changed: asyncio.Event,
        actor: Actor,
        board: Board,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """``snapshot`` takes the moment, ``changed`` is set by whoever sees a change, ``clock`` is monotonic."""
        self._snapshot = snapshot
        self._changed = changed
        self._actor = actor
        self._board = board
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._fitting: dict[str, float] = {}
        self._lingering: dict[tuple[str, str], float] = {}
        self._before = Decisions()
        self._holds: dict[str, tuple[Hold, float]] = {}
        self._looks: Mapping[str, frozenset[str]] = {}
        self._settled = False
        self._problems: set[str] = set()

    async def run(self) -> None:
        """Rounds until cancelled, the first once the agents are there."""
        await self._gather()
        await asyncio.sleep(COALESCE_SECONDS)  # two snapshots in a row would hold up everything else
        failures = 0
        while True:
            self._changed.clear()
            wake, well = await self._round()
            failures = 0 if well else failures + 1
            if failures:
                retry = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
                wake = retry if wake is None else min(wake, retry)
            await self._wait(wake)

    async def _gather(self) -> None:
        end = self._clock() + GATHER_SECONDS
        while (left := end - self._clock()) > 0:
            self._changed.clear()
            snapshot = self._snapshot(self._clock())
            self._board.publish(snapshot)
            if all(node.agent is not None for node in snapshot.nodes if node.enabled and node.ready):
                return
            await self._wait(left)

    async def _wait(self, seconds: float | None) -> None:
        """Returns a moment after the next change, or after so many seconds without one."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(COALESCE_SECONDS)

    async def _round(self) -> tuple[float | None, bool]:
        """One round: after how long to look again though nothing changed, and whether all was carried out."""
        with self._timed("snapshot"):
            now = self._clock()
            seen = self._snapshot(now)
            snapshot = replace(
                seen,
                quotas=left_alone(seen.quotas, self._settings.release_namespace),
                fitting={key: now - at for key, at in self._fitting.items()},
                holds={key: replace(hold, seconds=now - since) for key, (hold, since) in self._holds.items()},
                lingered={place: now - at for place, at in self._lingering.items()},
                looks=self._looks,
            )
            self._board.publish(snapshot)
        with self._timed("decide"):
            decisions, sound = await self._decided_somehow(snapshot)
        self._fitting = {key: self._fitting.get(key, now) for key in decisions.fitting}
        self._lingering = {place: self._lingering.get(place, now) for place in decisions.lingering}
        self._holds = {key: (hold, now - hold.seconds) for key, hold in decisions.holds.items()}
        self._looks = decisions.looks
        self._metrics.late_binds.inc(decisions.late)
        self._board.decided(snapshot, decisions)
        self._metrics.waiting_pods.set(len(decisions.plan.why))
        self._metrics.plan_gap_pods.set(decisions.plan.gap)
        with self._timed("act"):
            well = await self._actor.act(decisions.decisions)
        await self._let_go_of_last(decisions)
        self._metrics.quotas.snapshot = self._metrics.nodes.snapshot = snapshot
        self._metrics.rounds.inc()
        return decisions.wake_seconds, well and sound

    async def _let_go_of_last(self, decisions: Decisions) -> None:
        """Keeps a round's decisions in the place of those of the round before, which nobody needs any more.

        These go little by little: to free 100,000 at once holds up everything else.
        """
        last = list(self._before.decisions)
        self._before = decisions
        while last:
            del last[-FREED_AT_ONCE:]
            await asyncio.sleep(0)

    async def _decided_somehow(self, snapshot: Snapshot) -> tuple[Decisions, bool]:
        """Decisions, and whether they are all that should follow; without those for pods that wait after an error."""
        try:
            decisions = await self._decided(snapshot)
        except Exception as error:  # whatever it is, only what waits goes without
            self._failed(error, "could not decide; goes on as if no pod waited, and tries again")
        else:
            self._problems.clear()
            return decisions, True
        try:
            return await self._decided(replace(snapshot, pods=tuple(pod for pod in snapshot.pods if pod.node))), False
        except Exception as error:  # as above
            self._failed(error, "could not decide anything; tries again")
            return Decisions(), False

    def _failed(self, error: Exception, message: str) -> None:
        """Counts an error, and logs it where it is new since all went well: each change brings it about again."""
        self._metrics.failed_decisions.inc()
        problem = f"{message}: {error!r}"
        if problem not in self._problems:
            self._problems.add(problem)
            _log.critical(message, exc_info=error)

    async def _decided(self, snapshot: Snapshot) -> Decisions:
        """Decisions, made in a thread.

        The collector would walk all that comes up meanwhile, several times, and everything else would stand still. What
        the first round finds out of each node stays for those that follow: it is told to leave that alone for good.
        """
        pausing = gc.isenabled()
        gc.disable()
        faulthandler.dump_traceback_later(LONGEST_DECISION_SECONDS, exit=True, file=_STANDARD_ERROR)
        try:
            return await asyncio.to_thread(decide, snapshot, self._settings)
        finally:
            faulthandler.cancel_dump_traceback_later()
            if pausing:
                if not self._settled:
                    gc.freeze()
                gc.enable()
            self._settled = True

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = self._clock()
        yield
        self._metrics.stage_seconds.labels(stage).observe(self._clock() - began)
