"""The way to the brain for people and programs: a channel over TLS, with a token that says that they may ask.

    from n8s import client

    with client.connect("127.0.0.1:9090") as channel:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channel)

The token is one of the release's ``n8s-viewer`` ServiceAccount, for the brain and nobody else, which the API server
makes for whoever may create it; so nobody's own credentials are sent to the brain. It is renewed as long as the channel
lives. This module asks the API server and the brain, and changes nothing. Node agents do not use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import grpc
import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from n8s import names

NAMESPACE: Final = "nebulnetes"
"""Of the release, where nobody says otherwise."""
TOKEN_SECONDS: Final = 3600
"""Life of a token; the API server may make it another."""
RENEW: Final = 0.8
"""Part of a token's life after which it is renewed; the kubelet does it by the same rule."""
CALL_SECONDS: Final = 10.0


class AccessError(Exception):
    """There is no token, or no certificate authority, to speak to the brain with.

    Attributes:
        what: what was to be had.
        problem: why it could not be, and what would help.
    """

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"cannot get {what}: {problem}")
        self.what = what
        self.problem = problem


def connect(
    brain: str,
    *,
    namespace: str = NAMESPACE,
    kubeconfig: Path | None = None,
    token: str = "",
    ca: Path | None = None,
) -> grpc.Channel:
    """A channel to the brain, to be closed by the caller.

    Args:
        brain: HOST:PORT where it serves gRPC; HOST must be a name or address that its certificate is for.
        namespace: as the rest, see :func:`credentials`.
        kubeconfig: how to reach the API server.
        token: to be sent.
        ca: file with those who vouch for the brain's certificate.

    Raises:
        AccessError: see :func:`credentials`.
    """
    return grpc.secure_channel(brain, credentials(namespace=namespace, kubeconfig=kubeconfig, token=token, ca=ca))


def credentials(
    *,
    namespace: str = NAMESPACE,
    kubeconfig: Path | None = None,
    token: str = "",
    ca: Path | None = None,
) -> grpc.ChannelCredentials:
    """What a channel to the brain is made with, for those who make theirs themselves, with ``grpc.aio`` say.

    Args:
        namespace: of the release.
        kubeconfig: how to reach the API server; None: as kubectl finds it, or the pod's service account.
        token: to be sent; empty: one of the release's ``n8s-viewer``, from the API server.
        ca: file with the PEM of those who vouch for the brain's certificate; None: the release's ConfigMap.

    Raises:
        AccessError: the API server gives no token or authority, or the file cannot be read.
    """
    server = None if token and ca is not None else _Server(namespace, kubeconfig)
    try:
        authorities = ca.read_bytes() if ca is not None else None
    except OSError as error:
        raise AccessError("the certificate authority", f"{ca} cannot be read: {error.strerror}") from error
    if server is not None and authorities is None:
        authorities = server.authorities()
    if token or server is None:
        calls = grpc.access_token_call_credentials(token)
    else:
        calls = grpc.metadata_call_credentials(_Tokens(server.token))
    return grpc.composite_channel_credentials(grpc.ssl_channel_credentials(authorities), calls)


class _Tokens(grpc.AuthMetadataPlugin):
    """Puts a token that is fresh on each call."""

    def __init__(self, fetch: Callable[[], tuple[str, float]]) -> None:
        """``fetch`` gives a token and the seconds that it lives."""
        self._fetch = fetch
        self._lock = threading.Lock()
        self._renew()

    def _renew(self) -> None:
        began = time.monotonic()
        self._token, seconds = self._fetch()
        self._stale = began + RENEW * seconds

    def __call__(self, _: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """Called by gRPC for each call, from threads of its own."""
        with self._lock:
            if time.monotonic() >= self._stale:
                with contextlib.suppress(AccessError):  # the old one is good for a while
                    self._renew()
            token = self._token
        callback((("authorization", f"Bearer {token}"),), None)


class _Server:
    """The API server, asked in the caller's name."""

    def __init__(self, namespace: str, kubeconfig: Path | None) -> None:
        configuration = kubernetes_client.Configuration()
        try:
            if kubeconfig is not None:
                _load(configuration, str(kubeconfig))
            elif "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("KUBECONFIG"):
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            else:
                _load(configuration, None)
        except (kubernetes_config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
            problem = f"no kubeconfig can be used to ask the API server: {error}"
            raise AccessError("a token for the brain", problem) from error
        self._core = kubernetes_client.CoreV1Api(kubernetes_client.ApiClient(configuration))
        self._namespace = namespace

    def token(self) -> tuple[str, float]:
        """A new token, and the seconds that it lives."""
        account = f"serviceaccount {names.VIEWER_ACCOUNT} of namespace {self._namespace}"
        spec = {"audiences": [names.BRAIN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}
        made = _asked(
            f"a token of {account}",
            lambda: self._core.create_namespaced_service_account_token(
                names.VIEWER_ACCOUNT, self._namespace, {"spec": spec}, _request_timeout=CALL_SECONDS
            ),
        )
        return made.status.token, made.spec.expiration_seconds

    def authorities(self) -> bytes:
        """The PEM of those who vouch for the brain's certificate."""
        what = f"configmap {names.BRAIN_CA} of namespace {self._namespace}"
        found = _asked(
            what,
            lambda: self._core.read_namespaced_config_map(
                names.BRAIN_CA, self._namespace, _request_timeout=CALL_SECONDS
            ),
        )
        authorities: str = (found.data or {}).get(names.CA_KEY, "")
        if not authorities:
            raise AccessError(what, f"it has no {names.CA_KEY}; name a file with it instead (--ca)")
        return authorities.encode()


def _asked(what: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ApiException as error:
        raise AccessError(what, _problem(error)) from error
    except HTTPError as error:
        raise AccessError(what, f"the API server does not answer: {error}") from error


def _problem(error: Any) -> str:
    """What the API server says, and what would help."""
    try:
        said = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = f"{error.status} {error.reason}"
    if error.status == HTTPStatus.FORBIDDEN:
        return f"{said}; who may ask the brain has the release's role for it (…-inventory-view)"
    if error.status == HTTPStatus.NOT_FOUND:
        return f"{said}; it comes with the chart: name the release's namespace"
    return said


def _load(configuration: Any, file: str | None) -> None:
    kubernetes_config.load_kube_config(config_file=file, client_configuration=configuration, persist_config=False)
