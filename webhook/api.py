"""What the webhook asks of the API server: the quotas that exist, and what a user may do. It reads, and writes nothing.

Each review asks anew: an answer from a cache could let two quotas pass that contradict each other. No retries: who
wrote the quota waits, and is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
import msgspec
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from brain.model.quota import Kind, Quota
from n8s import names
from webhook import review
from webhook.errors import ApiError, ConfigError

T = TypeVar("T")

PAGE: Final = 500
"""Objects in one answer; kubectl's own page size."""
AT_ONCE: Final = 8
"""Questions about a user's rights under way at a time, for one review."""

PLURALS: Final = {Kind.SINGLE: names.ELASTIC_QUOTAS, Kind.COMPOSITE: names.COMPOSITE_ELASTIC_QUOTAS}


class _ListMeta(msgspec.Struct, frozen=True):
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[review.Object] = []


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Access(msgspec.Struct, frozen=True):
    status: _AccessStatus = _AccessStatus()


class _Status(msgspec.Struct, frozen=True):
    message: str = ""


_LISTS: Final = msgspec.json.Decoder(_List)
_ACCESSES: Final = msgspec.json.Decoder(_Access)
_STATUSES: Final = msgspec.json.Decoder(_Status)


class Api:
    """One API server. An async context manager: on the way out its connections are closed."""

    def __init__(self, configuration: Any) -> None:
        """Takes the Kubernetes client's ``Configuration``."""
        self._client = kubernetes_client.ApiClient(configuration)

    @classmethod
    async def load(cls, kubeconfig: Path | None) -> Self:
        """The API server that a kubeconfig names; None takes the pod's service account.

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
        except (kubernetes_config.ConfigException, OSError) as error:
            problem = f"cannot be used: {error}" if kubeconfig else f"give one, as this is no pod of a cluster: {error}"
            raise ConfigError("--kubeconfig", problem) from error
        return cls(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def quotas(self, kind: Kind, namespace: str | None = None) -> list[Quota]:
        """The quotas of a kind, in one namespace or (None) in all.

        Raises:
            ApiError: the API server did not list them.
        """
        where = f"/namespaces/{namespace}" if namespace is not None else ""
        path = f"/apis/{names.GROUP}/{names.VERSION}{where}/{PLURALS[kind]}"
        query = [("limit", str(PAGE))]
        found: list[Quota] = []
        while True:
            page = _decoded(_LISTS, "GET", path, await self._call("GET", path, query=query))
            found += [review.quota(kind, item) for item in page.items]
            if not page.metadata.continue_:
                return found
            query = [("limit", str(PAGE)), ("continue", page.metadata.continue_)]

    async def may_not_create_quotas(self, user: review.User, namespaces: Sequence[str]) -> list[str]:
        """Those of the namespaces in which a user may not create ElasticQuotas.

        Raises:
            ApiError: the API server did not tell.
        """
        if await self._may_create_quotas(user, ""):
            return []
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(namespace: str) -> bool:
            async with turns:
                return await self._may_create_quotas(user, namespace)

        answers = await asyncio.gather(*map(one, namespaces))
        return [namespace for namespace, may in zip(namespaces, answers, strict=True) if not may]

    async def _may_create_quotas(self, user: review.User, namespace: str) -> bool:
        """Whether a user may create ElasticQuotas in a namespace; in all of them, if it is empty."""
        wanted = {"verb": "create", "group": names.GROUP, "resource": names.ELASTIC_QUOTAS, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.username,
                "uid": user.uid,
                "groups": user.groups,
                "extra": user.extra,
                "resourceAttributes": wanted,
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return _decoded(_ACCESSES, "POST", path, await self._call("POST", path, body=body)).status.allowed

    async def _call(
        self, method: str, path: str, *, query: Iterable[tuple[str, str]] = (), body: object = None
    ) -> bytes:
        try:
            prepared = await self._client.param_serialize(
                method,
                path,
                query_params=list(query),
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*prepared)
            answer: bytes = await response.read()
        except (aiohttp.ClientError, kubernetes_client.ApiException, OSError) as error:
            raise ApiError(f"{method} {path}", str(error) or type(error).__name__) from error
        if response.status >= 300:
            try:
                told = _STATUSES.decode(answer).message
            except msgspec.DecodeError:
                told = answer[:200].decode(errors="replace")
            raise ApiError(f"{method} {path}", f"{response.status}: {told}")
        return answer


def _decoded(decoder: msgspec.json.Decoder[T], method: str, path: str, answer: bytes) -> T:
    try:
        return decoder.decode(answer)
    except msgspec.DecodeError as error:
        raise ApiError(f"{method} {path}", f"unexpected answer: {error}") from error
