"""The one form of log that all programs write."""

from __future__ import annotations

import importlib
import logging
import sys

import pytest

from n8s import logs
from n8s.logs import KeyValueFormatter


def test_a_log_line() -> None:
    record = logging.makeLogRecord(
        {"name": "brain", "msg": "it %s", "args": ("is",), "levelno": 20, "levelname": "INFO"}
    )
    record.node = "n1"
    record.problem = 'says "no"\nand more'
    line = KeyValueFormatter().format(record)
    assert line.endswith('level=info from=brain msg="it is" node=n1 problem="says \\"no\\"\\nand more"')


def test_a_traceback_stays_on_the_line() -> None:
    try:
        int("bad\nworse")
    except ValueError:
        record = logging.LogRecord("agent", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = KeyValueFormatter().format(record)
    assert "\n" not in line
    assert "Traceback" in line


@pytest.mark.parametrize("program", ["brain", "nodeagent", "webhook"])
def test_every_program_has_it_from_here(program: str) -> None:
    assert importlib.import_module(f"{program}.__main__").logs is logs
