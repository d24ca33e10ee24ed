"""The gRPC server: the one place where it is made, opened and closed.

It listens only while this brain leads, and has closed before the Lease is given up: agents and clients that reach
a brain have reached the leader. Everything goes over TLS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from brain.errors import ConfigError

GRACE_SECONDS: Final = 2.0
"""For how long streams may end by themselves when the server closes; well below what the Lease leaves."""
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its clients
    ("grpc.keepalive_time_ms", 20_000),  # a node that died without a word is noticed within half a minute
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # gRPC 1.85 heeds this one alone; without it, 60 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
)


@asynccontextmanager
async def serving(
    address: str,
    register: Callable[[grpc.aio.Server], None],
    services: Sequence[str],
    credentials: grpc.ServerCredentials,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[grpc.aio.Server]:
    """A server that listens while the context lasts, with health and reflection.

    Args:
        address: where to listen, as gRPC writes it.
        register: adds the services.
        services: their full names, for health and reflection.
        credentials: what it shows to who connects.
        interceptors: what sees each call first.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    server = grpc.aio.server(options=_OPTIONS, interceptors=interceptors)
    register(server)
    states = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError("--grpc-listen", f"cannot listen on {address}: {error}") from error
    await server.start()
    try:
        for name in ("", *services):
            await states.set(name, health_pb2.HealthCheckResponse.SERVING)
        yield server
    finally:
        await states.enter_graceful_shutdown()
        await server.stop(GRACE_SECONDS)
