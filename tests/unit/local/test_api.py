"""The kept-open connection to the API server: what it asks for, what it says when refused, and that it opens again."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.local import pki
from deploy.local.api import Api
from deploy.local.errors import ApiError


class Handler(BaseHTTPRequestHandler):
    """Answers with what it was asked; to a name ``absent`` as to what does not exist."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        found = not self.path.endswith("/absent")
        asked = {"asked": f"{self.command} {self.path}", "body": body, "items": [{"from": self.client_address[1]}]}
        text = json.dumps(asked if found else {"message": "not found"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        if self.path.startswith("/api/v1/events"):
            self.close_connection = True  # without a word, as a server does that waited long

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 the base class's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class's name
        """Nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    authority = pki.Authority(tmp_path)
    pair = authority.server("server", ["127.0.0.1"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    found = Api("127.0.0.1", server.server_address[1], trusting)
    yield found
    found.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_paths(api: Api) -> None:
    def asked(answer: dict[str, Any]) -> tuple[str, str]:
        return answer["asked"], answer["body"]

    assert asked(api.get("nodes", "n1")) == ("GET /api/v1/nodes/n1", "")
    assert asked(api.get("pods", "a", namespace="b")) == ("GET /api/v1/namespaces/b/pods/a", "")
    job = {"kind": "Job"}
    assert asked(api.create(job, namespace="b")) == ("POST /apis/batch/v1/namespaces/b/jobs", json.dumps(job))
    dry = api.create({"kind": "Pod"}, namespace="b", dry_run=True)
    assert dry["asked"] == "POST /api/v1/namespaces/b/pods?dryRun=All"


def test_one_connection_that_is_opened_again_when_the_server_has_closed_it(api: Api) -> None:
    first, again = api.items("pods"), api.items("pods", labels="a=b", fields="c=d")
    assert first == again
    assert api.items("events") == first
    assert api.items("pods") != first


def test_what_is_refused(api: Api) -> None:
    with pytest.raises(ApiError, match="GET /api/v1/nodes/absent ended with 404: not found") as caught:
        api.get("nodes", "absent")
    assert caught.value.status == 404
    with pytest.raises(ValueError, match="all pods of all namespaces"):
        api.delete("pods")
