"""The agent's metrics, each named once."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

ORDERS: Final = Counter("n8s_agent_orders", "Orders by how they ended.", ["outcome"])
APPLY_SECONDS: Final = Histogram(
    "n8s_agent_apply_seconds",
    "Seconds from taking up an order to its end, the device plugin included.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40),
)
SESSIONS: Final = Counter("n8s_agent_sessions", "Sessions opened with the brain.")
CONNECTED: Final = Gauge("n8s_agent_connected", "1 while a session with the brain is open.")
INSTANCES: Final = Gauge("n8s_agent_instances", "GPU instances by state.", ["state"])
READY: Final = Gauge("n8s_agent_ready", "1 while both the kubelet and the GPU driver answer.")
