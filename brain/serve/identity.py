"""Who calls, by the service-account token that comes with the call, and whether the call is for such a caller.

Tokens are made for the audience ``n8s-brain`` and for nothing else, so what is sent here opens no other door. The API
server says whose a token is (TokenReview). It put the node into the token of an agent's pod when it made it, so that an
agent speaks for its own node only. A call is judged when it opens; a stream that is open stays.

Open to all: health, for probes, and reflection, which shows the contract that the repository shows as well.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import grpc
import msgspec
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from brain.errors import ApiError
from brain.metrics import Metrics
from n8s import names
from n8s.v1 import agent_pb2

_log = logging.getLogger(__name__)

AGENTS: Final = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
NEWER_REFLECTION: Final = "grpc.reflection.v1.ServerReflection"
"""What clients try before the one that there is; they must learn that it does not exist."""
OPEN: Final = frozenset({health.SERVICE_NAME, reflection.SERVICE_NAME, NEWER_REFLECTION})
REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
NODE_NAME: Final = "authentication.kubernetes.io/node-name"
"""Where a review tells of the node of the pod that a token is bound to; since Kubernetes 1.30."""
KEPT_SECONDS: Final = 60.0
"""For how long a review counts, at most: far less than the ten minutes that the shortest token lives, and after it a
token that was revoked opens nothing more."""
KEPT: Final = 4096
"""Reviews that are kept, the newest: calls of this many callers a minute are asked about once."""
AT_ONCE: Final = 16
"""Reviews under way: when all agents come at once, what the brain itself asks of the API server must not wait."""
MESSAGE_SECONDS: Final = 2.0
"""For the first message of a call that is refused."""
ANSWER_SECONDS: Final = 10.0
"""For a review, with the wait for those before it."""


class Role(Enum):
    """What a caller may do."""

    AGENT = "agent"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        role: what it may do.
        node: the node that it speaks for; empty for a viewer.
    """

    role: Role
    node: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not answered. The text is for the caller, and says nothing that it has not sent itself."""

    code: grpc.StatusCode
    text: str


@dataclass(frozen=True, slots=True)
class Accounts:
    """The ServiceAccounts whose tokens count, by user name."""

    agent: str
    viewer: str

    @classmethod
    def of(cls, namespace: str, agent: str) -> Accounts:
        """Those of the release's namespace; the agents' account is named by the chart's release."""
        prefix = f"system:serviceaccount:{namespace}"
        return cls(f"{prefix}:{agent}", f"{prefix}:{names.VIEWER_ACCOUNT}")


class User(msgspec.Struct, frozen=True):
    """Whose a token is."""

    username: str = ""
    extra: dict[str, list[str]] = {}


class Review(msgspec.Struct, frozen=True):
    """What the API server says of a token: the status of a TokenReview.

    Attributes:
        authenticated: whether the token is good, now, for one of the audiences that were asked for.
        user: whose it is.
        audiences: those among the asked for that it is good for; empty where the authenticator knows no audiences.
        error: why it is not good.
    """

    authenticated: bool = False
    user: User = User()
    audiences: list[str] = []
    error: str = ""


class _TokenReview(msgspec.Struct):
    status: Review = Review()


class _Claims(msgspec.Struct):
    exp: float


class Api(Protocol):
    """The part of the Kubernetes API that is needed."""

    async def call(self, method: str, path: str, *, body: object, seconds: float) -> bytes:
        """One request, and the body of its answer. Raises ApiError."""


def identify(review: Review, accounts: Accounts) -> Caller | Refusal:
    """Who sent a token that has been reviewed."""
    if not review.authenticated or names.BRAIN_AUDIENCE not in review.audiences:
        return Refusal(
            grpc.StatusCode.UNAUTHENTICATED,
            f"the token is not valid here: it has expired, was revoked, or is not for the audience "
            f"{names.BRAIN_AUDIENCE}",
        )
    username = review.user.username
    if username == accounts.viewer:
        return Caller(Role.VIEWER)
    if username != accounts.agent:
        return Refusal(
            grpc.StatusCode.PERMISSION_DENIED, f"{username} is neither the agents' nor the viewers' ServiceAccount"
        )
    node = next(iter(review.user.extra.get(NODE_NAME, ())), "")
    if not node:
        return Refusal(
            grpc.StatusCode.PERMISSION_DENIED,
            "the token names no node: it must be that of an agent's pod, issued by Kubernetes 1.30 or newer",
        )
    return Caller(Role.AGENT, node)


def admit(caller: Caller, service: str) -> Refusal | None:
    """Why a caller may not use a service that is not open to all; None where it may."""
    wanted = Role.AGENT if service == AGENTS else Role.VIEWER
    if caller.role is wanted:
        return None
    return Refusal(
        grpc.StatusCode.PERMISSION_DENIED,
        f"{service} is for the {wanted.value}s' ServiceAccount, and the token is of the {caller.role.value}s'",
    )


_caller: ContextVar[Caller] = ContextVar("caller")


def objection(node: str) -> str:
    """Why the caller of the call that is being served may not speak for a node; empty where it may."""
    own = _caller.get().node
    return "" if node == own else f"the token is of an agent on node {own!r}, and cannot speak for node {node!r}"


_Handler = Any  # grpc.RpcMethodHandler, which takes its type arguments in the stubs only; or None


class Gatekeeper(grpc.aio.ServerInterceptor):
    """Lets a call through that comes from whom it is for."""

    def __init__(self, api: Api, accounts: Accounts, metrics: Metrics, now: Callable[[], float]) -> None:
        """``now`` is the time of day, in seconds since 1970, which tokens go by."""
        self._api = api
        self._accounts = accounts
        self._metrics = metrics
        self._now = now
        self._kept: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler of a call, or one that refuses it."""
        service = handler_call_details.method.split("/")[1]
        if service in OPEN:
            return await continuation(handler_call_details)
        verdict = await self._verdict(_bearer(handler_call_details.invocation_metadata or ()), service)
        if isinstance(verdict, Refusal):
            self._metrics.refused_calls.labels(verdict.code.name).inc()
            told = {"method": handler_call_details.method, "code": verdict.code.name, "problem": verdict.text}
            _log.info("call refused", extra=told)
            return _refuse(verdict)
        _caller.set(verdict)  # the handler runs in this call's task, and in no other
        return await continuation(handler_call_details)

    async def _verdict(self, token: str, service: str) -> Caller | Refusal:
        if not token:
            return Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                "the call has no token: send one for the audience "
                f"{names.BRAIN_AUDIENCE} as metadata `authorization: Bearer TOKEN`",
            )
        caller = await self._who(token)
        return caller if isinstance(caller, Refusal) else admit(caller, service) or caller

    async def _who(self, token: str) -> Caller | Refusal:
        key = hashlib.sha256(token.encode()).digest()
        known = self._kept.get(key)
        if known is not None and self._now() < known[1]:
            return known[0]
        try:
            review = await self._review(token)
        except (ApiError, TimeoutError) as error:
            _log.warning("no token can be reviewed", extra={"problem": str(error) or "no answer in time"})
            return Refusal(grpc.StatusCode.UNAVAILABLE, "the brain cannot have the API server review tokens; try again")
        caller = identify(review, self._accounts)
        if isinstance(caller, Caller):
            self._keep(key, caller, token)
        elif review.error:
            _log.info("token not valid", extra={"problem": review.error})
        return caller

    async def _review(self, token: str) -> Review:
        spec = {"token": token, "audiences": [names.BRAIN_AUDIENCE]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        async with asyncio.timeout(ANSWER_SECONDS), self._turns:
            answer = await self._api.call("POST", REVIEWS, body=body, seconds=ANSWER_SECONDS)
        return msgspec.json.decode(answer, type=_TokenReview).status

    def _keep(self, key: bytes, caller: Caller, token: str) -> None:
        now = self._now()
        self._kept[key] = caller, min(now + KEPT_SECONDS, _expiry(token))
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token of a call; empty where it has none."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                return token.strip()
    return ""


def _expiry(token: str) -> float:
    """When a token that has been reviewed ends; 0 where it does not say so in the way of service-account tokens."""
    parts: Sequence[str] = token.split(".")
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(claims, type=_Claims).exp
    except (IndexError, binascii.Error, msgspec.MsgspecError, UnicodeError):
        return 0.0


def _refuse(refusal: Refusal) -> _Handler:
    """A handler that ends any kind of call.

    It takes the first message before: a client that is refused while it writes sees the error of the write alone.
    """

    async def end(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MESSAGE_SECONDS):
                await anext(messages, None)
        await context.abort(refusal.code, refusal.text)

    return grpc.stream_stream_rpc_method_handler(end)
