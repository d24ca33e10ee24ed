"""The command lines of all programs are alike: ``--version``, help without empty defaults, and how they refuse."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from brain import config as brain_config
from nodeagent import config as agent_config
from tests import tls
from webhook import config as webhook_config

PROGRAMS = {"n8s": "brain.offline", "n8s-brain": "brain", "n8s-agent": "nodeagent", "n8s-webhook": "webhook"}


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("program", "module"), PROGRAMS.items())
def test_the_version(program: str, module: str) -> None:
    done = run(module, "--version")
    assert (done.returncode, done.stdout) == (0, f"{program} {importlib.metadata.version('nebulnetes')}\n")


def test_help_names_what_is_expected_and_no_default_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for parse in (brain_config.parse, lambda given: agent_config.parse(given, {}), webhook_config.parse):
        with pytest.raises(SystemExit):
            parse(["--help"])
        text = capsys.readouterr().out
        assert "default: None" not in text
        assert "(default: )" not in text
        for expected in re.findall(r"--\S*-(?:listen|address) (\S+)", text):
            assert expected.rstrip("]") == "HOST:PORT"
        for expected in re.findall(r"--\S*-seconds (\S+)", text):
            assert expected.rstrip("]") == "SECONDS"


def test_an_address_that_cannot_be_listened_on_is_named(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}],"
        " users: [{name: c, user: {}}], contexts: [{name: c, context: {cluster: c, user: c}}]}"
    )
    given = ("--kubeconfig", str(kubeconfig), "--tls-dir", str(tls.directory()))
    done = run("brain", *given, "--http-listen", "999.0.0.1:80")
    assert done.returncode == 2
    assert "n8s-brain: --http-listen: cannot listen on 999.0.0.1:80: " in done.stderr
