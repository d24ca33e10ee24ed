"""Starts the brain: builds every object and wires them together. The one place that knows them all."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime

import grpc

from brain.act.actor import Actor
from brain.act.events import Teller
from brain.config import Config, parse
from brain.decide.loop import Settings
from brain.errors import BrainError, ConfigError
from brain.kube import Kube
from brain.lease import Lease
from brain.link.service import Link
from brain.loop import Loop
from brain.metrics import Metrics
from brain.observe.store import Store
from brain.observe.watch import watch
from brain.serve import tls
from brain.serve.http import application, serving_http
from brain.serve.identity import Accounts, Gatekeeper, objection
from brain.serve.inventory import Inventory
from brain.serve.server import serving
from brain.signpost import Signpost
from n8s import commandline, logs
from n8s.v1 import agent_pb2, agent_pb2_grpc, inventory_pb2, inventory_pb2_grpc

_log = logging.getLogger("brain")

SERVICES = (
    agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
    inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name,
)


class Brain:
    """One brain: it watches all the time, and decides and serves while it leads."""

    def __init__(self, config: Config, kube: Kube) -> None:
        self._config = config
        self._kube = kube
        self._metrics = Metrics()
        self._store = Store(time.monotonic, config.plugin_containers)
        self._lease = Lease(kube, config.lease_namespace, config.identity, self._metrics)

    @property
    def unready(self) -> str:
        """Why it neither serves nor could take over at once; empty when it does or could."""
        return self._lease.trouble if self._store.is_synced else "the cluster has not been listed yet"

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until stopped; on the way out the work ends first, then the Lease is released.

        Raises:
            ConfigError: an address cannot be listened on, or the certificate cannot be used.
        """
        tls.credentials(self._config.tls_dir)  # what cannot be used shows now, and not as it comes to lead
        listen = self._config.http_listen
        async with (
            serving_http(application(self, self._metrics.registry), listen.host, listen.port),
            asyncio.TaskGroup() as group,
        ):
            watching = group.create_task(watch(self._kube, self._store, self._metrics))
            leading = group.create_task(self._lease.run(self._lead))
            await stopped.wait()
            _log.info("stops")
            leading.cancel()
            await asyncio.wait([leading])
            watching.cancel()

    async def _lead(self) -> None:
        """What is done while leading: serve, and run the loop."""
        link = Link(self._lease, self._store.changed.set, time.monotonic, self._metrics, objection)
        inventory = Inventory()
        teller = Teller(self._kube, self._metrics, time.monotonic, _today)
        actor = Actor(self._kube, link, teller, self._metrics, _today)
        loop = Loop(
            snapshot=lambda now: self._store.snapshot(now, link),
            changed=self._store.changed,
            actor=actor,
            board=inventory,
            settings=Settings(self._config.gpu_memory_gb, self._config.settle_seconds, self._config.lease_namespace),
            metrics=self._metrics,
            clock=time.monotonic,
        )

        def register(server: grpc.aio.Server) -> None:
            agent_pb2_grpc.add_AgentServiceServicer_to_server(link, server)
            inventory_pb2_grpc.add_InventoryServiceServicer_to_server(inventory, server)

        credentials = tls.credentials(self._config.tls_dir)
        accounts = Accounts.of(self._config.lease_namespace, self._config.agent_account)
        gatekeeper = Gatekeeper(self._kube, accounts, self._metrics, time.time)
        async with serving(str(self._config.grpc_listen), register, SERVICES, credentials, [gatekeeper]):
            with ExitStack() as closing:
                closing.callback(link.close)
                closing.callback(inventory.close)
                await self._store.synced()
                gc.collect()
                gc.freeze()  # what was listed stays; the collector need not walk it again and again
                async with asyncio.TaskGroup() as group:
                    group.create_task(loop.run())
                    group.create_task(teller.run())
                    if self._config.pod_name:
                        signpost = Signpost(self._kube, self._config.lease_namespace, self._config.pod_name)
                        group.create_task(signpost.run())


def main() -> None:
    """The command ``n8s-brain``; exits with 2 when a setting cannot be used."""
    unusable: list[BaseException] = []
    failed = False
    try:
        config = parse()
        logs.set_up(config.log_level)
        asyncio.run(_run(config))
    except* ConfigError as group:
        unusable = _leaves(group)
    except* (BrainError, OSError) as group:
        failed = True
        for problem in _leaves(group):
            _log.critical("cannot go on", extra={"problem": str(problem)})
    if unusable:
        commandline.refuse("n8s-brain", *unusable)
    if failed:
        sys.exit(1)


async def _run(config: Config) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with await Kube.load(config.kubeconfig) as kube:
        await Brain(config, kube).run(stopped)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _today() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
