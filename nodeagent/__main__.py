"""The agent's program: builds the parts from the settings, runs them, and ends them in order on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from n8s import commandline, logs
from nodeagent import config, inspection
from nodeagent.apply import Applier
from nodeagent.errors import ConfigError
from nodeagent.gpu.bounded import BoundedDriver
from nodeagent.gpu.nvml_driver import NvmlDriver
from nodeagent.gpu.simulated import SimulatedNode
from nodeagent.gpu.simulated_driver import SimulatedDriver
from nodeagent.http import serving
from nodeagent.kubelet import pod_resources
from nodeagent.node import NodeReader
from nodeagent.orders import Orders
from nodeagent.plugin import SignalledPlugin
from nodeagent.report import Reporter
from nodeagent.session import Greeting, Sessions, connect

if TYPE_CHECKING:
    from nodeagent.gpu.driver import GpuDriver

LAST_WORD_SECONDS: Final = 0.3
"""At the end, for the result of an order that was under way to reach the brain."""

logger = logging.getLogger("nodeagent")


async def run(settings: config.Config) -> None:
    """Run the agent until SIGTERM or SIGINT; an order under way is finished or undone first."""
    driver = _driver(settings.sources)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with pod_resources(str(settings.sources.pod_resources_socket)) as kubelet:
        plugin = SignalledPlugin(
            kubelet,
            settings.device_plugin_dir,
            signals=settings.signals,
            deadline_seconds=settings.plugin_seconds,
        )
        orders = Orders(Applier(driver, kubelet, plugin, in_use_seconds=settings.in_use_seconds))
        reporter = Reporter(NodeReader(driver, kubelet, plugin), orders, poll_seconds=settings.poll_seconds)
        greeting = Greeting(
            node=settings.node_name,
            agent_version=importlib.metadata.version("nebulnetes"),
            driver=lambda: driver.name,
            boot_id=driver.boot_id,
        )
        connects = partial(connect, settings.brain_address, settings.brain_ca, settings.token_file)
        sessions = Sessions(connects, greeting, orders, reporter)
        async with serving(settings.http_host, settings.http_port, reporter), asyncio.TaskGroup() as group:
            services = [group.create_task(reporter.run()), group.create_task(sessions.run())]
            worker = group.create_task(orders.work(reporter))
            await stop.wait()
            logger.info("stopping", extra={"applying": orders.applying})
            busy = bool(orders.applying)
            orders.close()
            await worker
            if busy:
                await asyncio.sleep(LAST_WORD_SECONDS)
            for service in services:
                service.cancel()


async def inspect(settings: config.Inspection) -> bool:
    """Print what the agent sees of the node; returns whether kubelet and driver answered."""
    driver = _driver(settings.sources)
    async with pod_resources(str(settings.sources.pod_resources_socket)) as kubelet:
        view = await NodeReader(driver, kubelet).look()
        name = await asyncio.to_thread(lambda: driver.name)
    show = inspection.as_json if settings.as_json else inspection.as_table
    sys.stdout.write(f"{show(name, view)}\n")
    return not view.problem


def _driver(sources: config.Sources) -> GpuDriver:
    """The driver that was chosen, with calls that end. Whether there is one to speak to shows at the first look."""
    if sources.gpu_driver == "nvml":
        return BoundedDriver(NvmlDriver())
    try:
        return BoundedDriver(SimulatedDriver(SimulatedNode(sources.simulation_dir)))
    except FileNotFoundError as error:
        raise ConfigError("--simulation-dir", f"{sources.simulation_dir} holds no simulated hardware") from error


def main() -> None:
    """The entry point of ``n8s-agent``; exits with 2 when a setting cannot work.

    ``n8s-agent inspect`` exits with 1 when it could not see the whole node.
    """
    logs.set_up(logging.WARNING)
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["inspect"]:
            sys.exit(not asyncio.run(inspect(config.parse_inspection(arguments[1:]))))
        settings = config.parse(arguments)
        logger.setLevel(settings.log_level)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(settings))
    except ConfigError as error:
        commandline.refuse("n8s-agent", error)


if __name__ == "__main__":
    main()
