from __future__ import annotations

import logging

import pytest

from nodeagent.config import parse, parse_inspection
from nodeagent.errors import ConfigError

GIVEN = ["--brain-address", "brain:7070"]


def test_defaults_and_the_node_name_from_the_downward_api() -> None:
    config = parse(GIVEN, {"NODE_NAME": "n1"})
    assert config.node_name == "n1"
    assert config.sources.gpu_driver == "nvml"
    assert str(config.sources.pod_resources_socket) == "/var/lib/kubelet/pod-resources/kubelet.sock"
    assert (config.http_host, config.http_port) == ("", 8081)
    assert config.log_level == logging.INFO
    assert config.signals
    assert not parse([*GIVEN, "--node-name", "n1", "--no-signals"], {}).signals


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([], "--node-name"),
        (["--node-name", "a", "--gpu-driver", "rocm"], "--gpu-driver"),
        (["--node-name", "a", "--poll-seconds", "0"], "--poll-seconds"),
        (["--node-name", "a", "--http-listen", "8081"], "--http-listen"),
        (["--node-name", "a", "--http-listen", ":x"], "--http-listen"),
        (["--node-name", "a", "--log-level", "loud"], "--log-level"),
        (["--node-name", "a", "--device-plugin-dir", "plugins"], "--device-plugin-dir"),
    ],
)
def test_what_cannot_work_is_named(arguments: list[str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([*GIVEN, *arguments], {})
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


def test_an_ipv6_address_to_listen_on() -> None:
    config = parse([*GIVEN, "--node-name", "a", "--http-listen", "[::1]:80"], {})
    assert (config.http_host, config.http_port) == ("::1", 80)


def test_an_inspection_needs_neither_brain_nor_name() -> None:
    inspection = parse_inspection(["--gpu-driver", "simulated", "--simulation-dir", "/s", "--json"])
    assert (inspection.sources.gpu_driver, str(inspection.sources.simulation_dir)) == ("simulated", "/s")
    assert inspection.as_json
    with pytest.raises(ConfigError, match="--pod-resources-socket"):
        parse_inspection(["--pod-resources-socket", "k.sock"])
