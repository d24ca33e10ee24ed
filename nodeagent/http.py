"""Health and metrics over HTTP: for the kubelet's probes and for Prometheus. It shows, and takes nothing.

Three short answers, each on a connection of its own, need no web framework: it would double the agent's time to start.
They come from the loop that does the agent's work, so a loop that hangs fails its liveness probe.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from nodeagent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nodeagent.report import Reporter

REQUEST_SECONDS: Final = 10.0
"""Time for a client to ask and to take the answer; then the connection is closed."""
_TEXT: Final = "text/plain; charset=utf-8"


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
    try:
        server = await asyncio.start_server(partial(_serve, reporter), host or None, port)
    except OSError as error:
        raise ConfigError("--http-listen", f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.close()


async def _serve(reporter: Reporter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and close; a client that breaks off or sends no request gets no answer."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.decode("latin-1").split(" ", 2)
            status, kind, body = _answer(reporter, target.partition("?")[0])
            if method != "GET":
                status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET\n"
            lines = (
                f"HTTP/1.1 {status.value} {status.phrase}",
                f"Content-Type: {kind}",
                f"Content-Length: {len(body)}",
                "Connection: close",
            )
            writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + body)
            await writer.drain()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


def _answer(reporter: Reporter, path: str) -> tuple[HTTPStatus, str, bytes]:
    """Status, content type and body for a path."""
    if path == "/healthz":
        return HTTPStatus.OK, _TEXT, b"ok\n"
    if path == "/readyz" and reporter.ready:
        return HTTPStatus.OK, _TEXT, b"ok\n"
    if path == "/readyz":
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{reporter.problem}\n".encode()
    if path == "/metrics":
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest()
    return HTTPStatus.NOT_FOUND, _TEXT, b"not here\n"
