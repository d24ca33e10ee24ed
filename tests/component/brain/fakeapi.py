"""A stand-in for the API server with the rules that matter here: versions, pages, selectors, watches, patches, faults.

It knows nothing of the objects it keeps. A path is a collection when ``collections`` names it; what follows it is
an object's name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes.aio import client as kubernetes_client

from brain.kube import Kube

Object = dict[str, Any]
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


@dataclass(slots=True)
class Fault:
    """What happens to the next requests that match."""

    matches: Callable[[web.Request], bool]
    status: int = 500
    times: int = 1
    delay: float = 0.0
    reason: str = ""
    causes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FakeApi:
    """Objects by collection path and name."""

    collections: dict[str, dict[str, Object]]
    version: int = 100
    oldest: int = 0
    history: list[tuple[int, str, Object]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    streams: set[web.StreamResponse] = field(default_factory=set)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    url: str = ""
    tokens: dict[str, Object] = field(default_factory=dict)
    """What reviews say of tokens, see :func:`reviewed`; of others, that they are not valid."""
    delayed: int = 0
    most_delayed: int = 0
    """How many requests a fault holds up now, and the most that it did at once."""

    async def put(self, path: str, obj: Object) -> Object:
        """Creates or replaces an object."""
        self.version += 1
        obj = json.loads(json.dumps(obj))
        obj.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        known = obj["metadata"]["name"] in self.collections[path]
        self.collections[path][obj["metadata"]["name"]] = obj
        await self._tell(path, "MODIFIED" if known else "ADDED", obj)
        return obj

    async def delete(self, path: str, name: str) -> None:
        """Deletes an object."""
        self.version += 1
        obj = self.collections[path].pop(name)
        obj["metadata"]["resourceVersion"] = str(self.version)
        await self._tell(path, "DELETED", obj)

    async def bookmark(self, path: str) -> None:
        """Tells all watches how far the history has come."""
        self.version += 1
        await self._tell(path, "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    async def drop_streams(self) -> None:
        """Breaks all watches, as a connection breaks."""
        for stream in list(self.streams):
            request = stream._req
            if request is not None and request.transport is not None:
                request.transport.abort()
        await asyncio.sleep(0)

    def forget(self) -> None:
        """Versions before now are gone."""
        self.oldest = self.version
        self.history.clear()

    def fail(self, method: str, ending: str, status: int = 500, *, watch: bool | None = None, **more: Any) -> Fault:
        """Has the next requests fail whose path ends so."""

        def matches(request: web.Request) -> bool:
            same = request.method == method and request.path.endswith(ending)
            return same and watch in {None, "watch" in request.query}

        fault = Fault(matches, status, **more)
        self.faults.append(fault)
        return fault

    def count(self, start: str) -> int:
        """How many requests began so, e.g. ``GET /api/v1/pods``."""
        return sum(request.startswith(start) for request in self.requests)

    async def _tell(self, path: str, kind: str, obj: Object) -> None:
        event = {"type": kind, "object": json.loads(json.dumps(obj)), "path": path}
        async with self.changed:
            self.history.append((self.version, path, event))
            self.changed.notify_all()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        text = await request.text()
        body: Any = json.loads(text) if text else None
        self.requests.append(f"{request.method} {request.path_qs}")
        if body is not None:
            self.bodies.append(body)
        for fault in self.faults:
            if fault.times > 0 and fault.matches(request):
                fault.times -= 1
                self.delayed += 1
                self.most_delayed = max(self.most_delayed, self.delayed)
                await asyncio.sleep(fault.delay)
                self.delayed -= 1
                if fault.status:
                    return _status(fault.status, fault.reason or "Fault", fault.causes)
                break
        path = request.path
        if path == REVIEWS:
            unknown = {"error": "no such token"}
            return web.json_response({"status": self.tokens.get(body["spec"]["token"], unknown)}, status=201)
        if path in self.collections:
            if request.method == "POST":
                name = body["metadata"]["name"]
                if name in self.collections[path]:
                    return _status(409, "AlreadyExists")
                return web.json_response(await self.put(path, body), status=201)
            if "watch" in request.query:
                return await self._watch(request, path)
            return self._list(request, path)
        collection, _, name = path.removesuffix("/status").removesuffix("/eviction").rpartition("/")
        current = self.collections.get(collection, {}).get(name)
        if current is None:
            return _status(404, "NotFound")
        if path.endswith("/eviction"):
            return await self._evict(collection, current, body)
        return await self._one(request, collection, current, body)

    async def _one(self, request: web.Request, collection: str, current: Object, body: Any) -> web.Response:
        if request.method in {"PUT", "PATCH"}:
            metadata = body.get("metadata", {})
            version = metadata.get("resourceVersion", current["metadata"]["resourceVersion"])
            if version != current["metadata"]["resourceVersion"]:
                return _status(409, "Conflict")
            if metadata.get("uid", current["metadata"].get("uid")) != current["metadata"].get("uid"):
                return _status(422, "Invalid")
            new = body if request.method == "PUT" else _merged(current, body)
            return web.json_response(await self.put(collection, new))
        return web.json_response(current)

    async def _evict(self, collection: str, current: Object, body: Any) -> web.Response:
        """Has a pod terminate; it is gone once the test deletes it."""
        if body.get("deleteOptions", {}).get("preconditions", {}).get("uid") not in {None, current["metadata"]["uid"]}:
            return _status(409, "Conflict")
        await self.put(collection, _merged(current, {"metadata": {"deletionTimestamp": "2026-11-24T12:00:00Z"}}))
        return web.json_response({"kind": "Status", "status": "Success"}, status=201)

    def _list(self, request: web.Request, path: str) -> web.Response:
        objects = sorted(self.collections[path].values(), key=lambda obj: str(obj["metadata"]["name"]))
        if "labelSelector" in request.query:
            label, _, value = request.query["labelSelector"].partition("=")
            objects = [obj for obj in objects if obj["metadata"].get("labels", {}).get(label) == value]
        start = int(request.query.get("continue", "0"))
        end = start + int(request.query.get("limit", "1000000"))
        metadata = {"resourceVersion": str(self.version)}
        if end < len(objects):
            metadata["continue"] = str(end)
        return web.json_response({"metadata": metadata, "items": objects[start:end]})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query["resourceVersion"])
        if seen < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        self.streams.add(response)
        try:
            while True:
                for version, where, event in list(self.history):
                    if version > seen and where == path:
                        await response.write(json.dumps(event).encode() + b"\n")
                        seen = version
                async with self.changed:
                    await self.changed.wait()
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self.streams.discard(response)


def reviewed(account: str, node: str = "", audience: str = "n8s-brain") -> Object:
    """What the API server says of a token of a ServiceAccount, ``NAMESPACE:NAME``, bound to a pod on a node if any."""
    extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
    user = {"username": f"system:serviceaccount:{account}", "groups": ["system:serviceaccounts"], "extra": extra}
    return {"authenticated": True, "user": user, "audiences": [audience]}


@asynccontextmanager
async def running(*collections: str) -> AsyncIterator[tuple[FakeApi, Kube]]:
    """A fake API server with empty collections, and a client for it."""
    api = FakeApi({path: {} for path in collections})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    configuration = kubernetes_client.Configuration()
    configuration.host = api.url
    try:
        async with Kube(configuration) as kube:
            yield api, kube
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns once a condition holds; looks often, fails after a while."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.005)


def _status(code: int, reason: str, causes: dict[str, str] | None = None) -> web.Response:
    body: Object = {"kind": "Status", "code": code, "reason": reason, "message": f"{reason} by the fake"}
    if causes:
        body["details"] = {"causes": [{"reason": kind, "message": message} for kind, message in causes.items()]}
    return web.json_response(body, status=code)


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386, and of strategic merge patches what lists with directives mean whose entries have names."""
    if isinstance(patch, list) and any(isinstance(entry, dict) and "$patch" in entry for entry in patch):
        gone = {entry["name"] for entry in patch if entry["$patch"] == "delete"}
        return [entry for entry in target or [] if entry["name"] not in gone] or None
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        merged = _merged(result.get(key), value)
        if merged is None:
            result.pop(key, None)
        else:
            result[key] = merged
    return result
