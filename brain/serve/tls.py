"""The certificate that the gRPC server shows, taken up anew when its files change, so that a renewal needs no restart.

A pair that does not fit together is refused, and the one before it stays in use. It makes no certificates.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from pathlib import Path
from typing import Final

import grpc

from brain.errors import ConfigError

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"

_log = logging.getLogger(__name__)


def credentials(directory: Path) -> grpc.ServerCredentials:
    """What one port serves with: ``tls.crt`` and ``tls.key`` of a directory, as in a Secret of type kubernetes.io/tls.

    The files are looked at as each connection opens; connections that are open keep what they were opened with.

    Raises:
        ConfigError: they cannot be used.
    """
    pair = _Pair(directory)
    try:
        first = pair.read()  # something: nothing is in use yet
    except OSError as error:
        raise ConfigError("--tls-dir", f"{CERTIFICATE} and {KEY} in {directory} cannot be used: {error}") from error
    # The stubs do not know that None says that nothing is new.
    return grpc.dynamic_ssl_server_credentials(first, pair.fetch, require_client_authentication=False)  # type: ignore[arg-type]


class _Pair:
    """A certificate and its key in files."""

    def __init__(self, directory: Path) -> None:
        self._certificate = directory / CERTIFICATE
        self._key = directory / KEY
        self._loaded = b""

    def read(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold; None where that is in use already. Raises OSError where it cannot be used."""
        chain, key = self._certificate.read_bytes(), self._key.read_bytes()
        found = hashlib.sha256(chain + b"\0" + key).digest()
        if found == self._loaded:
            return None
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
        self._loaded = found
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new, for gRPC, which calls this from threads of its own before each handshake."""
        try:
            fresh = self.read()
        except OSError as error:  # ssl.SSLError is one
            _log.error("certificate not taken up, the old one stays", extra={"problem": str(error)})
            return None
        if fresh is not None:
            _log.info("certificate taken up", extra={"file": self._certificate})
        return fresh
