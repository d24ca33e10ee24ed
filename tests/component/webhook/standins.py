"""What the webhook's component tests stand on: certificates, and an API server that knows quotas and rights.

The stand-in pages its lists and answers SubjectAccessReviews from a set. It keeps no versions, checks no token and
validates nothing: what only the real API server shows is shown end to end.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PAGE = 2
"""Objects in a page, however many are asked for: so that two pages are many."""


def write_certificate(directory: Path, name: str) -> None:
    """A self-signed certificate for 127.0.0.1 with this common name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@dataclass
class FakeApi:
    """The API server's state, which a test sets.

    Attributes:
        quotas: objects by plural.
        rights: (user, namespace) pairs that may create ElasticQuotas; "" is every namespace.
        reviews: the specs of the SubjectAccessReviews that were asked.
        failing: status of every answer, if it is not 0.
        hangs: answers never.
        port: where it listens.
    """

    quotas: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rights: set[tuple[str, str]] = field(default_factory=set)
    reviews: list[dict[str, Any]] = field(default_factory=list)
    failing: int = 0
    hangs: bool = False
    port: int = 0

    def add(self, kind: str, namespace: str, name: str, **spec: Any) -> None:
        metadata = {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}
        self.quotas.setdefault(f"{kind.lower()}s", []).append(
            {"kind": kind, "metadata": metadata, "spec": {"min": {"cpu": 1}} | spec}
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        application = web.Application(middlewares=[self._trouble])
        group = "/apis/n8s.nebuly.ai/v1alpha1"
        application.add_routes(
            [
                web.get(group + "/{plural}", self._list),
                web.get(group + "/namespaces/{namespace}/{plural}", self._list),
                web.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", self._access),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        user = {"name": "u", "user": {"token": "t"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "users": [user],
                    "contexts": [context],
                    "current-context": "c",
                }
            )
        )
        return path

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failing:
            return web.json_response({"kind": "Status", "message": "etcd is away"}, status=self.failing)
        response: web.StreamResponse = await handler(request)
        return response

    async def _list(self, request: web.Request) -> web.Response:
        namespace = request.match_info.get("namespace")
        found = [
            item
            for item in self.quotas.get(request.match_info["plural"], [])
            if namespace in (None, item["metadata"]["namespace"])
        ]
        start = int(request.query.get("continue", 0))
        more = {"continue": str(start + PAGE)} if start + PAGE < len(found) else {}
        return web.json_response({"metadata": more, "items": found[start : start + PAGE]})

    async def _access(self, request: web.Request) -> web.Response:
        spec = (await request.json())["spec"]
        self.reviews.append(spec)
        allowed = (spec["user"], spec["resourceAttributes"]["namespace"]) in self.rights
        return web.json_response({"status": {"allowed": allowed}}, status=201)
