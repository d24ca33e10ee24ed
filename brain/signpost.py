"""The way to the leader: the label that the brains' Service selects by, on the leader's pod and on no other.

Only who leads writes it, on all brains' pods: one that was killed, or is cut off, cannot take it off itself. So what
is left behind is put right by the next leader, and being ready need not mean leading. It says who is to be found and
protects nothing: a brain that does not lead does not listen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from brain.act.writes import JSON, MERGE
from brain.errors import ApiError, RefusedError
from n8s import names

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""Between two looks. A write of an earlier leader may have been under way when this one looked first."""
RETRY_SECONDS: Final = 1.0
_CALL_SECONDS: Final = 4.0
_LEADS: Final = "true"


class Api(Protocol):
    """What the signpost needs of the API server."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        seconds: float,
    ) -> bytes:
        """One request; raises ApiError."""


class _Metadata(msgspec.Struct, frozen=True):
    name: str


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Pods(msgspec.Struct, frozen=True):
    items: list[_Pod] | None = None


class Signpost:
    """Points to one pod, for as long as it runs."""

    def __init__(self, api: Api, namespace: str, pod: str) -> None:
        """``pod`` is this brain's own, in the namespace of all brains."""
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._pod = pod

    async def run(self) -> None:
        """Keeps the label where it belongs, until cancelled."""
        told = ""
        while True:
            problem = ""
            try:
                await self._point()
            except ApiError as error:
                problem = str(error)
            if problem and problem != told:
                _log.error("the Service may not lead to this brain", extra={"problem": problem})
            told = problem
            await asyncio.sleep(RETRY_SECONDS if problem else LOOK_SECONDS)

    async def _point(self) -> None:
        query = {"labelSelector": f"{names.LEADER_LABEL}={_LEADS}"}
        answer = await self._api.call("GET", self._path, query=query, seconds=_CALL_SECONDS)
        try:
            found = msgspec.json.decode(answer, type=_Pods)
        except msgspec.DecodeError as error:
            raise ApiError("GET", self._path, f"the answer is no list: {error}") from error
        labelled = {pod.metadata.name for pod in found.items or ()}
        if self._pod not in labelled:
            await self._label(self._pod, _LEADS)
        for other in sorted(labelled - {self._pod}):
            try:
                await self._label(other, None)
            except RefusedError as error:
                if error.status != 404:  # it is gone meanwhile
                    raise

    async def _label(self, pod: str, value: str | None) -> None:
        body = {"metadata": {"labels": {names.LEADER_LABEL: value}}}
        path = f"{self._path}/{pod}"
        await self._api.call("PATCH", path, body=body, content_type=MERGE, seconds=_CALL_SECONDS)
        _log.info("leader label", extra={"pod": pod, "put": "off" if value is None else "on"})
