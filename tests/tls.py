"""A certificate for servers on 127.0.0.1 and the authority that vouches for it, made once for a run of the tests."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import grpc

from deploy.local.pki import Authority

_KEPT = tempfile.TemporaryDirectory(prefix="nebulnetes-tls-")


@functools.cache
def directory() -> Path:
    """Where ``tls.crt``, ``tls.key`` and ``ca.crt`` are."""
    path = Path(_KEPT.name)
    issue(path)
    return path


def issue(path: Path, *hosts: str) -> None:
    """Makes an authority and a certificate in a directory, in the place of those that are there."""
    authority = Authority(path)
    pair = authority.server("tls", hosts or ("127.0.0.1",))
    assert (pair.cert, pair.key) == (path / "tls.crt", path / "tls.key")


def server() -> grpc.ServerCredentials:
    """What a stand-in for the brain serves with."""
    key, chain = ((directory() / name).read_bytes() for name in ("tls.key", "tls.crt"))
    return grpc.ssl_server_credentials([(key, chain)])


def client(token: str = "", path: Path | None = None) -> grpc.ChannelCredentials:
    """What a client trusts, and shows if it has a token."""
    trusting = grpc.ssl_channel_credentials(((path or directory()) / "ca.crt").read_bytes())
    if not token:
        return trusting
    return grpc.composite_channel_credentials(trusting, grpc.access_token_call_credentials(token))
