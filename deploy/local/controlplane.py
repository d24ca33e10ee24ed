"""The control plane: etcd, API server, scheduler and controller manager, as a cluster of its own would run them.

Authorization, admission and service accounts are those of a real cluster; only what cannot mean anything here is off:
endpoints (pod addresses are loopback ones, which the API refuses), leader election (one of each), and etcd's fsync
(the data is thrown away). It refuses to know about nodes, charts and hardware.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

from . import pki
from .api import Api
from .process import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

READY_SECONDS: Final = 60.0
"""Time for the API server to become ready; it takes about 2 s on an idle machine, more on a busy one."""
SERVICE_IPS: Final = "10.96.0.0/16"
"""Addresses that Services get. Nothing answers there."""
SWITCHED_OFF: Final = ("endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller")


class ControlPlane:
    """The four processes and the authority that they trust."""

    def __init__(self, directory: Path, address: str, binaries: Mapping[str, Path], environ: Mapping[str, str]) -> None:
        """Prepares certificates and command lines; :meth:`start` runs them.

        Args:
            directory: for keys, logs and etcd's data; made here.
            address: loopback address that belongs to this cluster alone.
            binaries: path by program name.
            environ: environment of the processes.
        """
        self._keys = directory / "pki"
        self._keys.mkdir(parents=True)
        self.address = address
        self.port = free_port(address)
        self.url = f"https://{address}:{self.port}"
        self.authority = pki.Authority(self._keys)
        self.kubeconfig = self.authority.kubeconfig("admin", self.url, "kubernetes-admin", ["system:masters"])
        self.api = Api(self.address, self.port, self._context())
        """The API server as the administrator sees it, once :meth:`start` has returned."""
        service_account_key = self._keys / "service-account.key"
        pki.service_account_key(service_account_key)
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        serving = self.authority.server("apiserver", [address, "127.0.0.1", "localhost", "10.96.0.1", *names])
        scheduler = self.authority.kubeconfig("scheduler", self.url, "system:kube-scheduler")
        manager = self.authority.kubeconfig("controller-manager", self.url, "system:kube-controller-manager")
        etcd = f"http://{address}:{free_port(address)}"
        peer = f"http://{address}:{free_port(address)}"
        commands: dict[str, list[str]] = {
            "etcd": [
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            "kube-apiserver": [
                f"--etcd-servers={etcd}",
                f"--bind-address={address}",
                f"--advertise-address={address}",
                "--endpoint-reconciler-type=none",
                f"--secure-port={self.port}",
                f"--tls-cert-file={serving.cert}",
                f"--tls-private-key-file={serving.key}",
                f"--client-ca-file={self.authority.cert}",
                f"--service-account-key-file={service_account_key}",
                f"--service-account-signing-key-file={service_account_key}",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-cluster-ip-range={SERVICE_IPS}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
            ],
            "kube-scheduler": [f"--kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0"],
            "kube-controller-manager": [
                f"--kubeconfig={manager}",
                "--leader-elect=false",
                "--secure-port=0",
                f"--service-account-private-key-file={service_account_key}",
                f"--root-ca-file={self.authority.cert}",
                "--use-service-account-credentials=true",
                # It asks for a token per controller; at the default of 20 requests a second that takes 4 s.
                "--kube-api-qps=200",
                "--kube-api-burst=400",
                "--controllers=*," + ",".join(f"-{name}" for name in SWITCHED_OFF),
            ],
        }
        self.processes = {
            name: Process(name, [str(binaries[name]), *flags], directory / f"{name}.log", environ)
            for name, flags in commands.items()
        }

    def start(self) -> None:
        """Starts all four and returns when the API server is ready.

        Raises:
            StartError: one of them did not come up.
        """
        self.serve()
        self.processes["kube-controller-manager"].start()
        self.processes["kube-scheduler"].start()

    def serve(self) -> None:
        """Starts the API server with etcd alone and returns when it is ready.

        Raises:
            StartError: one of them did not come up.
        """
        self.processes["etcd"].start()
        server = self.processes["kube-apiserver"]
        server.start()
        server.wait_until(self._ready, "ready", READY_SECONDS)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        context.load_cert_chain(self._keys / "admin.crt", self._keys / "admin.key")
        return context

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=self._context()):  # noqa: S310 our own URL
                return True
        except (urllib.error.URLError, OSError):
            return False
