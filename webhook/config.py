"""The webhook's settings: unit, default and reason beside each; checked at the start, before anything listens."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from n8s import commandline
from webhook.errors import ConfigError

_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings.

    Attributes:
        host: where to listen; empty for all addresses.
        port: TCP port.
        tls_dir: directory with ``tls.crt`` and ``tls.key``.
        kubeconfig: how to reach the API server; None takes the pod's service account.
        answer_seconds: for the API server's part in one answer; below the time-out of the webhook's configuration, so
            that people read why a quota cannot be checked.
        log_level: the least severe level that is logged.
    """

    host: str
    port: int
    tls_dir: Path
    kubeconfig: Path | None = None
    answer_seconds: float = 4.0
    log_level: int = logging.INFO


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The settings that a command line makes.

    Raises:
        ConfigError: a setting cannot be used.
        SystemExit: the command line asks for help, or has an argument that does not exist.
    """
    given = _parser().parse_args(arguments)
    if given.log_level not in _LEVELS:
        raise ConfigError("--log-level", f"{given.log_level!r} is none of {', '.join(_LEVELS)}")
    if not given.tls_dir.is_dir():
        raise ConfigError("--tls-dir", f"there is no directory {given.tls_dir}")
    if given.kubeconfig is not None and not given.kubeconfig.is_file():
        raise ConfigError("--kubeconfig", f"there is no file {given.kubeconfig}")
    host, colon, port = given.listen.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError("--listen", f"{given.listen!r} is not an address such as 0.0.0.0:8443")
    try:
        answer_seconds = float(given.answer_seconds)
    except ValueError:
        answer_seconds = math.nan
    if not 0.1 <= answer_seconds <= 30:
        raise ConfigError("--answer-seconds", f"{given.answer_seconds!r} is not a number of seconds from 0.1 to 30")
    return Config(
        host=host.removeprefix("[").removesuffix("]"),
        port=int(port),
        tls_dir=given.tls_dir,
        kubeconfig=given.kubeconfig,
        answer_seconds=answer_seconds,
        log_level=logging.getLevelNamesMapping()[given.log_level.upper()],
    )


def _parser() -> argparse.ArgumentParser:
    parser = commandline.parser(
        "n8s-webhook",
        "Refuses ElasticQuotas and CompositeElasticQuotas that contradict others (POST /validate/elasticquotas and "
        "/validate/compositeelasticquotas), and puts the scheduling gate on pods (POST /gate/pods): AdmissionReview v1 "
        "over HTTPS.",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="0.0.0.0:8443",
        help="address for reviews, /healthz, /readyz and /metrics; several processes may share it",
    )
    parser.add_argument(
        "--tls-dir",
        metavar="DIR",
        type=Path,
        default=Path("/run/nebulnetes/tls"),
        help="directory with tls.crt and tls.key; what changes there is taken up within seconds",
    )
    parser.add_argument(
        "--kubeconfig", metavar="FILE", type=Path, help="how to reach the API server; else the pod's service account"
    )
    parser.add_argument(
        "--answer-seconds",
        metavar="SECONDS",
        default="4",
        help="for what the API server is asked; below the timeoutSeconds of the ValidatingWebhookConfiguration",
    )
    parser.add_argument("--log-level", metavar="LEVEL", default="info", help=f"one of {', '.join(_LEVELS)}")
    return parser
