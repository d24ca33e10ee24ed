"""The brain's metrics, each named in one place. What they count is counted elsewhere; nothing is computed here."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class Metrics:
    """All metrics, on a registry of their own.

    Attributes:
        registry: what ``/metrics`` shows.
        leading: whether this brain leads (0 or 1).
        epoch: the epoch it led with last.
        rounds: rounds of the loop.
        stage_seconds: seconds of a round's stages: ``snapshot``, ``decide``, ``act``.
        waiting_pods: pods that wait for MIG devices and have a reason why.
        plan_gap_pods: pods that a better plan might serve besides, at most.
        decisions: decisions by type.
        writes: writes to the API server by type of decision and result: ``ok``, ``stale``, ``forbidden``, ``failed``,
            and ``held``: an eviction that a disruption budget does not allow now.
        watch_errors: lists and watches that failed, by resource.
        relists: complete lists, by resource.
        sessions: agents with a session.
        silent_seconds: for how long the agent that has been without a session the longest has been so.
        orders: orders by outcome; ``sent`` counts each once when it is handed to its session.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.leading = Gauge("n8s_brain_leading", "Whether this brain leads.", registry=own)
        self.epoch = Gauge("n8s_brain_epoch", "Epoch that this brain led with last.", registry=own)
        self.rounds = Counter("n8s_brain_rounds", "Rounds of the control loop.", registry=own)
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
        self.sessions = Gauge("n8s_brain_agent_sessions", "Node agents with a session.", registry=own)
        self.silent_seconds = Gauge(
            "n8s_brain_agent_silent_seconds",
            "Longest time that a known agent has been without a session.",
            registry=own,
        )
        self.orders = Counter("n8s_brain_orders", "Orders to node agents by outcome.", ["outcome"], registry=own)
