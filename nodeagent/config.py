"""The agent's settings: each with unit, default and reason, checked at the start, before anything is touched.

A setting that cannot work ends the program with an error that names it; nothing is silently put right.
"""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from n8s import commandline
from nodeagent.apply import IN_USE_SECONDS
from nodeagent.errors import ConfigError
from nodeagent.plugin import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DRIVERS: Final = ("nvml", "simulated")
"""How the GPUs can be reached."""

_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the agent sees the node; see the command line's help for each."""

    gpu_driver: str
    simulation_dir: Path
    pod_resources_socket: Path


@dataclass(frozen=True, slots=True)
class Config:
    """What the agent is told at its start; see the command line's help for each."""

    node_name: str
    brain_address: str
    brain_ca: Path
    token_file: Path
    sources: Sources
    device_plugin_dir: Path
    signals: bool
    poll_seconds: float
    in_use_seconds: float
    plugin_seconds: float
    http_host: str
    http_port: int
    log_level: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What ``n8s-agent inspect`` is told; see the command line's help for each."""

    sources: Sources
    as_json: bool


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Config:
    """The settings from a command line.

    Args:
        arguments: Without the program's name.
        environment: ``NODE_NAME`` stands in for ``--node-name``: the name is known by the downward API only.

    Raises:
        ConfigError: A setting cannot work.
        SystemExit: ``--help``, or an argument that does not parse.
    """
    found = _parser(environment).parse_args(arguments)
    if not found.node_name:
        raise ConfigError("--node-name", "is missing; give it, or NODE_NAME by the downward API (spec.nodeName)")
    if not found.brain_address:
        raise ConfigError("--brain-address", "is empty; it must be HOST:PORT of the brain's gRPC service")
    if not found.device_plugin_dir.is_absolute():
        raise ConfigError("--device-plugin-dir", f"{found.device_plugin_dir} must be an absolute path")
    for field in ("poll_seconds", "in_use_seconds", "plugin_seconds"):
        if not 0 < getattr(found, field) < 3600:
            raise ConfigError(f"--{field.replace('_', '-')}", "must be more than 0 and less than 3600 seconds")
    host, port = _host_port(found.http_listen)
    if found.log_level not in _LEVELS:
        raise ConfigError("--log-level", f"{found.log_level!r} is none of {', '.join(_LEVELS)}")
    return Config(
        node_name=found.node_name,
        brain_address=found.brain_address,
        brain_ca=found.brain_ca,
        token_file=found.token_file,
        sources=_sources(found),
        device_plugin_dir=found.device_plugin_dir,
        signals=not found.no_signals,
        poll_seconds=found.poll_seconds,
        in_use_seconds=found.in_use_seconds,
        plugin_seconds=found.plugin_seconds,
        http_host=host,
        http_port=port,
        log_level=logging.getLevelNamesMapping()[found.log_level.upper()],
    )


def parse_inspection(arguments: Sequence[str]) -> Inspection:
    """The settings of ``n8s-agent inspect`` from what comes after that word.

    Raises:
        ConfigError: A setting cannot work.
        SystemExit: ``--help``, or an argument that does not parse.
    """
    parser = commandline.parser(
        "n8s-agent inspect",
        "Prints what the agent sees of this node's GPUs and who uses them. Changes nothing. Exits with 1 where driver "
        "or kubelet do not answer.",
    )
    _add_sources(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: the state as the brain would be sent it")
    found = parser.parse_args(arguments)
    return Inspection(_sources(found), found.json)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options of :class:`Sources` to a command line."""
    parser.add_argument(
        "--gpu-driver",
        metavar="DRIVER",
        default="nvml",
        help="how the GPUs are reached: nvml (NVIDIA's driver) or simulated (GPUs that exist in a file)",
    )
    parser.add_argument(
        "--simulation-dir",
        metavar="DIR",
        type=Path,
        default=Path("/var/lib/nebulnetes-sim"),
        help="directory of the simulated hardware, shared with whatever else uses it",
    )
    parser.add_argument(
        "--pod-resources-socket",
        metavar="FILE",
        type=Path,
        default=Path("/var/lib/kubelet/pod-resources/kubelet.sock"),
        help="the kubelet's PodResources socket; the default is where every kubelet has it",
    )


def _sources(found: argparse.Namespace) -> Sources:
    """What a command line with these options says.

    Raises:
        ConfigError: A setting cannot work.
    """
    if found.gpu_driver not in DRIVERS:
        raise ConfigError("--gpu-driver", f"{found.gpu_driver!r} is none of {', '.join(DRIVERS)}")
    for field in ("pod_resources_socket", "simulation_dir"):
        if not getattr(found, field).is_absolute():
            raise ConfigError(f"--{field.replace('_', '-')}", f"{getattr(found, field)} must be an absolute path")
    return Sources(found.gpu_driver, found.simulation_dir, found.pod_resources_socket)


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = commandline.parser(
        "n8s-agent",
        "Reports what this node's GPUs hold to the brain, and applies the MIG geometries that it orders."
        " n8s-agent inspect prints what it sees, and changes nothing.",
    )
    parser.add_argument(
        "--node-name",
        metavar="NAME",
        default=environment.get("NODE_NAME", ""),
        help="name of this Kubernetes node (or env NODE_NAME)",
    )
    parser.add_argument(
        "--brain-address", metavar="HOST:PORT", required=True, help="address of the brain's gRPC service"
    )
    parser.add_argument(
        "--brain-ca",
        metavar="FILE",
        type=Path,
        default=Path("/run/nebulnetes/brain/ca.crt"),
        help="PEM of those who vouch for the brain's certificate; read for each connection",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        default=Path("/run/nebulnetes/brain/token"),
        help="the pod's projected token for the audience n8s-brain, which the kubelet renews; read for each connection",
    )
    _add_sources(parser)
    parser.add_argument(
        "--device-plugin-dir",
        metavar="DIR",
        type=Path,
        default=Path("/var/lib/kubelet/device-plugins"),
        help="where device plugins listen; the path is compiled into the kubelet",
    )
    parser.add_argument(
        "--no-signals",
        action="store_true",
        help="the node's processes are not seen here, so the device plugin gets no SIGHUP: the brain replaces its pod",
    )
    parser.add_argument(
        "--poll-seconds",
        metavar="SECONDS",
        type=float,
        default=0.5,
        help="time between two looks at kubelet and driver, neither of which tells of a change by itself",
    )
    parser.add_argument(
        "--in-use-seconds",
        metavar="SECONDS",
        type=float,
        default=IN_USE_SECONDS,
        help="how long to wait for an instance whose process has just ended; then what holds it is reported",
    )
    parser.add_argument(
        "--plugin-seconds",
        metavar="SECONDS",
        type=float,
        default=DEADLINE_SECONDS,
        help="how long the device plugin may take to show new devices; a restart of its pod takes some",
    )
    parser.add_argument(
        "--http-listen", metavar="HOST:PORT", default=":8081", help="address for /healthz, /readyz and /metrics"
    )
    parser.add_argument("--log-level", metavar="LEVEL", default="info", help=f"one of {', '.join(_LEVELS)}")
    return parser


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("--http-listen", f"{text!r} must be HOST:PORT; leave HOST empty for all addresses")
    return host.removeprefix("[").removesuffix("]"), int(port)
