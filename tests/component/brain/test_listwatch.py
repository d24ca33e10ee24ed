"""List and watch against a stand-in API server with faults."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from brain.kube import Kube
from brain.metrics import Metrics
from brain.model.pod import Pod
from brain.observe import convert, listwatch
from brain.observe.listwatch import ListWatch
from brain.observe.store import Table
from tests.component.brain.fakeapi import FakeApi, Object, running, until

PODS = "/api/v1/pods"


def pod(name: str, phase: str = "Pending") -> Object:
    return {"metadata": {"name": name, "namespace": "a", "uid": f"uid-{name}"}, "status": {"phase": phase}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listwatch, "FIRST_DELAY", 0.02)


@asynccontextmanager
async def watching(kube: Kube) -> AsyncIterator[Table[Pod]]:
    table: Table[Pod] = Table(lambda _key, _value: None)
    task = asyncio.create_task(ListWatch(kube, PODS, convert.pod, table, Metrics()).run())
    try:
        yield table
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def unreadable(name: str) -> Object:
    return pod(name) | {"spec": {"containers": [{"resources": {"requests": {"cpu": "much"}}}]}}


def names(table: Table[Pod]) -> set[str]:
    return {pod.name for pod in table.values.values()}


@asynccontextmanager
async def synced(*pods: str) -> AsyncIterator[tuple[FakeApi, Table[Pod]]]:
    async with running(PODS) as (api, kube):
        for name in pods:
            await api.put(PODS, pod(name))
        async with watching(kube) as table:
            await until(lambda: table.synced.is_set() and bool(api.streams))
            yield api, table


async def test_lists_in_pages_then_follows_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listwatch, "PAGE", 2)
    async with synced("p1", "p2", "p3", "p4", "p5") as (api, table):
        assert names(table) == {"p1", "p2", "p3", "p4", "p5"}
        assert api.count(f"GET {PODS}?limit=2") == 3
        await api.put(PODS, pod("p6"))
        await api.put(PODS, pod("p1", "Running"))
        await api.delete(PODS, "p2")
        await until(lambda: names(table) == {"p1", "p3", "p4", "p5", "p6"})
        assert table.values["a/p1"].phase == "Running"


async def test_goes_on_where_a_broken_stream_ended() -> None:
    async with synced("p1") as (api, table):
        await api.put(PODS, pod("p2"))
        await until(lambda: "p2" in names(table))
        await api.drop_streams()
        await api.put(PODS, pod("p3"))
        await until(lambda: "p3" in names(table))
        assert api.count(f"GET {PODS}?limit") == 1, "no second list"
        assert f"resourceVersion={api.version - 1}" in api.requests[-1]


async def test_a_bookmark_moves_the_version() -> None:
    async with synced("p1") as (api, table):
        await api.bookmark(PODS)
        at = api.version
        await api.put(PODS, pod("p2"))
        await until(lambda: "p2" in names(table))
        await api.drop_streams()
        await until(lambda: api.requests[-1].find(f"resourceVersion={at + 1}") > 0)


async def test_lists_anew_when_the_version_is_gone() -> None:
    async with synced("p1", "p2") as (api, table):
        api.faults.clear()
        api.fail("GET", PODS, 503, watch=True)
        await api.drop_streams()
        await api.delete(PODS, "p1")
        api.forget()
        await until(lambda: names(table) == {"p2"})
        assert api.count(f"GET {PODS}?limit") == 2
        await until(lambda: bool(api.streams))
        await api.put(PODS, pod("p3"))
        await until(lambda: names(table) == {"p2", "p3"})


@pytest.mark.parametrize("status", [403, 500, 429])
async def test_failures_are_logged_once_and_backed_off(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(PODS) as (api, kube):
        await api.put(PODS, pod("p1"))
        api.fail("GET", PODS, status, times=3)
        async with watching(kube) as table:
            await until(lambda: names(table) == {"p1"})
        assert api.count(f"GET {PODS}?limit") == 4
    told = [record.message for record in caplog.records if record.name == listwatch.__name__]
    assert len(told) == 2, told
    assert ("no right to watch" in told[0]) == (status == 403)
    assert told[1] == "watched again"


async def test_a_kind_that_is_not_installed_is_empty() -> None:
    async with running("/other") as (_, kube), watching(kube) as table:
        await until(table.synced.is_set)
        assert not table.values


async def test_an_object_that_cannot_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async with running(PODS) as (api, kube):
        await api.put(PODS, unreadable("bad"))
        await api.put(PODS, pod("good"))
        async with watching(kube) as table:
            await until(table.synced.is_set)
            assert names(table) == {"good"}
    assert "object left out" in caplog.text


async def test_an_object_that_becomes_unreadable_is_left_out_until_it_can_be_read_again() -> None:
    async with synced("p1", "p2") as (api, table):
        await api.put(PODS, unreadable("p1"))
        await until(lambda: names(table) == {"p2"})
        await api.put(PODS, pod("p1"))
        await until(lambda: names(table) == {"p1", "p2"})


async def test_a_watch_that_ends_at_once_is_not_tried_in_a_loop() -> None:
    async with running(PODS) as (api, kube):
        fault = api.fail("GET", PODS, 200, watch=True, times=10_000)
        async with watching(kube):
            await asyncio.sleep(0.3)
        assert 10_000 - fault.times < 8


async def test_nothing_is_forgotten_while_the_server_is_away() -> None:
    async with synced("p1") as (api, table):
        api.fail("GET", PODS, 500, times=4)
        await api.drop_streams()
        await until(lambda: api.faults[0].times == 0)
        assert names(table) == {"p1"}
