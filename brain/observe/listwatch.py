"""List and watch of one resource: keeps a sink equal to what the API server holds.

Pages long lists, goes on from the last resource version after a stream ends, lists anew when that version is
gone, and backs off with jitter when calls fail; the same failure is logged once, not at each try. Between a
failure and the next list the sink keeps what it had.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from brain.errors import ApiError, RefusedError
from brain.metrics import Metrics
from brain.observe import convert
from brain.observe.convert import Convert, ConvertError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_log = logging.getLogger(__name__)

PAGE: Final = 500
"""Objects of one page, as other clients of the API ask for."""
WATCH_SECONDS: Final = 300
"""A watch ends after one to two times this long, so that watches spread over the API servers again."""
IDLE_SECONDS: Final = 150.0
"""Bookmarks come about every minute; after so long a silence the connection counts as dead."""
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
_GONE: Final = 410
_PASSING: Final = frozenset({429, 500, 502, 503})
"""After these the version seen last still holds, so that a struggling API server is spared a complete list."""


class Api(Protocol):
    """What list and watch needs of the API server."""

    async def call(self, method: str, path: str, *, query: Mapping[str, str] | None = None) -> bytes:
        """One request; raises ApiError."""

    def lines(self, path: str, query: Mapping[str, str], *, idle_seconds: float) -> AsyncIterator[bytes]:
        """The lines of a streamed answer; raises ApiError."""


class Sink(Protocol[T_contra]):
    """Where objects of one resource are kept."""

    def replace(self, values: Mapping[str, T_contra]) -> None:
        """These are all that there are, by key."""

    def put(self, key: str, value: T_contra) -> None:
        """One is new or has changed."""

    def remove(self, key: str) -> None:
        """One is gone."""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(slots=True)
class Backoff:
    """Delays that double with each failure, spread by jitter so that many clients do not come back at once."""

    failures: int = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


class ListWatch(Generic[T]):
    """Keeps a sink equal to what the API server holds of one resource."""

    def __init__(self, api: Api, path: str, to_value: Convert[T], sink: Sink[T], metrics: Metrics) -> None:
        """``path`` is that of the resource in all namespaces, e.g. ``/api/v1/pods``."""
        self._api = api
        self._path = path
        self._convert = to_value
        self._sink = sink
        self._metrics = metrics
        self._resource = path.rpartition("/")[2]
        self._backoff = Backoff()
        self._told: object = None
        self._version = ""

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                await self._watch()
            except ApiError as error:
                self._metrics.watch_errors.labels(self._resource).inc()
                if isinstance(error, RefusedError) and error.status not in _PASSING:
                    self._version = ""
                    if error.status == 404:  # the kind is not installed: there are none
                        self._sink.replace({})
                self._tell(error)
                await asyncio.sleep(self._backoff.next())

    async def _list(self) -> str:
        self._metrics.relists.labels(self._resource).inc()
        values: dict[str, T] = {}
        query = {"limit": str(PAGE)}
        while True:
            try:
                page = msgspec.json.decode(await self._api.call("GET", self._path, query=query), type=_Page)
            except msgspec.DecodeError as error:
                raise ApiError("GET", self._path, f"the answer is no list: {error}") from error
            values.update(self._converted(page.items or ()))
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        self._sink.replace(values)
        self._well()
        return page.metadata.resource_version

    async def _watch(self) -> None:
        """Follows one stream to its end, from the version seen last.

        Raises:
            ApiError: the stream failed, or ended at once and empty-handed, which must not be tried in a loop.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(WATCH_SECONDS, 2 * WATCH_SECONDS)),  # noqa: S311 - jitter
        }
        began = time.monotonic()
        events = 0
        async for line in self._api.lines(self._path, query, idle_seconds=IDLE_SECONDS):
            try:
                event = msgspec.json.decode(line, type=_Event)
                if event.type == "ERROR":
                    self._raise(msgspec.json.decode(event.object, type=_Status))
                self._version = self._apply(event) or self._version
            except msgspec.DecodeError as error:
                raise ApiError("GET", self._path, f"the watch sent what is no event: {error}") from error
            events += 1
            self._well()
        if not events and time.monotonic() - began < 1:
            raise ApiError("GET", self._path, "the watch ended at once")

    def _apply(self, event: _Event) -> str:
        """Takes an event up, and returns the version that it tells of. What has become unreadable is left out."""
        metadata = convert.metadata_of(event.object)
        key = convert.key(metadata)
        if event.type in {"ADDED", "MODIFIED"}:
            values = self._converted([event.object])
            if values:
                self._sink.put(key, values[key])
            else:
                self._sink.remove(key)
        elif event.type == "DELETED":
            self._sink.remove(key)
        return metadata.resource_version

    def _converted(self, items: Iterable[msgspec.Raw]) -> dict[str, T]:
        """The objects that can be read, by key."""
        values: dict[str, T] = {}
        for item in items:
            try:
                values[convert.key(convert.metadata_of(item))] = self._convert(item)
            except ConvertError as error:
                _log.error("object left out", extra={"resource": self._resource, "problem": str(error)})
        return values

    def _raise(self, status: _Status) -> None:
        raise RefusedError("GET", self._path, status.message, status=status.code, reason=status.reason)

    def _well(self) -> None:
        self._backoff.failures = 0
        if self._told is not None:
            _log.info("watched again", extra={"resource": self._resource})
            self._told = None

    def _tell(self, error: ApiError) -> None:
        status = error.status if isinstance(error, RefusedError) else 0
        if status == _GONE or self._told == (type(error), status):
            return
        self._told = (type(error), status)
        told = {"resource": self._resource, "problem": error.problem}
        if status == 403:
            _log.error("no right to watch: give the brain list and watch on the resource", extra=told)
        else:
            _log.warning("watch failed, tried again with back-off", extra=told)
