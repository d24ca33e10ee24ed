"""The brain's metrics, each named in one place. What they count is counted elsewhere; nothing is decided here."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from brain.decide.problems import problems
from brain.model import resources
from brain.model.quota import Quota, Standing
from brain.model.resources import Resources
from brain.model.snapshot import Snapshot
from n8s import names

_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
_WAITING_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
_OF_QUOTA = ("kind", "namespace", "quota")


class QuotaMetrics(Collector):
    """What the quotas that count show, read when asked for: so those that are gone are gone here too.

    CPU is in CPUs, every other resource in whole units.

    Attributes:
        snapshot: that of the last round.
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures, as Prometheus asks for them."""
        active = [quota for quota in self.snapshot.quotas if _active(quota)]
        figures: dict[str, tuple[str, Callable[[Quota], Resources]]] = {
            "used": ("What a quota's running pods ask for.", lambda quota: quota.status.used),
            "borrowed": ("What a quota uses beyond its min.", lambda quota: quota.status.borrowed),
            "min": ("What a quota guarantees.", lambda quota: quota.min),
            "max": ("The most that a quota lets its pods use.", lambda quota: quota.max),
        }
        for name, (text, amounts) in figures.items():
            family = GaugeMetricFamily(f"n8s_brain_quota_{name}", text, labels=(*_OF_QUOTA, "resource"))
            for quota in active:
                for resource, value in sorted(amounts(quota).items()):
                    family.add_metric((*_labels(quota), resource), value / 1000 if resource == resources.CPU else value)
            yield family
        gated = Tally(pod.namespace for pod in self.snapshot.pods if names.QUOTA_GATE in pod.gates)
        waiting = GaugeMetricFamily("n8s_brain_quota_waiting_pods", "Pods that were not let in yet.", labels=_OF_QUOTA)
        for quota in active:
            waiting.add_metric(_labels(quota), sum(gated[namespace] for namespace in quota.namespaces))
        yield waiting


class NodeMetrics(Collector):
    """What is wrong with nodes, read when asked for, as with quotas.

    Attributes:
        snapshot: that of the last round.
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """1 for each problem of each node."""
        text = "What is wrong with a node that a person can put right."
        family = GaugeMetricFamily("n8s_brain_node_problems", text, labels=("node", "reason"))
        for node in self.snapshot.nodes:
            for reason in dict.fromkeys(problem.reason for problem in problems(node)):
                family.add_metric((node.name, reason), 1)
        yield family


def _labels(quota: Quota) -> tuple[str, ...]:
    return quota.kind.value, quota.namespace, quota.name


def _active(quota: Quota) -> bool:
    return any(held.type == Standing.ACTIVE.value and held.status for held in quota.status.conditions)


class Metrics:
    """All metrics, on a registry of their own.

    Attributes:
        registry: what ``/metrics`` shows.
        leading: whether this brain leads (0 or 1).
        epoch: the epoch it led with last.
        rounds: rounds of the loop.
        failed_decisions: times that deciding ended with an error, which the log shows.
        stage_seconds: seconds of a round's stages: ``snapshot``, ``decide``, ``act``.
        waiting_pods: pods that wait for MIG devices and have a reason why.
        plan_gap_pods: pods that a better plan might serve besides, at most.
        decisions: decisions by type.
        writes: writes to the API server by type of decision and result: ``ok``, ``stale``, ``forbidden``, ``failed``,
            and ``held``: an eviction that a disruption budget does not allow now.
        watch_errors: lists and watches that failed, by resource.
        relists: complete lists, by resource.
        nodes: what is wrong with nodes, by reason.
        quotas: what quotas use, guarantee, allow and borrow, by resource, and how many of their pods wait.
        evictions: pods evicted for others, by what entitled these: ``min``, ``share`` or ``priority``.
        admission_seconds: seconds from when a pod of a quota was created until it was let in.
        sessions: agents with a session.
        silent_seconds: for how long the agent that has been without a session the longest has been so.
        refused_calls: gRPC calls refused for who called, by status code.
        late_binds: pods bound to a node while its GPUs were being changed, later than the settle time covers.
        orders: orders by outcome; ``sent`` counts each once when it is handed to its session.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.leading = Gauge("n8s_brain_leading", "Whether this brain leads.", registry=own)
        self.epoch = Gauge("n8s_brain_epoch", "Epoch that this brain led with last.", registry=own)
        self.rounds = Counter("n8s_brain_rounds", "Rounds of the control loop.", registry=own)
        self.failed_decisions = Counter(
            "n8s_brain_failed_decisions", "Times that deciding ended with an error.", registry=own
        )
        self.stage_seconds = Histogram(
            "n8s_brain_stage_seconds", "Seconds of a round's stages.", ["stage"], buckets=_SECONDS, registry=own
        )
        self.waiting_pods = Gauge("n8s_brain_waiting_pods", "Pods without room for their MIG devices.", registry=own)
        self.plan_gap_pods = Gauge(
            "n8s_brain_plan_gap_pods", "Pods that a better plan might serve besides, at most.", registry=own
        )
        self.decisions = Counter("n8s_brain_decisions", "Decisions by type.", ["type"], registry=own)
        self.writes = Counter(
            "n8s_brain_writes", "Writes to the API server by type and result.", ["type", "result"], registry=own
        )
        self.watch_errors = Counter(
            "n8s_brain_watch_errors", "Lists and watches that failed.", ["resource"], registry=own
        )
        self.relists = Counter("n8s_brain_relists", "Complete lists.", ["resource"], registry=own)
        self.quotas = QuotaMetrics()
        own.register(self.quotas)
        self.nodes = NodeMetrics()
        own.register(self.nodes)
        self.evictions = Counter(
            "n8s_brain_evictions", "Pods evicted for others, by what entitled these.", ["reason"], registry=own
        )
        for reason in ("min", "share", "priority"):
            self.evictions.labels(reason)
        self.admission_seconds = Histogram(
            "n8s_brain_admission_seconds",
            "Seconds from a pod's creation until it was let in.",
            buckets=_WAITING_SECONDS,
            registry=own,
        )
        self.sessions = Gauge("n8s_brain_agent_sessions", "Node agents with a session.", registry=own)
        self.silent_seconds = Gauge(
            "n8s_brain_agent_silent_seconds",
            "Longest time that a known agent has been without a session.",
            registry=own,
        )
        self.refused_calls = Counter(
            "n8s_brain_refused_calls", "gRPC calls refused for who called, by status code.", ["code"], registry=own
        )
        self.late_binds = Counter(
            "n8s_brain_late_binds",
            "Pods bound to a node while its GPUs were being changed, later than the settle time covers.",
            registry=own,
        )
        self.orders = Counter("n8s_brain_orders", "Orders to node agents by outcome.", ["outcome"], registry=own)
