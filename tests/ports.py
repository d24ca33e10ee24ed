"""Ports for servers of tests, beside other tests that run at the same time."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now.

    Not one that the kernel hands out (32768 and above): it might give that to a client before the server takes it.
    """
    while True:
        port = random.randrange(12_000, 32_000)  # noqa: S311
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
