from __future__ import annotations

import logging

import pytest

from nodeagent.config import parse
from nodeagent.errors import ConfigError

GIVEN = ["--brain-address", "brain:7070"]


def test_defaults_and_the_node_name_from_the_downward_api() -> None:
    config = parse(GIVEN, {"NODE_NAME": "n1"})
    assert config.node_name == "n1"
    assert config.gpu_driver == "simulated"
    assert str(config.pod_resources_socket) == "/var/lib/kubelet/pod-resources/kubelet.sock"
    assert (config.http_host, config.http_port) == ("", 8081)
    assert config.log_level == logging.INFO


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([], "--node-name"),
        (["--node-name", "a", "--gpu-driver", "nvml"], "--gpu-driver"),
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
