"""The client library against a stand-in for the API server: tokens, whom to trust, what is said where there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from n8s import client
from n8s.client import AccessError, connect
from tests import tls

TOKENS = "/api/v1/namespaces/nebulnetes/serviceaccounts/n8s-viewer/token"
AUTHORITY = "/api/v1/namespaces/nebulnetes/configmaps/n8s-brain-ca"


@dataclass
class Api:
    """An API server that makes tokens, numbered; ``refusals`` are statuses by path."""

    kubeconfig: Path
    authority: str
    lifetime: int = 3600
    refusals: dict[str, int] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path in self.refusals:
            return self.refusals[path], {"kind": "Status", "message": "so says the stand-in"}
        if path == TOKENS:
            self.asked.append(body)
            spec = body["spec"] | {"expirationSeconds": self.lifetime}
            status = {"token": f"token-{len(self.asked)}", "expirationTimestamp": "2030-01-01T00:00:00Z"}
            return 201, {"metadata": {}, "spec": spec, "status": status}
        if path == AUTHORITY:
            return 200, {"metadata": {"name": "n8s-brain-ca"}, "data": {"ca.crt": self.authority}}
        return 404, {"kind": "Status", "message": "there is none"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    found = Api(tmp_path / "kubeconfig", (tls.directory() / "ca.crt").read_text())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _reply(self, body: Any) -> None:
            status, answer = found.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "own"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    found.kubeconfig.write_text(json.dumps(document))
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def brain() -> Iterator[str]:
    """A server that answers with what said who calls."""

    def said(_: bytes, context: grpc.ServicerContext) -> bytes:
        return str(dict(context.invocation_metadata())["authorization"]).encode()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handler = grpc.method_handlers_generic_handler("s", {"who": grpc.unary_unary_rpc_method_handler(said)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_secure_port("127.0.0.1:0", tls.server())
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def who(channel: grpc.Channel) -> str:
    ask: Any = channel.unary_unary("/s/who")
    return str(ask(b"", timeout=10).decode())


def test_a_token_for_the_brain_alone_is_got_and_used_while_it_is_fresh(api: Api, brain: str) -> None:
    with connect(brain, kubeconfig=api.kubeconfig) as channel:
        assert (who(channel), who(channel)) == ("Bearer token-1", "Bearer token-1")
    assert [asked["spec"]["audiences"] for asked in api.asked] == [["n8s-brain"]]


def test_a_token_is_renewed_before_it_ends_and_kept_where_that_fails(api: Api, brain: str) -> None:
    api.lifetime = 0
    with connect(brain, kubeconfig=api.kubeconfig) as channel:
        assert who(channel) == "Bearer token-2", "the first was never fresh"
        api.refusals[TOKENS] = 500
        assert who(channel) == "Bearer token-2"


def test_what_is_given_is_not_asked_for(api: Api, brain: str, tmp_path: Path) -> None:
    ca = tls.directory() / "ca.crt"
    with connect(brain, token="mine", ca=ca, kubeconfig=tmp_path / "none") as channel:
        assert who(channel) == "Bearer mine"
    with connect(brain, token="mine", kubeconfig=api.kubeconfig) as channel:
        assert who(channel) == "Bearer mine"
    api.refusals[AUTHORITY] = 403
    with connect(brain, ca=ca, kubeconfig=api.kubeconfig) as channel:
        assert who(channel) == "Bearer token-1"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (
            TOKENS,
            403,
            "cannot get a token of serviceaccount n8s-viewer of namespace nebulnetes: so says the stand-in; ",
        ),
        (TOKENS, 403, "has the release's role for it"),
        (AUTHORITY, 404, "cannot get configmap n8s-brain-ca of namespace nebulnetes: so says the stand-in; "),
        (AUTHORITY, 404, "name the release's namespace"),
        (AUTHORITY, 500, "so says the stand-in"),
    ],
)
def test_a_refusal_is_told_with_what_would_help(api: Api, path: str, status: int, text: str) -> None:
    api.refusals[path] = status
    with pytest.raises(AccessError) as caught:
        connect("127.0.0.1:1", kubeconfig=api.kubeconfig)
    assert text in str(caught.value)


def test_without_an_api_server_or_an_authority_there_is_no_channel(api: Api, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="no kubeconfig can be used"):
        connect("127.0.0.1:1", kubeconfig=tmp_path / "none")
    with pytest.raises(AccessError, match="none cannot be read"):
        connect("127.0.0.1:1", kubeconfig=api.kubeconfig, ca=tmp_path / "none")
    api.authority = ""
    with pytest.raises(AccessError, match=r"has no ca\.crt; name a file with it instead \(--ca\)"):
        connect("127.0.0.1:1", kubeconfig=api.kubeconfig)
    text = api.kubeconfig.read_text()
    port = json.loads(text)["clusters"][0]["cluster"]["server"].rpartition(":")[2]
    api.kubeconfig.write_text(text.replace(port, "1"))
    with pytest.raises(AccessError, match="the API server does not answer"):
        client.connect("127.0.0.1:1", kubeconfig=api.kubeconfig)
