"""Integer programs, solved by HiGHS: several objectives, one after the other, each without harm to those before.

Bounded by nodes of the search, never by time; one thread and a fixed seed, so that equal programs have equal answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import highspy
import numpy as np
from highspy._core import _Highs as Highs  # what the public class adds writes a banner to standard output

SEARCH_NODES: Final = 500
"""Nodes of the branch and bound for one objective."""
_OPTIONS: Final[Mapping[str, bool | int | float | str]] = {
    "output_flag": False,
    "threads": 1,
    "parallel": "off",
    "random_seed": 0,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.999,  # objectives are integers: a gap below one is none
    "mip_allow_restart": False,  # to begin anew takes as long as all the nodes do
}
_WITHIN: Final = ("mip_heuristic_run_rins", "mip_heuristic_run_rens", "mip_heuristic_run_root_reduced_cost")
"""Searches within the search: they take longer than a brief one itself."""
_EXPECTED: Final = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kSolutionLimit)
"""What a search may end with: the optimum, or as many nodes as it may have."""


@dataclass(frozen=True, slots=True)
class Program:
    """An integer program, as a value.

    Attributes:
        upper: the columns' upper bounds; columns are non-negative integers.
        rows: ``(lower, upper, weights by column)``: the weighted sum lies between both.
    """

    upper: tuple[int, ...]
    rows: tuple[tuple[float, float, tuple[tuple[int, int], ...]], ...]


class Draft:
    """A program in the making."""

    def __init__(self) -> None:
        self._upper: list[int] = []
        self._rows: list[tuple[float, float, tuple[tuple[int, int], ...]]] = []

    def column(self, upper: int) -> int:
        """A new column; its index."""
        self._upper.append(upper)
        return len(self._upper) - 1

    def row(self, weights: Mapping[int, int], *, lower: float = -math.inf, upper: float = math.inf) -> None:
        """A new row; one without columns says nothing and is left out."""
        if weights:
            self._rows.append((lower, upper, tuple(weights.items())))

    def done(self) -> Program:
        """The program."""
        return Program(tuple(self._upper), tuple(self._rows))


class Solver:
    """Finds good values for a program's columns, one objective after the other.

    Attributes:
        values: the best values found so far, by column; all zero at first, which must be a solution.
    """

    def __init__(self, program: Program) -> None:
        self.values = [0] * len(program.upper)
        self._program = program
        self._columns = np.arange(len(program.upper), dtype=np.int32)
        self._highs = Highs()
        for option, value in _OPTIONS.items():
            self._highs.setOptionValue(option, value)
        count = len(program.upper)
        self._highs.addVars(count, np.zeros(count), np.array(program.upper, dtype=np.float64))
        integers = np.array([highspy.HighsVarType.kInteger] * count)
        self._highs.changeColsIntegrality(count, self._columns, integers)
        for lower, upper, weights in program.rows:
            _add_row(self._highs, lower, upper, dict(weights))
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)

    def maximize(self, objective: Mapping[int, int], nodes: int = SEARCH_NODES) -> int:
        """Make an objective as large as can be; returns a value that no solution exceeds."""
        self._objective(objective, nodes)
        # No start is given: HiGHS 1.16 sometimes hands a start back in place of the better solution that it found.
        self._highs.run()
        if self._highs.getModelStatus() not in _EXPECTED:
            # There is a solution, self.values: where HiGHS 1.16 calls a program infeasible, its presolve is at fault.
            self._highs.setOptionValue("presolve", "off")
            self._highs.run()
            self._highs.setOptionValue("presolve", "choose")
        info = self._highs.getInfo()
        found = self._found()
        if found is not None and value_of(objective, found) >= value_of(objective, self.values):
            self.values = found
        # Without any bound of the solver's own, the columns' bounds are one.
        most = sum(max(0, weight) * self._program.upper[column] for column, weight in objective.items())
        sure = self._highs.getModelStatus() in _EXPECTED and math.isfinite(info.mip_dual_bound)
        bound = math.floor(min(info.mip_dual_bound, most) + 1e-6) if sure else most
        return max(value_of(objective, self.values), bound)

    def settle(self, columns: Iterable[int]) -> None:
        """Let columns keep their values: later objectives get less good, and are found much sooner."""
        for column in columns:
            self._highs.changeColBounds(column, self.values[column], self.values[column])

    def spare(self, columns: Sequence[int]) -> None:
        """Let columns be zero from now on, where a solution without them is found that harms no objective before."""
        for column in columns:
            self._highs.changeColBounds(column, 0.0, 0.0)
        self._objective({}, SEARCH_NODES)
        self._highs.run()
        found = self._found()
        if found is not None:
            self.values = found
            return
        for column in columns:
            self._highs.changeColBounds(column, 0.0, float(self._program.upper[column]))

    def hold(self, objective: Mapping[int, int]) -> None:
        """Let no later objective make this one smaller than it is now."""
        _add_row(self._highs, value_of(objective, self.values), math.inf, objective)

    def _objective(self, objective: Mapping[int, int], nodes: int) -> None:
        self._highs.setOptionValue("mip_max_nodes", nodes)
        for option in _WITHIN:
            self._highs.setOptionValue(option, nodes >= SEARCH_NODES)
        count = len(self.values)
        costs = np.zeros(count)
        costs[list(objective)] = list(objective.values())
        self._highs.changeColsCost(count, self._columns, costs)

    def _found(self) -> list[int] | None:
        """The solution that the last search ended with; None where it found none."""
        if self._highs.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None
        found = [round(value) for value in self._highs.getSolution().col_value]
        return found if _holds(self._program, found) else None


def value_of(objective: Mapping[int, int], values: Sequence[int]) -> int:
    """The weighted sum of columns."""
    return sum(weight * values[column] for column, weight in objective.items())


def _add_row(solver: Highs, lower: float, upper: float, weights: Mapping[int, int]) -> None:
    indices = np.fromiter(weights.keys(), dtype=np.int32)
    solver.addRow(lower, upper, len(weights), indices, np.fromiter(weights.values(), dtype=np.float64))


def _holds(program: Program, values: Sequence[int]) -> bool:
    """Whether rounded values keep every row: what the solver calls feasible is so within a tolerance only."""
    return all(0 <= value <= upper for value, upper in zip(values, program.upper, strict=True)) and all(
        lower <= value_of(dict(weights), values) <= upper for lower, upper, weights in program.rows
    )
