"""The agent's few answers over HTTP, and what it does with those who ask for something else, or nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from nodeagent.errors import ConfigError
from nodeagent.http import serving
from nodeagent.report import Reporter
from tests.ports import free_port

NODE = cast("Reporter", SimpleNamespace(ready=False, problem="kubelet does not answer"))


async def asked(port: int, *requests: bytes) -> bytes:
    """What comes back on one connection until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(request)
        await writer.drain()
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("requests", "status", "body"),
    [
        ([b"GET /healthz HTTP/1.1\r\n\r\n"], b"200 OK", b"ok\n"),
        (
            [b"GET /readyz?verbose HTTP/1.1\r\n", b"Host: here\r\n\r\n"],
            b"503 Service Unavailable",
            b"kubelet does not answer\n",
        ),
        ([b"GET / HTTP/1.1\r\n\r\n"], b"404 Not Found", b"not here\n"),
        ([b"POST /healthz HTTP/1.1\r\n\r\n"], b"405 Method Not Allowed", b"only GET\n"),
    ],
)
async def test_one_answer(requests: list[bytes], status: bytes, body: bytes) -> None:
    port = free_port()
    async with serving("127.0.0.1", port, NODE):
        head, _, rest = (await asked(port, *requests)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert rest == body


@pytest.mark.parametrize("request_", [b"", b"hello\r\n\r\n", b"GET /healthz HTTP/1.1\r\n", b"x" * 100_000])
async def test_who_sends_no_request_gets_no_answer_and_stops_nobody(request_: bytes) -> None:
    port = free_port()
    async with serving("127.0.0.1", port, NODE):
        assert await asked(port, request_) == b""
        assert b" 200 OK" in await asked(port, b"GET /healthz HTTP/1.1\r\n\r\n")


async def test_an_address_that_is_taken_is_named() -> None:
    port = free_port()
    async with serving("127.0.0.1", port, NODE):
        with pytest.raises(ConfigError, match=rf"--http-listen: cannot listen on 127.0.0.1:{port}"):
            async with serving("127.0.0.1", port, NODE):
                pass
