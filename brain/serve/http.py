"""Health and metrics over HTTP, from the start, whether this brain leads or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from brain.errors import ConfigError


class Standing(Protocol):
    """How this brain stands."""

    @property
    def unready(self) -> str:
        """Why it neither serves nor could take over at once; empty when it does or could."""


def application(standing: Standing, registry: CollectorRegistry) -> web.Application:
    """``/healthz`` (the process answers), ``/readyz`` (503 with the reason where it is of no use), ``/metrics``."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        unready = standing.unready
        return web.Response(status=503 if unready else 200, text=f"{unready or 'ok'}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


@asynccontextmanager
async def serving_http(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Serves an application while the context lasts.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError("--http-listen", f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield
    finally:
        await runner.cleanup()
