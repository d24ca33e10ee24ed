"""The brain's settings: unit, default and reason beside each; checked at start, with errors that name the setting."""

from __future__ import annotations

import argparse
import logging
import math
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from brain.errors import ConfigError
from brain.observe.plugins import CONTAINERS
from n8s import commandline, names

_LEVELS: Final = ("debug", "info", "warning", "error")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings.

    Attributes:
        grpc_listen: where agents and clients of the inventory reach the brain, while it leads.
        http_listen: where health and metrics are served, always.
        tls_dir: directory with the certificate ``tls.crt`` and the key ``tls.key`` of the gRPC server.
        agent_account: name of the agents' ServiceAccount, in the Lease's namespace.
        lease_namespace: namespace of the Lease that decides who leads; the release's, which quotas leave alone.
        identity: who this brain is in the Lease; the pod's name, so that a restarted container leads on at once.
        pod_name: the pod that it runs in, in the same namespace, which is labelled while it leads; empty: no pod.
        gpu_memory_gb: GB that one whole ``nvidia.com/gpu`` counts for in quotas where its product is not known.
        settle_seconds: how long a node's taint stands before instances may go: the scheduler assumes a pod before
            its bind shows.
        plugin_containers: names of the container that NVIDIA's device plugin runs in, in a DaemonSet's pod.
        log_level: the least severe level that is logged.
        kubeconfig: how to reach the API server; None takes the pod's service account.
    """

    grpc_listen: Address
    http_listen: Address
    tls_dir: Path
    agent_account: str
    lease_namespace: str
    identity: str
    pod_name: str = ""
    gpu_memory_gb: int = 32
    settle_seconds: float = 1.0
    plugin_containers: tuple[str, ...] = CONTAINERS
    log_level: int = logging.INFO
    kubeconfig: Path | None = None


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The settings that a command line makes.

    Raises:
        ConfigError: a setting cannot be used.
        SystemExit: the command line asks for help, or has an argument that does not exist.
    """
    given = _parser().parse_args(arguments)
    if given.log_level not in _LEVELS:
        raise ConfigError("--log-level", f"{given.log_level!r} is none of {', '.join(_LEVELS)}")
    if not _NAME.fullmatch(given.lease_namespace):
        raise ConfigError("--lease-namespace", f"{given.lease_namespace!r} is not the name of a namespace")
    if not _NAME.fullmatch(given.agent_account):
        raise ConfigError("--agent-account", f"{given.agent_account!r} is not the name of a ServiceAccount")
    if given.pod_name and not _NAME.fullmatch(given.pod_name):
        raise ConfigError("--pod-name", f"{given.pod_name!r} is not the name of a pod")
    if not given.identity:
        raise ConfigError("--identity", "is empty; give the name of the pod")
    if given.kubeconfig is not None and not given.kubeconfig.is_file():
        raise ConfigError("--kubeconfig", f"there is no file {given.kubeconfig}")
    return Config(
        grpc_listen=_address("--grpc-listen", given.grpc_listen),
        http_listen=_address("--http-listen", given.http_listen),
        tls_dir=given.tls_dir,
        agent_account=given.agent_account,
        lease_namespace=given.lease_namespace,
        identity=given.identity,
        pod_name=given.pod_name,
        gpu_memory_gb=_gigabytes(given.gpu_memory_gb),
        settle_seconds=_settle(given.settle_seconds),
        plugin_containers=_containers(given.device_plugin_containers),
        log_level=logging.getLevelNamesMapping()[given.log_level.upper()],
        kubeconfig=given.kubeconfig,
    )


def _parser() -> argparse.ArgumentParser:
    parser = commandline.parser(
        "n8s-brain", "Partitions MIG GPUs of a Kubernetes cluster and keeps its elastic quotas. One of several leads."
    )
    parser.add_argument(
        "--grpc-listen", metavar="HOST:PORT", default="0.0.0.0:9090", help="address for agents and inventory clients"
    )
    parser.add_argument(
        "--http-listen", metavar="HOST:PORT", default="0.0.0.0:8080", help="address for /healthz, /readyz, /metrics"
    )
    parser.add_argument(
        "--tls-dir",
        metavar="DIR",
        type=Path,
        default=Path("/run/nebulnetes/tls"),
        help="directory with tls.crt and tls.key for gRPC; what changes there is taken up with the next connection",
    )
    parser.add_argument(
        "--agent-account",
        metavar="NAME",
        default="nebulnetes-agent",
        help="the agents' ServiceAccount, in the Lease's namespace; only its pods' tokens open agents' sessions",
    )
    parser.add_argument(
        "--lease-namespace", metavar="NAME", default="nebulnetes", help="namespace of the Lease that decides who leads"
    )
    parser.add_argument(
        "--identity", metavar="NAME", default=socket.gethostname(), help="who this brain is in the Lease (pod name)"
    )
    parser.add_argument(
        "--pod-name",
        metavar="NAME",
        default="",
        help=f"this brain's pod, in the Lease's namespace; it is labelled {names.LEADER_LABEL} while it leads, so that "
        "the Service finds it",
    )
    parser.add_argument(
        "--gpu-memory-gb",
        metavar="GB",
        default="32",
        help="GB that one whole nvidia.com/gpu counts for in quotas where its product is not known",
    )
    parser.add_argument(
        "--settle-seconds",
        metavar="SECONDS",
        default="1.0",
        help="how long a node's taint stands before instances may go; covers binds that are under way",
    )
    parser.add_argument(
        "--device-plugin-containers",
        metavar="NAMES",
        default=",".join(CONTAINERS),
        help="names of the container that NVIDIA's device plugin runs in, in a DaemonSet's pod, with commas between",
    )
    parser.add_argument("--log-level", metavar="LEVEL", default="info", help=f"one of {', '.join(_LEVELS)}")
    parser.add_argument(
        "--kubeconfig", metavar="FILE", type=Path, help="how to reach the API server; else the pod's service account"
    )
    return parser


def _address(field: str, text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(field, f"{text!r} is not an address such as 0.0.0.0:9090")
    return Address(host, int(port))


def _gigabytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError("--gpu-memory-gb", f"{text!r} is not a whole number of GB, at least 1")
    return int(text)


def _settle(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 60:
        raise ConfigError("--settle-seconds", f"{text!r} is not a number of seconds from 0 to 60")
    return seconds


def _containers(text: str) -> tuple[str, ...]:
    listed = tuple(text.split(","))
    if not all(map(_NAME.fullmatch, listed)):
        raise ConfigError("--device-plugin-containers", f"{text!r} is not a list of containers' names")
    return listed
