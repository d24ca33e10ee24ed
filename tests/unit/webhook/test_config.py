"""Settings: what is taken, and that an error names the one that is wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from webhook import config
from webhook.errors import ConfigError


def test_settings_are_taken(tmp_path: Path) -> None:
    found = config.parse(
        ["--listen", "[::1]:8443", "--tls-dir", str(tmp_path), "--log-level", "debug", "--answer-seconds", "2.5"]
    )
    assert found == config.Config("::1", 8443, tmp_path, None, 2.5, logging.DEBUG)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("--listen", "8443"),
        ("--listen", "host:"),
        ("--listen", "host:70000"),
        ("--tls-dir", "/does/not/exist"),
        ("--kubeconfig", "/does/not/exist"),
        ("--log-level", "loud"),
        ("--answer-seconds", "0"),
        ("--answer-seconds", "nan"),
        ("--answer-seconds", "soon"),
    ],
)
def test_an_error_names_the_setting(tmp_path: Path, field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(["--tls-dir", str(tmp_path), field, value])
    assert caught.value.field == field
