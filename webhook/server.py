"""The webhook over HTTP: reviews in, answers out, and what probes and Prometheus ask. No rule is here."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from brain.model.quota import Kind
from webhook import api as live
from webhook import review
from webhook.errors import ReviewError
from webhook.gate import gate
from webhook.validate import Api, validate

MAX_BODY_BYTES: Final = 8 * 2**20
"""A review holds an object twice, and the API server takes objects up to 3 MiB."""

logger = logging.getLogger(__name__)


class Server:
    """The web application over one API server."""

    def __init__(self, api: Api, answer_seconds: float) -> None:
        """``answer_seconds``: as in :class:`webhook.config.Config`."""
        self._api = api
        self._answer_seconds = answer_seconds
        self._draining = False
        self._registry = CollectorRegistry()
        self._reviews = Counter(
            "n8s_webhook_reviews",
            "Reviews by kind of object and outcome.",
            ["kind", "outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram("n8s_webhook_review_seconds", "Seconds that a review took.", registry=self._registry)

    def drain(self) -> None:
        """Has clients leave: each answer closes its connection from now on, and readiness ends."""
        self._draining = True

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._leave])
        application.add_routes(
            [
                *(web.post(f"/validate/{plural}", self._validator(kind)) for kind, plural in live.PLURALS.items()),
                web.post("/gate/pods", self._reviewer("Pod", self._gate)),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
            ]
        )
        return application

    def _validator(self, kind: Kind) -> Handler:
        async def judge(request: review.Request) -> tuple[review.Answer, str]:
            answer = await validate(self._api, kind, request, self._answer_seconds)
            outcome = {200: "allowed", 403: "refused"}.get(answer.code, "undecided")
            told = {"kind": kind.value, "namespace": request.namespace, "quota": request.name}
            told |= {"operation": request.operation, "user": request.user_info.username}
            logger.info("review", extra=told | {"outcome": outcome, "problem": answer.message})
            return answer, outcome

        return self._reviewer(kind.value, judge)

    async def _gate(self, request: review.Request) -> tuple[review.Answer, str]:
        answer = gate(request)
        return answer, "gated" if answer.patch else "allowed"

    def _reviewer(self, kind: str, judge: Callable[[review.Request], Awaitable[tuple[review.Answer, str]]]) -> Handler:
        """Answers reviews of objects of a kind by ``judge``, which also gives a word for the outcome."""

        async def handle(http_request: web.Request) -> web.Response:
            began = time.monotonic()
            try:
                request = review.decode(await http_request.read())
            except ReviewError as error:
                self._reviews.labels(kind, "malformed").inc()
                raise web.HTTPBadRequest(text=f"{error}\n") from error
            answer, outcome = await judge(request)
            self._reviews.labels(kind, outcome).inc()
            self._seconds.observe(time.monotonic() - began)
            return web.Response(body=review.encode(request.uid, answer), content_type="application/json")

        return handle

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._draining:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="about to end\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @web.middleware
    async def _leave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if self._draining:
            response.force_close()
        return response
