"""Health and metrics over HTTP: for the kubelet's probes and for Prometheus. It shows, and takes nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from nodeagent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nodeagent.report import Reporter


@asynccontextmanager
async def serving(host: str, port: int, reporter: Reporter) -> AsyncIterator[None]:
    """Serve ``/healthz`` (the agent runs), ``/readyz`` (kubelet and driver answer) and ``/metrics``.

    Args:
        host: Address to listen on; empty for all.
        port: TCP port; 0 for any.
        reporter: Knows whether the node can be seen.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if reporter.ready:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{reporter.problem}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            raise ConfigError("--http-listen", f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield
    finally:
        await runner.cleanup()
