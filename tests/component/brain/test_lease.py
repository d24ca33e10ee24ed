"""The Lease against a stand-in API server with faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from brain import lease as module
from brain.errors import ApiError
from brain.kube import Kube
from brain.lease import Lease, Timing
from brain.metrics import Metrics
from tests.component.brain.fakeapi import FakeApi, Fault, running, until

LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
QUICK = Timing(duration=1.0, deadline=0.4, renew=0.05, retry=0.03, call=0.2)


class Work:
    """What is done while leading; notes when, and by which epoch."""

    def __init__(self) -> None:
        self.running = False
        self.terms: list[int] = []
        self.stop_seconds = 0.0

    async def __call__(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self.stop_seconds)
            self.running = False


@asynccontextmanager
async def contending(kube: Kube, identity: str, work: Work) -> AsyncIterator[Lease]:
    lease = Lease(kube, "ns", identity, Metrics(), timing=QUICK)
    task = asyncio.create_task(lease.run(work))
    try:
        yield lease
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def spec(api: FakeApi) -> dict[str, Any]:
    found: dict[str, Any] = api.collections[LEASES][module.NAME]["spec"]
    return found


async def test_first_leader_renews_and_releases() -> None:
    async with running(LEASES) as (api, kube):
        work = Work()
        async with contending(kube, "a", work) as lease:
            await until(lambda: work.running)
            assert (lease.epoch, spec(api)["holderIdentity"], spec(api)["leaseTransitions"]) == (1, "a", 1)
            first = spec(api)["renewTime"]
            await until(lambda: bool(spec(api)["renewTime"] != first))
            assert spec(api)["leaseTransitions"] == 1
        assert not work.running
        assert spec(api)["holderIdentity"] == ""


async def test_the_next_takes_over_at_once_after_a_release() -> None:
    async with running(LEASES) as (api, kube):
        one, two = Work(), Work()
        async with contending(kube, "b", two) as second:
            await until(lambda: two.running)
            async with contending(kube, "a", one):
                await asyncio.sleep(0.1)
                assert not one.running
        async with contending(kube, "a", one) as first:
            await until(lambda: one.running, 0.5)
            assert first.epoch == second.epoch + 1 == 2
        assert spec(api)["leaseTransitions"] == 2


async def test_a_restart_in_the_same_pod_leads_on_at_once_with_a_new_epoch() -> None:
    async with running(LEASES) as (api, kube):
        held = {"holderIdentity": "a", "leaseTransitions": 4, "renewTime": "2000-01-01T00:00:00Z"}
        await api.put(LEASES, {"metadata": {"name": module.NAME}, "spec": held})
        work = Work()
        async with contending(kube, "a", work) as lease:
            await until(lambda: work.running, 0.5)
            assert lease.epoch == 5


async def test_a_crashed_leader_is_replaced_after_the_duration_only() -> None:
    async with running(LEASES) as (api, kube):
        held = {"holderIdentity": "x", "leaseTransitions": 4, "leaseDurationSeconds": 0.3, "strategy": "kept"}
        await api.put(LEASES, {"metadata": {"name": module.NAME}, "spec": held})
        work = Work()
        async with contending(kube, "a", work) as lease:
            await asyncio.sleep(0.2)
            assert not work.running
            await until(lambda: work.running)
            assert lease.epoch == 5
            assert spec(api)["strategy"] == "kept", "fields of others stay"


async def test_a_renewing_leader_with_another_clock_is_left_alone() -> None:
    async with running(LEASES) as (api, kube):
        work = Work()
        async with contending(kube, "a", work):
            for second in range(8):
                held = {"holderIdentity": "x", "leaseDurationSeconds": 0.2, "renewTime": f"2000-01-01T00:00:0{second}Z"}
                await api.put(LEASES, {"metadata": {"name": module.NAME}, "spec": held})
                await asyncio.sleep(0.08)
            assert not work.running


async def test_a_lease_taken_by_another_ends_the_work() -> None:
    async with running(LEASES) as (api, kube):
        work = Work()
        async with contending(kube, "a", work) as lease:
            await until(lambda: work.running)
            taken = spec(api) | {"holderIdentity": "b", "leaseTransitions": 9}
            await api.put(LEASES, {"metadata": {"name": module.NAME}, "spec": taken})
            await until(lambda: not work.running)
            assert not lease.leading
        assert spec(api)["holderIdentity"] == "b", "what another holds is not released"


async def test_work_has_stopped_before_others_may_lead_when_the_server_is_slow() -> None:
    async with running(LEASES) as (api, kube):
        work = Work()
        work.stop_seconds = 0.2
        async with contending(kube, "a", work) as lease:
            await until(lambda: work.running)
            await asyncio.sleep(0.06)
            began = asyncio.get_running_loop().time()
            api.fail("PUT", module.NAME, 0, times=1000, delay=1.0)
            api.fail("GET", module.NAME, 0, times=1000, delay=1.0)
            await until(lambda: not work.running)
            assert asyncio.get_running_loop().time() - began < QUICK.duration - 0.1
            assert not lease.leading
            api.faults.clear()
            await until(lambda: work.running)
            assert lease.epoch == 2


async def test_passing_failures_do_not_end_the_term() -> None:
    async with running(LEASES) as (api, kube):
        work = Work()
        async with contending(kube, "a", work) as lease:
            await until(lambda: work.running)
            fault = api.fail("PUT", module.NAME, 500, times=3)
            await until(lambda: fault.times == 0)
            await asyncio.sleep(0.1)
            assert work.running
            await api.put(LEASES, api.collections[LEASES][module.NAME])
            await asyncio.sleep(0.2)
            assert work.running, "a conflict with a harmless write is no loss"
            assert lease.epoch == 1


async def test_the_epoch_is_raised_above_what_an_agent_has_seen() -> None:
    async with running(LEASES) as (api, kube):
        work = Work()
        async with contending(kube, "a", work) as lease:
            await until(lambda: work.running)
            await lease.raise_above(0)
            assert lease.epoch == 1
            await lease.raise_above(41)
            assert (lease.epoch, spec(api)["leaseTransitions"]) == (42, 42)
            api.fail("PUT", module.NAME, 500, times=1000)
            with pytest.raises(ApiError):
                await lease.raise_above(50)
            assert lease.epoch == 42


async def test_what_the_work_raises_comes_out_and_the_lease_is_released() -> None:
    async def broken() -> None:
        raise ValueError("no")

    async with running(LEASES) as (api, kube):
        with pytest.RaisesGroup(ValueError):
            await Lease(kube, "ns", "a", Metrics(), timing=QUICK).run(broken)
        assert spec(api)["holderIdentity"] == ""


async def test_two_never_lead_at_once() -> None:
    async with running(LEASES) as (api, kube):
        works = {name: Work() for name in "abc"}
        most = 0
        async with (
            contending(kube, "a", works["a"]),
            contending(kube, "b", works["b"]),
            contending(kube, "c", works["c"]),
        ):
            leaders = set()
            for turn in range(80):
                if turn % 40 == 10:  # the leader cannot renew until its deadline is over
                    leader = next(name for name, work in works.items() if work.running)
                    leaders.add(leader)
                    api.faults = [Fault(_by(leader), 500, times=15)]
                most = max(most, sum(work.running for work in works.values()))
                await asyncio.sleep(0.02)
        assert most == 1
        assert leaders


def _by(identity: str) -> Callable[[web.Request], bool]:
    """Renewals by one brain: told apart by what the body says, which aiohttp has read by then."""
    holder = f'"holderIdentity":"{identity}"'.encode()
    return lambda request: request.method == "PUT" and holder in (request._read_bytes or b"")
