"""Nothing of a cluster outlives it."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.errors import StartError
from deploy.local.process import MARKER, Process, free_port, kill_members, members


@pytest.fixture
def cluster_id() -> Iterator[str]:
    """Id of a cluster whose processes are gone afterwards."""
    name = secrets.token_hex(8)
    yield name
    kill_members(name)


def process(directory: Path, cluster_id: str, *argv: str) -> Process:
    return Process("it", argv, directory / "log", {MARKER: cluster_id, "PATH": os.environ["PATH"]})


def test_stop_ends_the_whole_group(tmp_path: Path, cluster_id: str) -> None:
    started = process(tmp_path, cluster_id, "sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60")
    started.start()
    started.wait_until(lambda: len(members(cluster_id)) == 2, "two processes", 5)
    started.stop(grace=0.1)
    assert not started.alive()
    assert not started.ended_by_itself()
    kill_members(cluster_id, timeout=1)
    assert members(cluster_id) == []


def test_who_ends_too_early_is_reported_with_its_log(tmp_path: Path, cluster_id: str) -> None:
    started = process(tmp_path, cluster_id, "sh", "-c", "echo no such flag; exit 1")
    started.start()
    with pytest.raises(StartError, match="it: ended before ready") as caught:
        started.wait_until(lambda: False, "ready", 5)
    assert caught.value.log == "no such flag"
    assert started.ended_by_itself()


@pytest.mark.parametrize("told_to_stay", [False, True])
def test_the_watchdog_cleans_up(tmp_path: Path, cluster_id: str, *, told_to_stay: bool) -> None:
    state = tmp_path / "state"
    state.mkdir()
    started = process(tmp_path, cluster_id, "setsid", "sh", "-c", "sleep 60 & wait")
    started.start()
    argv = [sys.executable, "-m", "deploy.local.watchdog", cluster_id, str(state)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as watchdog, ExitStack() as leaving:
        leaving.callback(watchdog.kill)
        assert watchdog.stdin is not None
        if told_to_stay:
            watchdog.stdin.write(b"+")
        watchdog.stdin.close()
        if told_to_stay:
            while not heeds_sigterm(watchdog.pid):
                time.sleep(0.01)
            with pytest.raises(subprocess.TimeoutExpired):
                watchdog.wait(0.5)
            assert members(cluster_id)
            watchdog.terminate()
        watchdog.wait(10)
    assert members(cluster_id) == []
    assert not state.exists()
    assert not started.alive()


def heeds_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_free_port_is_one_of_that_address() -> None:
    assert free_port("127.9.8.7") != 0
