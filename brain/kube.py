"""The Kubernetes API as bytes: calls and streams over one connection pool.

Configuration (kubeconfig, service account with token reload, TLS) is the Kubernetes client's; the requests are
aiohttp's, because typed models are far too slow and heavy for what the brain watches. No retries here: who calls
knows what a failure means.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec
import yaml
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.rest import RESTClientObject

from brain.errors import ConfigError, RefusedError, UnreachableError

JSON: Final = "application/json"

_CONNECT_SECONDS: Final = 5.0
_CONNECTIONS: Final = 64
"""Each watch holds one, each write under way another; far above both."""


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""
    details: _Details | None = None


class Kube:
    """Calls to one API server. An async context manager: on the way out all connections are closed."""

    def __init__(self, configuration: Any) -> None:
        """Takes the Kubernetes client's ``Configuration``."""
        self._configuration = configuration
        self._host: str = configuration.host.rstrip("/")
        self._ssl: ssl.SSLContext = RESTClientObject(configuration).ssl_context
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    async def load(cls, kubeconfig: Path | None) -> Self:
        """An API server as a kubeconfig names it; None takes the pod's service account.

        Raises:
            ConfigError: neither can be read.
        """
        configuration = kubernetes_client.Configuration()
        try:
            if kubeconfig is None:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            else:
                await kubernetes_config.load_kube_config(
                    config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
                )
        except (kubernetes_config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
            problem = f"cannot be used: {error}" if kubeconfig else f"give one, as this is no pod of a cluster: {error}"
            raise ConfigError("--kubeconfig", problem) from error
        return cls(configuration)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=_CONNECTIONS)
        self._session = aiohttp.ClientSession(connector=connector, proxy=self._configuration.proxy)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        seconds: float = 10.0,
    ) -> bytes:
        """One request, and the body of its answer.

        Args:
            method: the HTTP method.
            path: below the server's address, with a leading slash.
            query: parameters.
            body: what is sent, as JSON; None sends nothing.
            content_type: of the body; says which kind of patch it is.
            seconds: time-out of the whole call.

        Raises:
            UnreachableError: no answer, or none in time.
            RefusedError: the answer is no success.
        """
        data = None if body is None else msgspec.json.encode(body)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=_CONNECT_SECONDS)
        try:
            headers = await self._headers(content_type)
            async with self._open().request(
                method, self._host + path, params=query, data=data, headers=headers, timeout=timeout
            ) as response:
                answer = await response.read()
                if response.status >= 300:
                    raise _refused(method, path, response.status, answer)
                return answer
        except TimeoutError as error:
            raise UnreachableError(method, path, f"no answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(method, path, str(error) or type(error).__name__) from error

    async def lines(self, path: str, query: Mapping[str, str], *, idle_seconds: float) -> AsyncIterator[bytes]:
        """The lines of a streamed answer, as they come, until the server ends it.

        Args:
            path: below the server's address, with a leading slash.
            query: parameters.
            idle_seconds: after so long without a byte the stream counts as dead.

        Raises:
            UnreachableError: no answer, or the stream broke or fell silent.
            RefusedError: the answer is no success.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=idle_seconds)
        try:
            headers = await self._headers(JSON)
            async with self._open().get(self._host + path, params=query, headers=headers, timeout=timeout) as response:
                if response.status >= 300:
                    raise _refused("GET", path, response.status, await response.read())
                rest = b""
                async for chunk in response.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
        except TimeoutError as error:
            raise UnreachableError("GET", path, f"nothing came for {idle_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError("GET", path, str(error) or type(error).__name__) from error

    async def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": JSON, "Content-Type": content_type}
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        return headers

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Kube is used outside its context")
        return self._session


def _refused(method: str, path: str, status: int, answer: bytes) -> RefusedError:
    try:
        told = msgspec.json.decode(answer, type=_Status)
    except msgspec.DecodeError:
        told = _Status(message=answer[:200].decode(errors="replace"))
    causes = {cause.reason: cause.message for cause in told.details.causes} if told.details else {}
    return RefusedError(method, path, told.message, status=status, reason=told.reason, causes=causes)
