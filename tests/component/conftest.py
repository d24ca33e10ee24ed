"""The API server that the tests of the chart's objects share, one for each module, with the chart installed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from deploy.local import binaries
from deploy.local.controlplane import ControlPlane
from tests.component.apiserver import ApiServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    programs = binaries.ensure()
    directory = tmp_path_factory.mktemp("control-plane")
    plane = ControlPlane(directory / "state", "127.3.0.1", programs, os.environ)
    found = ApiServer(programs, plane.kubeconfig, directory)
    try:
        plane.serve()
        found.release("install", "--create-namespace", webhook={"enabled": False})
        found.done("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        yield found
    finally:
        for process in plane.processes.values():
            process.stop(sig=signal.SIGKILL)
