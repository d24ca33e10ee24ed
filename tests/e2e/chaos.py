"""Brain, agents and device plugins killed at random while pods of all profiles come and go.

Several times a second hardware, kubelets and nodes are looked at for what must never be. At the end nobody comes or
dies any more, and everything must come to rest. Load and kills are drawn from a seed, which does not say what
they meet.
Nobody is deleted by force: that alone lets the kubelet give one device to two.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from deploy.local.errors import LocalError
from n8s import names
from tests.e2e.lab import Lab, advertised, asked, existing, plain, pod, slow

VICTIMS: Final = {"brain": 3, "agent": 7, "plugin": 1}
"""Who dies, and how often beside the others."""
STRIKE_SECONDS: Final = (0.5, 6.0)
"""Between two deaths. A brain takes some seconds to start; one that never decides shows nothing."""
STEP_SECONDS: Final = 0.3
"""To make or destroy an instance, as on real parts, so that somebody dies in the middle."""
WAITING: Final = 2
"""Pods, for each GPU, that there are at one time; most wait."""
RUN_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)
"""How long pods run that end by themselves."""
LOOK_SECONDS: Final = 0.2
REST_SECONDS: Final = 5.0
"""Without a change, after which the cluster is at rest."""
END_SECONDS: Final = 120.0
"""For that, once nobody comes or dies any more."""
STALE_SECONDS: Final = 12.0
"""For how long a node's status may show devices of a plugin that was killed: the kubelet's interval and some."""
TOLD: Final = ("MigNoRoom", "MigSufficient")
"""Reasons of events that say why a pod waits when nothing moves."""


@dataclass(frozen=True)
class Figures:
    """What it was.

    Attributes:
        seed: that it was drawn from.
        repartitions: times that a node was closed and had other devices when it opened.
        kills: how many of each died.
        started: pods that have run.
        failed: pods that failed, with the reason.
        excused: of those not among ``failed``: pods that came to a node whose device plugin had just been killed.
        wrong: what must never be, in words.
        waits: what the pods that wait at the end were told last.
    """

    seed: int
    repartitions: int
    kills: dict[str, int]
    started: int
    failed: list[str]
    excused: int
    wrong: list[str]
    waits: list[str]

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {who}" for who, count in sorted(self.kills.items()))
        return (
            f"seed {self.seed}: {self.repartitions} repartitions, {sum(self.kills.values())} kills ({kills}), "
            f"{self.started} pods started, {len(self.failed) + self.excused} failed ({self.excused} as the plugin of "
            f"their node was just killed), {len(self.wrong)} things wrong, {len(self.waits)} pods wait at the end"
        )


class Chaos:
    """Chaos on all nodes of a cluster, in one namespace."""

    def __init__(self, lab: Lab, namespace: str, seed: int) -> None:
        self._lab = lab
        self._namespace = namespace
        self._seed = seed
        self._nodes = sorted(lab.cluster.nodes)
        self._kills: Counter[str] = Counter()
        self._plugins: list[tuple[str, float]] = []
        self._number = 0
        self._started: set[str] = set()
        self._failed: dict[str, dict[str, Any]] = {}
        self._wrong: dict[str, None] = {}
        self._closed: dict[str, set[str]] = {}
        self._repartitions = 0
        self._over = threading.Event()

    def run(self, seconds: float) -> Figures:
        """Lets pods come and others die for so many seconds, then waits for rest."""
        load, kills = random.Random(self._seed), random.Random(self._seed + 1)  # noqa: S311 - to be drawn again
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
            for node in self._nodes:
                stack.enter_context(slow(self._lab, node, STEP_SECONDS))
            watching = pool.submit(self._watch)
            try:
                self._storm(load, kills, seconds)
                for _ in range(self._most):
                    self._create(load, {})
                self._comes_to_rest()
            finally:
                self._over.set()
            watching.result()
        pods = self._lab.cluster.api.items("pods", namespace=self._namespace)
        self._have_their_devices([each for each in pods if each["status"]["phase"] == "Running"])
        ours = [each for each in self._failed.values() if not self._excused(each)]
        return Figures(
            self._seed,
            self._repartitions,
            dict(self._kills),
            len(self._started),
            [_ending(each) for each in ours],
            len(self._failed) - len(ours),
            list(self._wrong),
            [(self._told(each) or [""])[-1] for each in pods if each["status"]["phase"] != "Running"],
        )

    # Pods come and go, and somebody dies.

    @property
    def _most(self) -> int:
        return WAITING * sum(len(self._lab.hardware(node).gpus()) for node in self._nodes)

    def _storm(self, load: random.Random, kills: random.Random, seconds: float) -> None:
        end = time.monotonic() + seconds
        strike_at = time.monotonic() + kills.uniform(*STRIKE_SECONDS)
        while time.monotonic() < end:
            for _ in range(self._look(), self._most):
                self._create(load, {"FAKE_RUN_SECONDS": f"{load.choice(RUN_SECONDS)}"})
            if time.monotonic() >= strike_at:
                self._strike(kills)
                strike_at = time.monotonic() + kills.uniform(*STRIKE_SECONDS)
            time.sleep(LOOK_SECONDS)

    def _create(self, draw: random.Random, environ: Mapping[str, str]) -> None:
        """One more pod, of a profile that some node has."""
        model = self._lab.hardware(draw.choice(self._nodes)).gpus()[0].model
        profile = draw.choice(plain(model)).name
        self._number += 1
        self._lab.create(self._namespace, pod(f"p{self._number}", {profile: 1}, environ=environ, restartPolicy="Never"))

    def _strike(self, draw: random.Random) -> None:
        """Somebody dies, unless it is dead already."""
        (who,), node = draw.choices([*VICTIMS], [*VICTIMS.values()]), draw.choice(self._nodes)
        with contextlib.suppress(AssertionError, LocalError):
            if who == "brain":
                self._lab.kill("brain")
            elif who == "agent":
                self._lab.kill("nodeagent", f"--node-name={node}")
            else:
                on_node = self._lab.cluster.api.items("pods", namespace="gpu-operator", fields=f"spec.nodeName={node}")
                self._plugins.append((node, time.time()))
                for each in on_node:
                    self._lab.cluster.kill("gpu-operator", each["metadata"]["name"])
            self._kills[who] += 1

    def _look(self) -> int:
        """Counts the pods, and deletes those that ended; how many are left."""
        left = 0
        for each in self._lab.cluster.api.items("pods", namespace=self._namespace):
            name, phase = each["metadata"]["name"], each["status"]["phase"]
            if phase in {"Running", "Succeeded"}:
                self._started.add(name)
            if phase == "Failed":
                self._failed.setdefault(name, each)
            if phase not in {"Succeeded", "Failed"}:
                left += 1
            elif "deletionTimestamp" not in each["metadata"]:
                self._lab.cluster.api.delete("pods", name, namespace=self._namespace)
        return left

    def _excused(self, failed: Mapping[str, Any]) -> bool:
        """Whether a pod came to a node whose plugin had just been killed, and was refused for that."""
        status, node = failed["status"], failed["spec"].get("nodeName")
        at = datetime.fromisoformat(status["startTime"]).timestamp()
        killed = any(where == node and when - 1 <= at <= when + STALE_SECONDS for where, when in self._plugins)
        return killed and status.get("reason") == "UnexpectedAdmissionError"

    # What must never be.

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for node in self._nodes:
                with contextlib.suppress(LocalError):
                    self._look_at(node)

    def _look_at(self, node: str) -> None:
        """What the kubelet has given to a pod before and after, the pod held in between: then it must have existed."""
        local = self._lab.cluster.nodes[node]
        before = local.held_devices()
        there = {device.uuid for device in local.hardware.mig_devices()}
        for holder, resource, uuid in {*before} & {*local.held_devices()}:
            if uuid not in there:
                self._wrong[f"{holder} on {node} held {uuid} of {resource}, which was destroyed"] = None
        if not self._lab.open(node):
            self._closed.setdefault(node, there)
        elif node in self._closed:
            self._repartitions += self._closed.pop(node) != there

    def _have_their_devices(self, running: list[dict[str, Any]]) -> None:
        """Each running pod has what it asked for, by kubelet and hardware, and has never been started again."""
        held: dict[str, Counter[str]] = {}
        opened: set[str | None] = set()
        for node in self._nodes:
            hardware = self._lab.hardware(node)
            there = {device.uuid: names.mig_resource(device.profile) for device in hardware.mig_devices()}
            opened |= {each.uuid for gpu in hardware.gpus() for each in gpu.instances if each.processes}
            for holder, resource, uuid in self._lab.cluster.nodes[node].held_devices():
                if there.get(uuid) == resource and uuid in opened:
                    held.setdefault(holder, Counter())[resource] += 1
        for each in running:
            key, wanted = f"{self._namespace}/{each['metadata']['name']}", asked(each)
            if held.get(key) != wanted:
                where = f"{each['spec']['nodeName']} since {each['status']['startTime']}"
                self._wrong[f"{key} runs on {where} with {held.get(key)} for {wanted}"] = None
            if each["status"]["containerStatuses"][0]["restartCount"]:
                self._wrong[f"{key} was started again"] = None

    # Rest.

    def _comes_to_rest(self) -> None:
        """What runs for some seconds ends; the last ones start or are told why not; and then nothing moves."""
        seen: tuple[object, float] = (None, 0.0)

        def rests() -> bool:
            nonlocal seen
            self._look()
            pods = self._lab.cluster.api.items("pods", namespace=self._namespace)
            # Of those that end by themselves none may run: the API server shows a second late that one has ended.
            quiet = all(_lasts(each) if each["status"]["phase"] == "Running" else self._told(each) for each in pods)
            quiet = quiet and all(self._in_order(node) for node in self._nodes)
            now = (
                {each["metadata"]["name"]: each["status"]["phase"] for each in pods},
                [self._lab.hardware(node).mig_devices() for node in self._nodes],
            )
            if not quiet or seen[0] != now:
                seen = now if quiet else None, time.monotonic()
            return quiet and time.monotonic() - seen[1] > REST_SECONDS

        try:
            self._lab.until("everything is at rest", rests, END_SECONDS)
        except AssertionError as error:
            pods = self._lab.cluster.api.items("pods", namespace=self._namespace)
            lines = [f"{each['metadata']['name']} {each['status']}, told {self._told(each)}" for each in pods]
            lines += [self._standing(node) for node in self._nodes]
            raise AssertionError("\n".join([str(error), *lines])) from error

    def _in_order(self, node: str) -> bool:
        return in_order(self._lab, node)

    def _standing(self, node: str) -> str:
        """What is known of a node, for the message."""
        shown, there = self._lab.cluster.nodes[node].device_ids(), self._lab.hardware(node).mig_devices()
        status = f"status {advertised(self._lab, node)}, {len(shown - {one.uuid for one in there})} shown that are gone"
        missing = [str(one) for one in there if one.uuid not in shown]
        failures = self._lab.events("default", node).get("MigApplyFailed", [])[-1:]
        return f"{node} in order: {self._in_order(node)}; {status}; GPUs {there}, not shown {missing}; {failures}"

    def _told(self, waiting: Mapping[str, Any]) -> list[str]:
        """What a pod was told of why it waits."""
        events = self._lab.events(self._namespace, waiting["metadata"]["name"])
        return [message for reason in TOLD for message in events.get(reason, ()) if message]


def in_order(lab: Lab, node: str) -> bool:
    """Whether a node is open, at rest, and shows what it has."""
    found = lab.node(node)
    at_rest = found.agent.connected and not found.agent.problem and not found.ordered and lab.open(node)
    return at_rest and advertised(lab, node) == existing(lab, node)


def _lasts(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs until it is deleted."""
    return not pod["spec"]["containers"][0].get("env")


def _ending(failed: Mapping[str, Any]) -> str:
    status = failed["status"]
    ended = [each.get("state") for each in status.get("containerStatuses", ())]
    where = f"{failed['metadata']['name']} on {failed['spec'].get('nodeName')} at {status.get('startTime')}"
    return f"{where}: {status.get('reason')}: {status.get('message')} {ended or ''}"
