"""The webhook's program: builds the parts from the settings, serves, and lets clients go before it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

from aiohttp import web

from n8s import commandline, logs
from webhook import config
from webhook.api import Api
from webhook.certificates import Certificates
from webhook.errors import CertificateError, ConfigError
from webhook.server import Server

DRAIN_SECONDS: Final = 3.0
"""After SIGTERM, for the API server to hear that this webhook goes: until then it still sends requests."""

logger = logging.getLogger("webhook")


async def run(settings: config.Config, stop: asyncio.Event, *, drain_seconds: float = DRAIN_SECONDS) -> None:
    """Serve until ``stop`` is set, then for ``drain_seconds`` more, and finish what has begun.

    Raises:
        ConfigError: a setting cannot be used.
    """
    try:
        certificates = Certificates(settings.tls_dir)
    except CertificateError as error:
        raise ConfigError("--tls-dir", str(error)) from error
    async with await Api.load(settings.kubeconfig) as api:
        server = Server(api, settings.answer_seconds)
        runner = web.AppRunner(server.application(), access_log=None)
        await runner.setup()
        try:
            await _listen(runner, settings, certificates)
            async with asyncio.TaskGroup() as group:
                follower = group.create_task(certificates.follow())
                await stop.wait()
                logger.info("stopping", extra={"seconds": drain_seconds})
                server.drain()
                await asyncio.sleep(drain_seconds)
                follower.cancel()
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: config.Config, certificates: Certificates) -> None:
    # Two processes may share one address (a rolling update): both are asked until the old one goes.
    site = web.TCPSite(runner, settings.host or None, settings.port, ssl_context=certificates.context, reuse_port=True)
    try:
        await site.start()
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigError("--listen", f"cannot listen on {where}: {error.strerror}") from error
    logger.info("serving", extra={"host": settings.host, "port": settings.port})


async def _until_signalled(settings: config.Config) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop)


def main() -> None:
    """The entry point of ``n8s-webhook``; exits with 2 when a setting cannot be used."""
    try:
        settings = config.parse()
        logs.set_up(settings.log_level)
        asyncio.run(_until_signalled(settings))
    except ConfigError as error:
        commandline.refuse("n8s-webhook", error)


if __name__ == "__main__":
    main()
