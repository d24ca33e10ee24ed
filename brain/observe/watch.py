"""Which resources are watched, and into which table each goes."""

from __future__ import annotations

import asyncio
from typing import Final

from brain.metrics import Metrics
from brain.observe import convert
from brain.observe.listwatch import Api, ListWatch
from brain.observe.store import Store
from n8s import names

_OURS: Final = f"/apis/{names.GROUP}/{names.VERSION}"


async def watch(api: Api, store: Store, metrics: Metrics) -> None:
    """Keeps the store equal to what the API server holds, until cancelled."""
    single = f"{_OURS}/{names.ELASTIC_QUOTAS}"
    composite = f"{_OURS}/{names.COMPOSITE_ELASTIC_QUOTAS}"
    budgets = "/apis/policy/v1/poddisruptionbudgets"
    async with asyncio.TaskGroup() as group:
        group.create_task(ListWatch(api, "/api/v1/namespaces", convert.namespace, store.namespaces, metrics).run())
        group.create_task(ListWatch(api, "/apis/batch/v1/jobs", convert.job, store.jobs, metrics).run())
        group.create_task(ListWatch(api, budgets, convert.budget, store.budgets, metrics).run())
        group.create_task(ListWatch(api, "/api/v1/nodes", convert.node, store.nodes, metrics).run())
        group.create_task(ListWatch(api, "/api/v1/pods", convert.pod, store.pods, metrics).run())
        group.create_task(ListWatch(api, single, convert.elastic_quota, store.elastic_quotas, metrics).run())
        group.create_task(ListWatch(api, composite, convert.composite_elastic_quota, store.composites, metrics).run())
