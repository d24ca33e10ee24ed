"""The certificate that the webhook shows, taken up anew when its files change, so that a renewal needs no restart.

A pair that does not fit together is refused, and the one before it stays in use. It makes no certificates.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from pathlib import Path
from typing import Final

from webhook.errors import CertificateError

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
LOOK_SECONDS: Final = 2.0
"""Between two looks. The kubelet takes up to a minute to bring a changed Secret to its files; this adds little."""

logger = logging.getLogger(__name__)


class Certificates:
    """A TLS context over a directory with ``tls.crt`` and ``tls.key``, as in a Secret of type kubernetes.io/tls."""

    def __init__(self, directory: Path) -> None:
        """Loads the certificate.

        Raises:
            CertificateError: it cannot be used.
        """
        self._directory = directory
        self._loaded = b""
        self.context: ssl.SSLContext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """For servers; connections that are open keep what they were opened with."""
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.refresh()

    def refresh(self) -> bool:
        """Takes up what the files hold, and says whether that is something new.

        Raises:
            CertificateError: it cannot be used; what was in use stays.
        """
        certificate, key = self._directory / CERTIFICATE, self._directory / KEY
        try:
            found = hashlib.sha256(certificate.read_bytes() + b"\0" + key.read_bytes()).digest()
            if found == self._loaded:
                return False
            # A context that is in use must not see a certificate whose key does not fit.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            self.context.load_cert_chain(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise CertificateError(self._directory, str(error)) from error
        self._loaded = found
        return True

    async def follow(self) -> None:
        """Looks for changes, for ever.

        On the event loop, where handshakes begin too: while the context takes a pair up it has the new certificate
        without its key, and a handshake that began then would fail.
        """
        complained = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if self.refresh():
                    logger.info("certificate taken up", extra={"directory": self._directory})
                complained = ""
            except CertificateError as error:
                if str(error) != complained:
                    told = {"problem": str(error)}
                    logger.error("certificate not taken up, the old one stays", extra=told)  # noqa: TRY400
                complained = str(error)
