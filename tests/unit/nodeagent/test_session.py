"""When an agent that has lost the brain comes back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

import grpc.aio
import pytest

from nodeagent.session import Greeting, Sessions, pause_seconds
from tests.unit.nodeagent.standins import at_once

if TYPE_CHECKING:
    from nodeagent.orders import Orders
    from nodeagent.report import Reporter

LONG, SHORT = 60.0, 0.01


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"),
    [(1, 0.05, 0.1), (2, 0.1, 0.2), (3, 0.2, 0.4), (6, 1.6, 3.2), (7, 2.5, 5.0), (1000, 2.5, 5.0)],
)
def test_pauses_grow_and_differ(failures: int, shortest: float, longest: float) -> None:
    assert pause_seconds(failures, 0.0) == pytest.approx(shortest)
    assert pause_seconds(failures, 0.5) == pytest.approx((shortest + longest) / 2)
    assert pause_seconds(failures, 1.0) == pytest.approx(longest)


class Script(Sessions):
    """Sessions that last as long as a script says."""

    def __init__(self, *lasted: float) -> None:
        def connects() -> grpc.aio.Channel:
            raise AssertionError("not asked")

        greeting = Greeting(node="n1", agent_version="0", driver=str, boot_id=str)
        super().__init__(connects, greeting, cast("Orders", None), cast("Reporter", None))
        self._lasted = list(lasted)

    async def _session(self) -> str:
        if not self._lasted:
            raise asyncio.CancelledError
        await asyncio.sleep(self._lasted.pop(0))
        return "over"


def pauses(caplog: pytest.LogCaptureFixture, *lasted: float) -> list[float]:
    """The pauses after sessions that lasted so many seconds."""
    caplog.clear()
    caplog.set_level(logging.INFO, "nodeagent.session")
    with pytest.raises(asyncio.CancelledError):
        at_once(Script(*lasted).run())
    return [vars(record)["retry_seconds"] for record in caplog.records]


def test_a_session_that_lasted_begins_the_pauses_anew(caplog: pytest.LogCaptureFixture) -> None:
    seen = pauses(caplog, *[SHORT] * 8, LONG, SHORT, LONG)
    for pause, failures in zip(seen, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 1], strict=True):
        assert pause_seconds(failures, 0.0) - 0.01 <= pause <= pause_seconds(failures, 1.0) + 0.01


def test_of_many_agents_that_lose_the_brain_at_once_few_come_back_at_once(caplog: pytest.LogCaptureFixture) -> None:
    fifth = [pauses(caplog, *[SHORT] * 5)[-1] for _ in range(40)]
    assert len(set(fifth)) > 20
