"""The API server that the tests of the chart's objects share, one for each module, with the chart installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from deploy.local import binaries
from deploy.local.controlplane import READY_SECONDS, ControlPlane
from tests.component.apiserver import ApiServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    programs = binaries.ensure()
    directory = tmp_path_factory.mktemp("control-plane")
    plane = ControlPlane(directory / "state", "127.3.0.1", programs, {"PATH": os.environ["PATH"]})
    wanted = [plane.processes["etcd"], plane.processes["kube-apiserver"]]
    found = ApiServer(programs, plane.kubeconfig, directory)
    try:
        for process in wanted:
            process.start()
        wanted[-1].wait_until(
            lambda: found.run("kubectl", "get", "--raw=/readyz").returncode == 0, "ready", READY_SECONDS
        )
        found.release("install", "--create-namespace", webhook={"enabled": False})
        found.done("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        yield found
    finally:
        for process in reversed(wanted):
            process.stop()
