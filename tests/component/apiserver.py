"""A real API server with etcd and nothing else: no scheduler, no controllers, no kubelets."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.chart import CHART


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server."""

    programs: dict[str, Path]
    kubeconfig: Path
    home: Path

    def run(self, program: str, *args: str, document: Any = None) -> subprocess.CompletedProcess[str]:
        environ = os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home)}
        argv = [str(self.programs[program]), *args]
        given = json.dumps(document)
        return subprocess.run(argv, input=given, env=environ, capture_output=True, text=True, check=False)

    def done(self, program: str, *args: str, document: Any = None) -> str:
        finished = self.run(program, *args, document=document)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def refused(self, program: str, *args: str, document: Any = None) -> str:
        finished = self.run(program, *args, document=document)
        assert finished.returncode != 0, finished.stdout
        return finished.stderr

    def release(self, *args: str, **values: Any) -> None:
        """Installs or upgrades the chart; that the API server validates what it gets is enough, and half the time."""
        chosen = {"agent": {"gpuDriver": "simulated"}, **values}
        flags = ("--namespace", "n8s", "--values", "-", "--disable-openapi-validation")
        self.done("helm", *args, "rel", str(CHART), *flags, document=chosen)
