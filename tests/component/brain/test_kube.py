"""Calls and streams: what comes back, and what each failure becomes."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from kubernetes.aio import client as kubernetes_client

from brain.errors import ConfigError, RefusedError, UnreachableError
from brain.kube import Kube
from tests.component.brain.fakeapi import running

PODS = "/api/v1/pods"


async def test_a_refusal_says_why() -> None:
    async with running(PODS) as (api, kube):
        api.fail("GET", PODS, 403, reason="Forbidden")
        with pytest.raises(RefusedError) as caught:
            await kube.call("GET", PODS)
        error = caught.value
        assert (error.status, error.reason, error.method, error.path) == (403, "Forbidden", "GET", PODS)
        assert str(error) == f"GET {PODS}: 403 Forbidden: Forbidden by the fake"


async def test_no_answer_in_time() -> None:
    async with running(PODS) as (api, kube):
        api.fail("GET", PODS, 0, delay=1.0)
        with pytest.raises(UnreachableError, match=r"no answer within 0\.05 s"):
            await kube.call("GET", PODS, seconds=0.05)


async def test_nobody_there() -> None:
    configuration = kubernetes_client.Configuration()
    configuration.host = "http://127.0.0.1:1"
    async with Kube(configuration) as kube:
        with pytest.raises(UnreachableError):
            await kube.call("GET", PODS)
        with pytest.raises(UnreachableError):
            await anext(kube.lines(PODS, {}, idle_seconds=1.0))


async def test_a_silent_stream_is_dead() -> None:
    async with running(PODS) as (api, kube):
        await api.put(PODS, {"metadata": {"name": "p", "text": "x" * 300_000}})
        lines = kube.lines(PODS, {"watch": "1", "resourceVersion": "0"}, idle_seconds=0.2)
        assert len(await anext(lines)) > 300_000, "long lines come whole"
        with pytest.raises(UnreachableError, match="nothing came"):
            await anext(lines)


async def test_a_token_is_asked_for_at_each_call() -> None:
    tokens = iter(["one", "two"])
    seen: list[str] = []
    async with running(PODS) as (api, kube):
        configuration = kube._configuration
        configuration.api_key["BearerToken"] = "none yet"

        def renew(given: kubernetes_client.Configuration) -> None:
            given.api_key["BearerToken"] = f"Bearer {next(tokens)}"

        configuration.refresh_api_key_hook = renew

        def note(request: web.Request) -> bool:
            seen.append(request.headers["Authorization"])
            return False

        api.fail("GET", PODS).matches = note
        for _ in range(2):
            await kube.call("GET", PODS)
    assert seen == ["Bearer one", "Bearer two"]


async def test_outside_of_a_cluster_a_kubeconfig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="--kubeconfig: give one, as this is no pod of a cluster"):
        await Kube.load(None)


async def test_a_kubeconfig_that_says_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("kube") / "config"
    await asyncio.to_thread(path.write_text, "[")
    with pytest.raises(ConfigError, match="--kubeconfig"):
        await Kube.load(path)
