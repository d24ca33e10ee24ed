"""Admissions per second on the local cluster, and how far that is from what its API server takes.

Pods without GPUs, of one namespace with a quota, on a node that is an object only, so that no kubelet takes part; three
times the same number. (1) Created while the quota has room: from each one's creation until its gate is off and until it
is bound. (2) Created while the quota has no room, which is then given to all at once: pods let in per second. (3) The
ceiling: the brain is stopped, and the same patches are sent with its ServiceAccount, by its client, as many at a time
as it sends. kube-scheduler binds 50 pods a second by its own default, after the first 100 or so. Shown as well: what
the parts of its rounds took the brain, and CPU time a pod. Everything shares this machine, also who measures; a busy
API server ends the watch that times are taken by, and they are late then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from brain.act.actor import AT_ONCE
from brain.act.writes import STRATEGIC, write
from brain.decide.decisions import LetIn
from brain.kube import Kube
from deploy.local.chart import NAMESPACE, Release
from deploy.local.cluster import Cluster
from deploy.local.process import MARKER
from n8s import names
from tests.e2e.lab import pod, quota

PODS: Final = 500
NODE: Final = "object"
TEAM: Final = "team"
LIMIT_SECONDS: Final = 180.0
_ROOM: Final = "1000000"


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    scheduling_gates: list[dict[str, str]] = []


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec


class _Change(msgspec.Struct):
    object: _Pod


class Seen:
    """When pods were first seen with the gate off and bound, by the machine's monotonic clock."""

    def __init__(self) -> None:
        self.opened: dict[str, float] = {}
        self.bound: dict[str, float] = {}
        self.changed = asyncio.Condition()
        self.watches = 0

    async def follow(self, kube: Kube) -> None:
        """Watches until cancelled."""
        decoder = msgspec.json.Decoder(_Change)
        query = {"watch": "true", "labelSelector": "bench=admissions", "resourceVersion": "0"}
        while True:
            self.watches += 1
            async for line in kube.lines(f"/api/v1/namespaces/{TEAM}/pods", query, idle_seconds=LIMIT_SECONDS):
                seen, now = decoder.decode(line).object, time.monotonic()
                query["resourceVersion"] = seen.metadata.resource_version
                if not seen.spec.scheduling_gates:
                    self.opened.setdefault(seen.metadata.name, now)
                if seen.spec.node_name:
                    self.bound.setdefault(seen.metadata.name, now)
                async with self.changed:
                    self.changed.notify_all()

    async def all(self, at: dict[str, float], listed: Iterable[str]) -> None:
        """Waits until pods were all seen so."""
        wanted = set(listed)
        async with asyncio.timeout(LIMIT_SECONDS), self.changed:
            await self.changed.wait_for(lambda: wanted <= at.keys())


def main() -> None:
    """Prints the figures."""
    with Cluster(Path(__file__).parents[1] / "e2e" / "nodes.yaml") as cluster:
        release = Release(cluster)
        release.install()
        cluster.create_namespace(TEAM)
        _room(cluster, _ROOM)
        cluster.wait_for(
            "the namespace's pods get the gate",
            lambda: names.QUOTA_LABEL in cluster.api.get("namespaces", TEAM)["metadata"]["labels"],
            LIMIT_SECONDS,
        )
        asyncio.run(_measure(cluster))


async def _measure(cluster: Cluster) -> None:
    print(f"{PODS} pods each time, {AT_ONCE} calls at a time; seconds are minimum / median / maximum")
    async with await Kube.load(cluster.kubeconfig) as kube, asyncio.TaskGroup() as group:
        seen = Seen()
        beside = [group.create_task(_node(kube)), group.create_task(seen.follow(kube))]
        await _one_by_one(cluster, kube, seen)
        admitted = await _all_at_once(cluster, kube, seen)
        _rounds(cluster)
        ceiling = await _ceiling(cluster, kube)
        print(f"  the ceiling     {ceiling:6.0f} such patches a second; {admitted / ceiling:.0%} of it were reached")
        if seen.watches > 1:
            print(f"  the watch broke {seen.watches - 1} times: times may be late")
        for each in beside:
            each.cancel()


async def _one_by_one(cluster: Cluster, kube: Kube, seen: Seen) -> None:
    made: dict[str, float] = {}
    last = _all_let_in(cluster)

    async def create(name: str) -> None:
        made[name] = time.monotonic()
        await _create(kube, name)

    listed = [f"a{number:04}" for number in range(PODS)]
    await _together(create, listed)
    rate = PODS / (time.monotonic() - min(made.values()))
    await seen.all(seen.bound, listed)
    let_in = PODS / (await last - min(made.values()))
    print(f"  as they come    {rate:6.0f} created a second, {let_in:.0f} let in")
    for what, at in (("gate off", seen.opened), ("bound", seen.bound)):
        print(f"    {what:12} {_spread([at[name] - made[name] for name in listed])} after creation")


async def _all_at_once(cluster: Cluster, kube: Kube, seen: Seen) -> float:
    """Pods let in per second, of those that have waited."""
    _room(cluster, "1m")
    listed = [f"b{number:04}" for number in range(PODS)]
    await _together(lambda name: _create(kube, name), listed)
    await asyncio.sleep(2)
    before, began = _cpu(cluster), time.monotonic()
    last = _all_let_in(cluster)
    await asyncio.to_thread(_room, cluster, _ROOM)
    await seen.all(seen.bound, listed)
    spent = {program: (value - before[program]) / PODS for program, value in _cpu(cluster).items()}
    rate = PODS / (await last - began)
    print(f"  all at once     {rate:6.0f} let in a second, {_rate(seen.bound, listed, began):.0f} bound")
    print(f"    ms of CPU    {', '.join(f'{program} {1000 * value:.1f}' for program, value in spent.items())} a pod")
    print(f"    {'gate off':12} {_spread([seen.opened[name] - began for name in listed])} after there was room")
    return rate


async def _ceiling(cluster: Cluster, kube: Kube) -> float:
    """Patches per second that let pods in, sent by this program in the brain's place."""
    _room(cluster, "1m")
    await asyncio.sleep(1)
    listed = [f"c{number:04}" for number in range(PODS)]
    await _together(lambda name: _create(kube, name), listed)
    cluster.kubectl("scale", "deployment/nebulnetes-brain", "-n", NAMESPACE, "--replicas=0")
    cluster.wait_for("the brain is gone", lambda: not _brains(cluster), LIMIT_SECONDS)
    items = cluster.api.items("pods", namespace=TEAM, labels="bench=admissions")
    found = {item["metadata"]["name"]: item["metadata"] for item in items}
    token = cluster.kubectl("create", "token", "nebulnetes-brain", "-n", NAMESPACE).strip()
    path = cluster.state / "brain.kubeconfig"
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in document["users"]:
        user["user"] = {"token": token}
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    async with await Kube.load(path) as brain:

        async def let_in(name: str) -> None:
            value = f"{names.IN_QUOTA}/free/{NODE}"
            uid, version = found[name]["uid"], found[name]["resourceVersion"]
            request = write(LetIn(TEAM, name, uid, names.IN_QUOTA, value, version=version), datetime.now(UTC))
            assert request.content_type == STRATEGIC
            await brain.call(
                request.method, request.path, body=request.body, content_type=request.content_type, seconds=60.0
            )

        began = time.monotonic()
        await _together(let_in, listed)
        return PODS / (time.monotonic() - began)


def _let_in(url: str) -> float:
    """How many pods the brain has let in so far."""
    found = re.search(r'n8s_brain_writes_total\{result="ok",type="LetIn"\} (\S+)', _read(url))
    return float(found.group(1)) if found else 0.0


def _all_let_in(cluster: Cluster) -> asyncio.Task[float]:
    """When the brain has let in so many pods from now on; looks five times a second, as a look takes its time, too."""
    url = _metrics(cluster)
    wanted = _let_in(url) + PODS

    def look() -> float:
        deadline = time.monotonic() + LIMIT_SECONDS
        while _let_in(url) < wanted and time.monotonic() < deadline:
            time.sleep(0.2)
        return time.monotonic()

    return asyncio.create_task(asyncio.to_thread(look))


def _rounds(cluster: Cluster) -> None:
    """What the parts of a round took the brain, by its metrics."""
    found = re.findall(r'n8s_brain_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)', _read(_metrics(cluster)))
    sums = {stage: float(value) for kind, stage, value in found if kind == "sum"}
    counts = {stage: float(value) for kind, stage, value in found if kind == "count"}
    parts = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in sums.items())
    print(f"    the brain's {counts.get('decide', 0):.0f} rounds till then took, in seconds: {parts}")


def _metrics(cluster: Cluster) -> str:
    """The address of the brain's metrics."""
    (brain,) = _brains(cluster)
    return f"http://{brain['status']['podIP']}:8080/metrics"


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own
        text: str = answer.read().decode()
    return text


def _cpu(cluster: Cluster) -> dict[str, float]:
    """Seconds of CPU that programs of the cluster have used."""
    found = dict.fromkeys(("brain", "kube-apiserver", "kube-scheduler"), 0.0)
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (proc / "cmdline").read_text().split("\0")
            program = words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
            if program in found and f"{MARKER}={cluster.id}" in (proc / "environ").read_text().split("\0"):
                user, system = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
                found[program] += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found


def _brains(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.api.items(
        "pods", namespace=NAMESPACE, labels="app.kubernetes.io/component=brain"
    )
    return found


def _room(cluster: Cluster, cpu: str) -> None:
    """Has the quota give so much."""
    cluster.kubectl("apply", "-n", TEAM, "-f", "-", stdin=quota("team", {"cpu": cpu}, {"cpu": cpu}))


async def _create(kube: Kube, name: str) -> None:
    body = pod(name, node=NODE, request={"cpu": "10m"})
    body["metadata"]["labels"] = {"bench": "admissions"}
    await kube.call("POST", f"/api/v1/namespaces/{TEAM}/pods", body=body, seconds=60.0)


async def _together(call: Callable[[str], Awaitable[None]], listed: Iterable[str]) -> None:
    """Calls for all, so many at a time as the brain does."""
    left = iter(listed)

    async def work() -> None:
        for name in left:
            await call(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


def _rate(at: dict[str, float], listed: Iterable[str], began: float) -> float:
    return PODS / (max(at[name] for name in listed) - began)


def _spread(values: list[float]) -> str:
    return f"{min(values):6.2f} / {statistics.median(values):6.2f} / {max(values):6.2f}"


async def _node(kube: Kube) -> None:
    """Keeps a node that is an object only, and ready, until cancelled."""
    body = {"metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}}
    await kube.call("POST", "/api/v1/nodes", body=body)
    amounts = {"cpu": _ROOM, "memory": "1Ti", "pods": "100000"}
    while True:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Bench", "message": "", "lastHeartbeatTime": now}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        path = f"/api/v1/nodes/{NODE}/status"
        await kube.call("PATCH", path, body={"status": status}, content_type=STRATEGIC, seconds=60.0)
        await asyncio.sleep(5)
