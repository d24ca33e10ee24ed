"""Integer programs, where the solver itself goes wrong."""

from __future__ import annotations

import highspy
import pytest
from highspy._core import _Highs as Highs

from brain.decide import program
from brain.decide.partition import plan
from brain.decide.program import Draft, Solver
from brain.model.snapshot import Snapshot
from tests.worlds import gpu, node, pod


def test_a_world_that_the_solver_calls_infeasible() -> None:
    """HiGHS 1.16 does so for the lowest priority's objective, with its presolve on."""
    large = {"cpu": 8_000, "memory": 64 << 30, "pods": 1_000}
    small = {"cpu": 2_000, "memory": 16 << 30, "pods": 1_000}
    zone = {"n8s.nebuly.ai/auto-mig-enabled": "true", "zone": "b"}
    nodes = (
        node("n0", [gpu(index, "", "B300-269GB") for index in range(5)], allocatable=large, labels=zone),
        node("n1", [gpu(index, "", "B300-269GB") for index in range(2)], allocatable=small),
    )
    wanted = [
        (1000, 250, {"3g.135gb": 1}, {}),
        (3, 250, {"4g.135gb": 1}, {"zone": "b"}),
        (0, 4000, {"7g.269gb": 1}, {}),
        (3, 2000, {"7g.269gb": 1}, {}),
        (3, 250, {"3g.135gb": 1}, {}),
        (1000, 4000, {"4g.135gb": 2}, {}),
        (1000, 1000, {"1g.34gb": 1}, {}),
        (1000, 2000, {"7g.269gb": 1}, {"zone": "b"}),
    ]
    pods = tuple(
        pod(f"p{number}", mig, priority=priority, request={"cpu": cpu, "memory": 0}, node_selector=selector)
        for number, (priority, cpu, mig, selector) in enumerate(wanted)
    )
    result = plan(Snapshot(nodes, pods))
    assert (len(result.assigned), result.bound) == (7, 7)
    assert "team/p2" not in result.assigned


@pytest.mark.parametrize("status", ["kInfeasible", "kSolveError", "kUnknown"])
def test_what_presolve_gets_wrong_is_solved_without_it(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Highs):
        def run(self) -> highspy.HighsStatus:
            self.wrong = self.getOptionValue("presolve")[1] != "off"
            return highspy.HighsStatus.kError if self.wrong else super().run()

        def getModelStatus(self) -> highspy.HighsModelStatus:  # noqa: N802 - as the library calls it
            said: highspy.HighsModelStatus = getattr(highspy.HighsModelStatus, status)
            return said if self.wrong else super().getModelStatus()

    monkeypatch.setattr(program, "Highs", Wrong)
    solver = _of_two()
    assert (solver.maximize({0: 1, 1: 1}), solver.values) == (3, [1, 2])
    assert (solver.maximize({0: 2, 1: 1}), solver.values) == (5, [2, 1])


def test_without_an_answer_the_columns_say_what_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Highs):
        def run(self) -> highspy.HighsStatus:
            return highspy.HighsStatus.kError

    monkeypatch.setattr(program, "Highs", Wrong)
    solver = _of_two()
    assert (solver.maximize({0: 1, 1: 1}), solver.values) == (4, [0, 0])


def _of_two() -> Solver:
    """Two columns, each at most 2, together at most 3."""
    draft = Draft()
    row = {draft.column(2): 1, draft.column(2): 1}
    draft.row(row, upper=3)
    return Solver(draft.done())
