"""Who leads: one brain at a time, by a Lease of ``coordination.k8s.io``.

A holder that cannot renew stops its work, and has stopped it, before others may take the Lease. Deadlines are of
the monotonic clock and counted from before the call that last succeeded; other holders' times are never compared
with this machine's clock, only whether they still change. ``spec.leaseTransitions`` grows at every acquisition:
it is the epoch that orders to the agents carry.

The Lease is written whole, as it was read, with its resource version: unknown fields stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from brain.errors import ApiError, LeaseLostError, RefusedError, UnreachableError
from brain.metrics import Metrics

_log = logging.getLogger(__name__)

NAME: Final = "nebulnetes-brain"


class Api(Protocol):
    """What the lease needs of the API server."""

    async def call(self, method: str, path: str, *, body: object = None, seconds: float = 10.0) -> bytes:
        """One request; raises ApiError."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. What must hold: call < renewal deadline < duration, with room for the work to stop in between.

    Attributes:
        duration: after so long without renewal others may take the Lease; a crashed leader is missed so long.
        deadline: after so long without renewal the holder gives up; the rest up to ``duration`` is for stopping.
        renew: how often the holder renews.
        retry: how often others look.
        call: time-out of one call.
    """

    duration: float = 15.0
    deadline: float = 10.0
    renew: float = 2.0
    retry: float = 1.0
    call: float = 4.0


class Lease:
    """This brain's part in the election.

    Attributes:
        epoch: that of the term it leads, or led last; 0 before the first.
        leading: whether it leads now.
        trouble: why it could not take the lead if nobody led; empty while it watches the Lease, or leads.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        identity: str,
        metrics: Metrics,
        *,
        timing: Timing = Timing(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = 0
        self.leading = False
        self.trouble = "the lease has not been read yet"
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{NAME}"
        self._identity = identity
        self._metrics = metrics
        self._timing = timing
        self._clock = clock
        self._held: dict[str, Any] = {}
        self._writing = asyncio.Lock()
        self._renewed = 0.0
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Contends for the Lease and does the work whenever it leads, until cancelled.

        ``work`` is cancelled, and awaited, when the Lease is lost and when this is cancelled; then the Lease is
        released where it is still held. What ``work`` raises comes out of here.
        """
        while True:
            try:
                await self._acquire()
                await self._lead(work)
            except* LeaseLostError as lost:
                for error in lost.exceptions:
                    _log.error("leads no longer", extra={"problem": str(error), "epoch": self.epoch})
            finally:
                self.leading = False
                self._metrics.leading.set(0)
                await self._release()

    async def raise_above(self, epoch: int) -> None:
        """Makes the epoch higher than one that an agent has seen.

        Raises:
            ApiError: it could not be written; the epoch stays as it was.
            LeaseLostError: this brain leads no longer.
        """
        async with self._writing:
            if epoch >= self.epoch:
                await self._write(epoch + 1)
                _log.warning("epoch raised above one that an agent has seen", extra={"epoch": self.epoch})

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        self.leading = True
        self._metrics.leading.set(1)
        _log.info("leads", extra={"identity": self._identity, "epoch": self.epoch})
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew())
            try:
                await work()
            finally:
                renewing.cancel()

    async def _acquire(self) -> None:
        """Returns once this brain holds the Lease, with an epoch of its own."""
        told = ""
        while True:
            began = self._clock()
            problem = ""
            try:
                if await self._try():
                    self._renewed = began
                    self.trouble = ""
                    return
            except RefusedError as error:
                problem = "" if error.status == 409 else str(error)
            except (UnreachableError, ApiError) as error:
                problem = str(error)
            self.trouble = problem
            if problem and problem != told:
                _log.error("cannot contend for the lease", extra={"problem": problem})
            told = problem
            await asyncio.sleep(self._timing.retry)

    async def _try(self) -> bool:
        try:
            current = await self._read()
        except RefusedError as error:
            if error.status != 404:
                raise
            current = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
        spec = current.setdefault("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder not in {"", self._identity} and not self._expired(spec):
            return False
        self._held = current
        async with self._writing:
            await self._write(int(spec.get("leaseTransitions") or 0) + 1)
        return True

    def _expired(self, spec: dict[str, Any]) -> bool:
        """Whether the holder has not renewed for the Lease's duration, by this machine's clock."""
        seen = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        now = self._clock()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at > float(spec.get("leaseDurationSeconds") or self._timing.duration)

    async def _renew(self) -> None:
        """Renews for ever.

        Raises:
            LeaseLostError: another has it, or the deadline has passed.
        """
        while True:
            await asyncio.sleep(self._timing.renew)
            while True:
                began = self._clock()
                left = self._renewed + self._timing.deadline - began
                if left <= 0:
                    raise LeaseLostError(f"the lease could not be renewed for {self._timing.deadline:g} s")
                try:
                    async with asyncio.timeout(left), self._writing:
                        await self._write(self.epoch)
                except (ApiError, TimeoutError) as error:
                    _log.warning("lease not renewed", extra={"problem": str(error) or "no answer in time"})
                    await asyncio.sleep(min(self._timing.renew / 4, max(0.0, left)))
                else:
                    self._renewed = began
                    break

    async def _write(self, epoch: int) -> None:
        """Writes the Lease as held with an epoch; after a conflict, once more if it is still this brain's.

        Raises:
            ApiError: it could not be written.
            LeaseLostError: another has it.
        """
        try:
            await self._put(epoch)
        except RefusedError as error:
            if error.status != 409 or not self.leading:
                raise
            current = await self._read()
            self._check(current)
            self._held = current
            await self._put(epoch)

    async def _put(self, epoch: int) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        old = self._held.get("spec", {})
        spec = old | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "leaseTransitions": epoch,
            "renewTime": now,
        }
        if epoch != old.get("leaseTransitions"):
            spec["acquireTime"] = now
        await self._send({**self._held, "spec": spec})
        self.epoch = epoch
        self._metrics.epoch.set(epoch)

    async def _send(self, lease: dict[str, Any]) -> None:
        exists = "resourceVersion" in lease["metadata"]
        method, path = ("PUT", self._path) if exists else ("POST", self._collection)
        answer = await self._api.call(method, path, body=lease, seconds=self._timing.call)
        self._held = _decoded(method, path, answer)

    async def _read(self) -> dict[str, Any]:
        return _decoded("GET", self._path, await self._api.call("GET", self._path, seconds=self._timing.call))

    def _check(self, lease: dict[str, Any]) -> None:
        spec = lease.get("spec", {})
        if spec.get("holderIdentity") != self._identity:
            raise LeaseLostError(f"{spec.get('holderIdentity') or 'nobody'} holds the lease")

    async def _release(self) -> None:
        """Gives the Lease back, so that the next takes over at once. Where that fails, it runs out by itself."""
        with contextlib.suppress(ApiError, LeaseLostError):
            current = await self._read()
            self._check(current)
            spec = current["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._send({**current, "spec": spec})
            _log.info("lease released", extra={"epoch": self.epoch})


def _decoded(method: str, path: str, answer: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ApiError(method, path, f"the answer is no Lease: {error}") from error
