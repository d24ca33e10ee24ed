"""Pods that come and go as fast as a cluster takes them, so that its GPUs are repartitioned all the time.

Bare pods, Jobs and a Deployment ask for MIG profiles at random, many of them for the one that is in fashion for some
seconds, always with some that wait; where they run is the scheduler's choice. Several times a second pods, kubelets and
hardware are looked at for what must never be. Nobody is deleted by force: that alone lets the kubelet give one device
to two.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from deploy.local.errors import StartError
from n8s import names
from tests.e2e.lab import Lab, asked, plain, pod

WAITING: Final = 2
"""Pods without a node, for each GPU, below which more are made."""
MOST: Final = 6
"""Pods made at one time."""
RUN_SECONDS: Final = (0.2, 0.5, 1.0, 3.0)
"""How long pods run that end by themselves."""
CHANGE_SECONDS: Final = 3.0
"""Between two changes of what most pods ask for that come."""
DEPLOYMENT: Final = "served"
LOOK_SECONDS: Final = 0.2
"""Between two looks; what looks takes part of the processors that the cluster runs on."""
LISTED_SECONDS: Final = 2.0
"""For how long a pod may run by the API server and have no device by the kubelet: so far the one may be behind."""
END_SECONDS: Final = 120.0
"""For all pods to have run, once no more come."""
REST_SECONDS: Final = 3.0
"""Without an order, after which the cluster is at rest."""


@dataclass(frozen=True)
class Figures:
    """What a storm was.

    Attributes:
        seconds: until all pods had run.
        repartitions: orders that were applied.
        started: pods that have run.
        failed: pods that failed, with the reason.
        wrong: what must never be, in words.
        late: binds that came later than the settle time covers.
    """

    seconds: float
    repartitions: int
    started: int
    failed: list[str]
    wrong: list[str]
    late: int

    def __str__(self) -> str:
        return (
            f"{self.repartitions} repartitions in {self.seconds:.0f} s, {self.started} pods started, "
            f"{len(self.failed)} failed, {len(self.wrong)} without their device, {self.late} late binds"
        )


class Storm:
    """A storm on all nodes of a cluster, in one namespace."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self._lab = lab
        self._namespace = namespace
        self._random = random.Random(1)  # noqa: S311 - for variety
        gpus = [gpu for node in lab.cluster.nodes for gpu in lab.hardware(node).gpus()]
        profiles = {profile.name: profile for gpu in gpus for profile in plain(gpu.model)}
        self._profiles = sorted(profiles)
        self._several = sorted(name for name, profile in profiles.items() if profile.max_count > 1)
        self._waiting = WAITING * len(gpus)
        self._number = 0
        self._changed = float("-inf")
        self._fashion = self._profiles[0]
        self._unlisted: dict[str, float] = {}
        self._started: set[str] = set()
        self._failed: dict[str, str] = {}
        self._wrong: dict[str, None] = {}

    def run(self, *, seconds: float = float("inf"), repartitions: float = float("inf")) -> Figures:
        """Lets pods come for so many seconds or repartitions, whichever is over first, and lets them all run."""
        began, before, late = time.monotonic(), self.repartitions, self._late
        while time.monotonic() - began < seconds and self.repartitions - before < repartitions:
            self._make(self._look())
        self._lab.cluster.api.delete("deployments", DEPLOYMENT, namespace=self._namespace)
        self._until(lambda pods: not self._remove_ended(pods))
        ended = time.monotonic() - began
        self._lab.at_rest(*self._lab.cluster.nodes)
        orders = self._orders
        time.sleep(REST_SECONDS)
        self._lab.at_rest(*self._lab.cluster.nodes)
        if self._orders != orders:
            self._wrong["orders go on though nobody waits"] = None
        return Figures(
            ended,
            round(self.repartitions - before),
            len(self._started),
            list(self._failed.values()),
            list(self._wrong),
            round(self._late - late),
        )

    @property
    def repartitions(self) -> float:
        """Orders applied so far."""
        return self._lab.metric('n8s_brain_orders_total{outcome="applied"}')

    @property
    def _orders(self) -> float:
        return self._lab.metric('n8s_brain_orders_total{outcome="sent"}')

    @property
    def _late(self) -> float:
        return self._lab.metric("n8s_brain_late_binds_total")

    def _until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Looks on until pods are so."""
        deadline = time.monotonic() + END_SECONDS
        while not condition(pods := self._look()):
            if time.monotonic() > deadline:
                left = [f"{each['metadata']['name']}: {each['status']}" for each in pods]
                seen = [*self._failed.values(), *self._wrong, *left]
                raise AssertionError("\n".join([f"not within {END_SECONDS:g} s: all pods have run", *seen]))

    # Pods come and go.

    def _make(self, pods: list[dict[str, Any]]) -> None:
        """Removes pods that have ended, and makes others."""
        self._remove_ended(pods)
        waiting = sum("nodeName" not in each["spec"] for each in pods)
        if time.monotonic() - self._changed > CHANGE_SECONDS:
            self._changed = time.monotonic()
            self._fashion = self._random.choice(self._profiles)
            self._serve()
        for _ in range(min(MOST, self._waiting - waiting)):
            self._number += 1
            seconds = {"FAKE_RUN_SECONDS": f"{self._random.choice(RUN_SECONDS)}"}
            if self._number % 6:
                profile = self._random.choice([self._fashion, self._random.choice(self._profiles)])
                made = pod(f"bare-{self._number}", {profile: 1}, environ=seconds, restartPolicy="Never")
            else:
                made = self._job(seconds)
            self._lab.create(self._namespace, made)

    def _remove_ended(self, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Deletes bare pods that have run; the pods that are left, failed ones aside, which stay to be seen."""
        left = [each for each in pods if each["status"]["phase"] != "Failed"]
        for each in left:
            name = each["metadata"]["name"]
            ended = each["status"]["phase"] == "Succeeded" and "deletionTimestamp" not in each["metadata"]
            if ended and name.startswith("bare-"):
                self._lab.cluster.api.delete("pods", name, namespace=self._namespace)
        return left

    def _job(self, environ: dict[str, str]) -> dict[str, Any]:
        template = pod("job", {self._random.choice(self._several): 1}, environ=environ, restartPolicy="Never")
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"job-{self._number}"},
            "spec": {
                "parallelism": 2,
                "completions": 2,
                "ttlSecondsAfterFinished": 1,
                "template": {"spec": template["spec"]},
            },
        }

    def _serve(self) -> None:
        """Makes the Deployment, or has its pods replaced by others that ask for something else."""
        template = pod(DEPLOYMENT, {self._random.choice(self._several): 1})
        labels = {"app": DEPLOYMENT}
        spec = {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        }
        document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT}, "spec": spec}
        self._lab.cluster.kubectl("apply", "-n", self._namespace, "-f", "-", stdin=json.dumps(document))

    # What must never be.

    def _look(self) -> list[dict[str, Any]]:
        """Looks at everything once, a while after the look before; returns the pods."""
        time.sleep(LOOK_SECONDS)
        pods = self._lab.cluster.api.items("pods", namespace=self._namespace)
        running: dict[str, dict[str, dict[str, Any]]] = {}
        for each in pods:
            metadata, status = each["metadata"], each["status"]
            if status["phase"] in {"Running", "Succeeded"}:
                self._started.add(metadata["uid"])
            if status["phase"] == "Running" and "deletionTimestamp" not in metadata:
                key = f"{self._namespace}/{metadata['name']}"
                running.setdefault(each["spec"]["nodeName"], {})[key] = each
            if status["phase"] == "Failed" and ("reason" in status or "deletionTimestamp" not in metadata):
                said = f"{status.get('reason')}: {status.get('message')}"
                told = f"{metadata['name']} on {each['spec'].get('nodeName')} at {status.get('startTime')}: {said}"
                self._failed[metadata["uid"]] = told
        uids = {each["metadata"]["uid"] for pods_of_node in running.values() for each in pods_of_node.values()}
        self._unlisted = {uid: since for uid, since in self._unlisted.items() if uid in uids}
        for node in self._lab.cluster.nodes:
            self._look_at(node, running.get(node, {}))
        return pods

    def _look_at(self, node: str, running: dict[str, dict[str, Any]]) -> None:
        """Each device that the kubelet has given away exists, is what was asked for, and is one pod's."""
        hardware = self._lab.hardware(node)
        before = {device.uuid: device.profile for device in hardware.mig_devices()}
        given = self._lab.cluster.nodes[node].held_devices()
        known = before | {device.uuid: device.profile for device in hardware.mig_devices()}
        held: dict[str, Counter[str]] = {}
        for holder, resource, device in given:
            held.setdefault(holder, Counter())[resource] += 1
            if device not in known:
                self._wrong[f"{holder} on {node} has {device} of {resource}, which is gone"] = None
            elif names.mig_resource(known[device]) != resource:
                self._wrong[f"{holder} on {node} has {device} of {resource}, which is {known[device]}"] = None
        for device, count in Counter(device for _, _, device in given).items():
            if count > 1:
                self._wrong[f"{device} on {node} is given to {count}"] = None
        for instance in (instance for gpu in hardware.gpus() for instance in gpu.instances):
            if len(instance.processes) > 1:
                self._wrong[f"{instance.uuid} on {node} is held by {len(instance.processes)}"] = None
        now = time.monotonic()
        for key, each in running.items():
            uid = each["metadata"]["uid"]
            wanted = asked(each)
            if held.get(key) == wanted:
                self._unlisted.pop(uid, None)
            elif now - self._unlisted.setdefault(uid, now) > LISTED_SECONDS and self._runs(node, each):
                self._wrong[f"{key} runs on {node} with {dict(held.get(key, {}))} for {wanted}"] = None

    def _runs(self, node: str, pod: dict[str, Any]) -> bool:
        """Whether a pod's container really runs: if it has ended, the API server hears later than its device goes."""
        try:
            return bool(self._lab.cluster.nodes[node].pids(self._namespace, pod["metadata"]["name"]))
        except StartError:  # it goes just now; if not, the next look says so
            return False
