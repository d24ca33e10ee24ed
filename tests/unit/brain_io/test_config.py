"""Settings are checked at start, and the error names the one that is wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from brain.config import Address, parse
from brain.errors import ConfigError


def test_defaults() -> None:
    config = parse([])
    assert str(config.grpc_listen) == "0.0.0.0:9090"
    assert (config.gpu_memory_gb, config.settle_seconds, config.log_level) == (32, 1.0, logging.INFO)
    assert config.identity
    assert config.plugin_containers == ("nvidia-device-plugin", "nvidia-device-plugin-ctr")


def test_all_settings(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()
    given = "--grpc-listen [::1]:1 --http-listen h:2 --lease-namespace ns --identity me --gpu-memory-gb 16"
    given += f" --agent-account a --settle-seconds 0.5 --log-level debug --kubeconfig {kubeconfig}"
    given += " --device-plugin-containers own,other"
    config = parse(given.split())
    assert (config.grpc_listen, config.http_listen) == (Address("::1", 1), Address("h", 2))
    assert str(config.grpc_listen) == "[::1]:1"
    assert (config.lease_namespace, config.identity, config.gpu_memory_gb) == ("ns", "me", 16)
    assert config.plugin_containers == ("own", "other")
    assert (config.agent_account, config.tls_dir) == ("a", Path("/run/nebulnetes/tls"))
    assert (config.settle_seconds, config.log_level, config.kubeconfig) == (0.5, logging.DEBUG, kubeconfig)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("--grpc-listen", "9090"),
        ("--grpc-listen", ":9090"),
        ("--http-listen", "host:70000"),
        ("--http-listen", "host:x"),
        ("--lease-namespace", "Not A Name"),
        ("--agent-account", ""),
        ("--identity", ""),
        ("--gpu-memory-gb", "0"),
        ("--gpu-memory-gb", "1.5"),
        ("--settle-seconds", "nan"),
        ("--settle-seconds", "-1"),
        ("--device-plugin-containers", "own,,other"),
        ("--log-level", "loud"),
        ("--kubeconfig", "/no/such/file"),
    ],
)
def test_the_error_names_the_setting(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([f"{field}={value}"])
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
