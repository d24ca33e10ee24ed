"""The stream to the brain: opened by the agent, opened again whenever it ends, for as long as the agent runs.

It carries messages and keeps nothing: what to say is the reporter's, what to do the orders'. An order under way goes on
while there is no session. Each session has a connection of its own, so that a new one finds the brain that leads now.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
import grpc.aio

from n8s.v1 import agent_pb2
from n8s.v1.agent_pb2_grpc import AgentServiceStub
from nodeagent import metrics
from nodeagent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nodeagent.orders import Orders
    from nodeagent.report import Reporter

KEEPALIVE_SECONDS: Final = 20
"""Between two pings; the brain's server must allow them (``grpc.http2.min_ping_interval_without_data_ms``)."""
KEEPALIVE_TIMEOUT_SECONDS: Final = 10
"""For the answer to a ping; a connection without it is dead."""
FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 5.0
"""Bounds of the back-off between sessions: a brain that restarts is back soon, and thousands of agents wait for it."""
CONNECT_SECONDS: Final = 10.0
"""For a connection; then it is tried with what the files hold by then."""
UNREACHED: Final = (
    f"no connection to the brain within {CONNECT_SECONDS:g} s: no brain leads, it cannot be reached, or it shows a "
    "certificate that the authorities of --brain-ca do not vouch for, or of another name than that of --brain-address"
)
UNWANTED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
ADVICE: Final = (
    "the agent must run as the ServiceAccount and in the namespace that the brain expects, with a projected token for "
    "the audience n8s-brain, on Kubernetes 1.30 or newer: install both by one release of the chart"
)
LASTING_SECONDS: Final = 5.0
"""A session that lasted this long was a good one: the back-off starts anew."""

logger = logging.getLogger(__name__)

Call = Any  # grpc.aio's stream-stream call; its stubs leave the messages' types open


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the hello says besides the epoch.

    Attributes:
        node: Name of the Kubernetes node.
        agent_version: Version of the agent.
        driver: Reads name and version of the GPU driver, anew for each session.
        boot_id: Reads the id of the node's boot, likewise.
    """

    node: str
    agent_version: str
    driver: Callable[[], str]
    boot_id: Callable[[], str]


class Connects(Protocol):
    """Opens a connection to the brain."""

    def __call__(self) -> grpc.aio.Channel:
        """A new channel, to be closed by the caller. Raises ConfigError where it cannot say who it is."""


def connect(address: str, authorities: Path, token: Path) -> grpc.aio.Channel:
    """A new connection to the brain: the one place where the agent makes channels to it.

    Args:
        address: HOST:PORT of the brain.
        authorities: File with those whom the agent trusts that it is the brain that answers.
        token: File with the token of the agent's pod, which says who it is and on which node.

    Both files are read anew for each connection: the kubelet renews the token, an upgrade the authorities.

    Raises:
        ConfigError: One of the files cannot be read.
    """
    return grpc.aio.secure_channel(
        address,
        grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(_content(authorities, "--brain-ca")),
            grpc.access_token_call_credentials(_content(token, "--token-file").decode(errors="replace").strip()),
        ),
        options=[
            ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),  # gRPC 1.85 heeds this one alone
            ("grpc.http2.max_pings_without_data", 0),  # else pings stop where there is nothing to say
            # gRPC's own back-off starts at a second, and a connection shared with an earlier channel leads to the
            # brain that has just turned us away.
            ("grpc.initial_reconnect_backoff_ms", int(FIRST_RETRY_SECONDS * 1000)),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", int(LAST_RETRY_SECONDS * 1000)),
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


def _content(file: Path, setting: str) -> bytes:
    try:
        found = file.read_bytes()
    except OSError as error:
        raise ConfigError(setting, f"{file} cannot be read: {error.strerror}") from error
    if not found.strip():
        raise ConfigError(setting, f"{file} is empty")
    return found


def pause_seconds(failures: int, chance: float) -> float:
    """For how long to leave the brain alone after so many failures in a row, in seconds.

    ``chance``, from 0 to 1, keeps those that lost the same brain at one moment from coming back at one moment.
    """
    ceiling = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * (1.0 + chance) / 2.0


class Sessions:
    """Keeps a session with the brain."""

    def __init__(self, connects: Connects, greeting: Greeting, orders: Orders, reporter: Reporter) -> None:
        self._connects = connects
        self._greeting = greeting
        self._orders = orders
        self._reporter = reporter

    async def run(self) -> None:
        """Open a session, serve it to its end, and begin again, until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            ended = await self._session()
            failures = 1 if loop.time() - began >= LASTING_SECONDS else failures + 1
            pause = pause_seconds(failures, random.random())  # noqa: S311, jitter is no secret
            logger.info("session ended", extra={"reason": ended, "retry_seconds": round(pause, 2)})
            await asyncio.sleep(pause)

    async def _session(self) -> str:
        """One session, to its end; returns why it ended, for people."""
        try:
            channel = self._connects()
        except ConfigError as error:
            return str(error)
        try:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await channel.channel_ready()
            except TimeoutError:
                return UNREACHED
            call: Call = AgentServiceStub(channel).Session(wait_for_ready=True)
            writer = asyncio.create_task(self._write(call))
            try:
                return await self._read(call)
            finally:
                metrics.CONNECTED.set(0)
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
                call.cancel()
        finally:
            await channel.close()

    async def _read(self, call: Call) -> str:
        try:
            async for message in call:
                match message.WhichOneof("body"):
                    case "order":
                        self._orders.take(message.order, self._reporter)
                    case "state_request":
                        self._reporter.ask()
                    case _:
                        logger.warning("message of an unknown kind left aside")
        except grpc.aio.AioRpcError as error:
            advice = f"; {ADVICE}" if error.code() in UNWANTED else ""
            return f"{error.code().name} {error.details()}{advice}"
        return "the brain closed it"

    async def _write(self, call: Call) -> None:
        # A stream that has ended refuses to be written; its reader says why.
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            await call.wait_for_connection()
            hello = agent_pb2.Hello(
                node=self._greeting.node,
                boot_id=await asyncio.to_thread(self._greeting.boot_id),
                agent_version=self._greeting.agent_version,
                driver=await asyncio.to_thread(self._greeting.driver),
                epoch=self._orders.epoch,
            )
            await call.write(agent_pb2.AgentMessage(hello=hello))
            # The brain takes the session. To write more to one that it refuses would hide its reason behind an error
            # of the write.
            await call.initial_metadata()
            if call.done():
                return
            metrics.SESSIONS.inc()
            metrics.CONNECTED.set(1)
            logger.info("session open", extra={"node": hello.node, "epoch": hello.epoch})
            self._reporter.restart()
            while True:
                await call.write(await self._reporter.next_message())
