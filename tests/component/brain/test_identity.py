"""Who may call the brain: the decision on what reviews say, and the gate in front of the services over real TLS."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from brain.metrics import Metrics
from brain.model.snapshot import Snapshot
from brain.serve import identity
from brain.serve.identity import AGENTS, Accounts, Caller, Gatekeeper, Refusal, Review, Role, admit, identify
from brain.serve.inventory import Inventory
from brain.serve.server import serving
from brain.serve.tls import credentials
from n8s.v1 import agent_pb2, agent_pb2_grpc, inventory_pb2, inventory_pb2_grpc
from tests import tls
from tests.component.brain.fakeapi import REVIEWS, FakeApi, Object, reviewed, running
from tests.ports import free_port

UNAUTHENTICATED, DENIED, UNAVAILABLE = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAVAILABLE,
)
ACCOUNTS = Accounts.of("ns", "agents")
INVENTORY = "n8s.v1.InventoryService"


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (reviewed("ns:agents", "n1"), Caller(Role.AGENT, "n1")),
        (reviewed("ns:n8s-viewer"), Caller(Role.VIEWER)),
        (reviewed("ns:n8s-viewer", "n1"), Caller(Role.VIEWER)),
        ({"error": "token has expired"}, UNAUTHENTICATED),
        ({}, UNAUTHENTICATED),
        (reviewed("ns:agents", "n1") | {"authenticated": False}, UNAUTHENTICATED),
        (reviewed("ns:agents", "n1", audience="other"), UNAUTHENTICATED),
        (reviewed("ns:agents", "n1") | {"audiences": []}, UNAUTHENTICATED),
        (reviewed("ns:agents"), DENIED),
        (reviewed("ns:other", "n1"), DENIED),
        (reviewed("elsewhere:agents", "n1"), DENIED),
        (reviewed("elsewhere:n8s-viewer"), DENIED),
        ({"authenticated": True, "user": {"username": "ann"}, "audiences": ["n8s-brain"]}, DENIED),
    ],
)
def test_who_a_token_is_of(status: Object, found: Caller | grpc.StatusCode) -> None:
    verdict = identify(msgspec.convert(status, Review), ACCOUNTS)
    assert (verdict.code if isinstance(verdict, Refusal) else verdict) == found
    if isinstance(verdict, Refusal):
        assert "expired" not in str(status) or status["error"] not in verdict.text


@pytest.mark.parametrize(
    ("role", "service", "admitted"),
    [
        (Role.AGENT, AGENTS, True),
        (Role.VIEWER, AGENTS, False),
        (Role.VIEWER, INVENTORY, True),
        (Role.AGENT, INVENTORY, False),
        (Role.AGENT, "any.Other", False),
    ],
)
def test_what_a_caller_may_use(role: Role, service: str, admitted: bool) -> None:
    refusal = admit(Caller(role, "n1"), service)
    assert (refusal is None) == admitted
    assert refusal is None or refusal.code is DENIED


class Agents(agent_pb2_grpc.AgentServiceServicer):
    """Says who may speak for which node."""

    async def Session(self, requests: AsyncIterator[agent_pb2.AgentMessage], context: Any) -> None:  # type: ignore[override]  # noqa: N802
        async for message in requests:
            if problem := identity.objection(message.hello.node):
                await context.abort(DENIED, problem)
            await context.write(agent_pb2.BrainMessage())


class World:
    """A server with a gate, and ways to it."""

    def __init__(self, api: FakeApi, address: str, path: Path) -> None:
        self.api = api
        self.address = address
        self.path = path
        self.metrics = Metrics()
        self.now = 1000.0

    @property
    def reviews(self) -> int:
        return self.api.count(f"POST {REVIEWS}")

    def channel(self, token: str) -> grpc.aio.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(self.address, tls.client(token, self.path), options=options)

    async def list(self, token: str) -> grpc.StatusCode | int:
        """Asks the inventory; the number of GPUs, or how it was refused."""
        async with self.channel(token) as channel:
            try:
                stub = inventory_pb2_grpc.InventoryServiceStub(channel)
                return len((await stub.ListGpus(inventory_pb2.ListGpusRequest(), timeout=5)).gpus)
            except grpc.aio.AioRpcError as error:
                self.said = error.details() or ""
                return error.code()

    async def hello(self, token: str, node: str) -> grpc.StatusCode:
        """Opens a session; OK where the brain answers."""
        async with self.channel(token) as channel:
            call: Any = agent_pb2_grpc.AgentServiceStub(channel).Session(timeout=5)
            try:
                await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(node=node)))
                await call.read()
            except grpc.aio.AioRpcError as error:
                self.said = error.details() or ""
                return error.code()
            except asyncio.InvalidStateError:  # ended before it could be written to
                self.said = await call.details()
                code: grpc.StatusCode = await call.code()
                return code
            return grpc.StatusCode.OK


@asynccontextmanager
async def world(path: Path) -> AsyncIterator[World]:
    tls.issue(path)
    board = Inventory()
    board.publish(Snapshot())

    def register(server: grpc.aio.Server) -> None:
        inventory_pb2_grpc.add_InventoryServiceServicer_to_server(board, server)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(Agents(), server)

    async with running() as (api, kube):
        it = World(api, f"127.0.0.1:{free_port()}", path)
        gate = Gatekeeper(kube, ACCOUNTS, it.metrics, lambda: it.now)
        async with serving(it.address, register, [INVENTORY], credentials(path), [gate]):
            api.tokens["viewer"] = reviewed("ns:n8s-viewer")
            api.tokens["agent"] = reviewed("ns:agents", "n1")
            yield it


async def test_each_service_answers_those_whom_it_is_for(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.api.tokens["other"] = reviewed("ns:default", "n1")
        assert await it.list("viewer") == 0
        assert await it.hello("agent", "n1") is grpc.StatusCode.OK
        assert await it.hello("agent", "n2") is DENIED
        assert it.said == "the token is of an agent on node 'n1', and cannot speak for node 'n2'"
        assert await it.list("agent") is DENIED
        assert it.said == f"{INVENTORY} is for the viewers' ServiceAccount, and the token is of the agents'"
        assert await it.hello("viewer", "n1") is DENIED
        assert await it.list("other") is DENIED
        assert await it.hello("other", "n1") is DENIED
        assert await it.list("") is UNAUTHENTICATED
        assert it.said.startswith("the call has no token")
        assert await it.list("unknown") is UNAUTHENTICATED
        assert "no such token" not in it.said, "what the API server says is not for strangers"
        assert await it.hello("unknown", "n1") is UNAUTHENTICATED
        assert it.api.bodies[0]["spec"] == {"token": "viewer", "audiences": ["n8s-brain"]}
        assert it.metrics.refused_calls.labels("UNAUTHENTICATED")._value.get() == 3


async def test_nobody_needs_a_token_for_health_and_reflection(tmp_path: Path) -> None:
    async with world(tmp_path) as it, it.channel("") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=INVENTORY))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await call.read()).list_services_response.service
        call.cancel()
        assert it.reviews == 0


async def test_a_caller_without_a_word_is_refused_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MESSAGE_SECONDS", 0.05)
    async with world(tmp_path) as it, it.channel("unknown") as channel:
        call: Any = agent_pb2_grpc.AgentServiceStub(channel).Session(timeout=5)
        assert await call.code() is UNAUTHENTICATED


async def test_without_the_api_server_nobody_is_let_in_and_all_may_try_again(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.api.fail("POST", "/tokenreviews", 403, times=2)
        assert await it.list("viewer") is UNAVAILABLE
        assert it.said == "the brain cannot have the API server review tokens; try again"
        assert await it.hello("agent", "n1") is UNAVAILABLE
        assert await it.list("viewer") == 0


def dated(expiry: float) -> str:
    """A token with a time of its end, as far as the brain looks into it."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expiry}).encode()).decode().rstrip("=")
    return f"header.{claims}.signature"


async def test_a_review_counts_for_a_while_and_never_longer_than_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as it:
        long, short, third = dated(9000), dated(1030), dated(9001)
        it.api.tokens |= dict.fromkeys((long, short, third), reviewed("ns:n8s-viewer"))
        for _ in range(2):
            assert [await it.list(token) for token in (long, short)] == [0, 0]
        assert it.reviews == 2
        it.now = 1031
        del it.api.tokens[long], it.api.tokens[short]
        assert (await it.list(long), await it.list(short)) == (0, UNAUTHENTICATED)
        it.now = 1061
        assert await it.list(long) is UNAUTHENTICATED
        monkeypatch.setattr(identity, "KEPT", 1)
        it.api.tokens[long] = reviewed("ns:n8s-viewer")
        before = it.reviews
        for token in (long, third, long):
            assert await it.list(token) == 0
        assert it.reviews == before + 3, "the oldest made room"
        for _ in range(2):
            assert await it.list("viewer") == 0
        assert it.reviews == before + 5, "a token that says nothing of its end is asked about each time"


async def test_a_new_certificate_is_taken_up_and_a_bad_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as it:
        assert await it.list("viewer") == 0
        old = (tmp_path / "ca.crt").read_bytes()
        tls.issue(tmp_path)
        assert await it.list("viewer") == 0
        new = (tmp_path / "ca.crt").read_bytes()
        (tmp_path / "ca.crt").write_bytes(old)
        assert await it.list("viewer") is UNAVAILABLE
        (tmp_path / "ca.crt").write_bytes(new)
        (tmp_path / "tls.key").write_text("no key")
        assert await it.list("viewer") == 0
        assert "certificate not taken up, the old one stays" in caplog.text
