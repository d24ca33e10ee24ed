"""``down`` without a directory ends only what ``up --detach`` of this checkout made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.cluster import DESCRIPTION, PREFIX, detached
from deploy.local.workload import REPOSITORY

OURS: dict[str, Any] = {"id": "c0ffee", "checkout": str(REPOSITORY), "detached": True}


@pytest.fixture
def watchdog() -> Iterator[int]:
    """Process id of something that looks like the watchdog of :data:`OURS`."""
    said = "import time; print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", said, OURS["id"]], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before it runs, its command line may not be shown yet
        yield process.pid
        process.kill()


def described(directory: Path, about: dict[str, Any]) -> Path:
    state = directory / f"{PREFIX}x"
    state.mkdir()
    (state / DESCRIPTION).write_text(json.dumps(about))
    return state


def test_what_this_checkout_detached_is_found(tmp_path: Path, watchdog: int) -> None:
    state = described(tmp_path, OURS | {"watchdog": watchdog})
    assert detached(tmp_path) == [state]


@pytest.mark.parametrize(
    "about", [{"detached": False}, {"checkout": "/elsewhere"}, {"id": "another"}, {"watchdog": 2**22 + 1}]
)
def test_nothing_else_is(tmp_path: Path, watchdog: int, about: dict[str, Any]) -> None:
    described(tmp_path, OURS | {"watchdog": watchdog} | about)
    assert detached(tmp_path) == []


def test_what_is_just_being_made_is_passed_over(tmp_path: Path) -> None:
    (described(tmp_path, OURS) / DESCRIPTION).write_text("")
    assert detached(tmp_path) == []
