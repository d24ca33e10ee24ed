"""Integer programs, solved by HiGHS: several objectives, one after the other, each without harm to those before.

Bounded by nodes of the search, never by time; one thread and a fixed seed, so that equal programs have equal answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    "mip_max_nodes": SEARCH_NODES,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.999,  # objectives are integers: a gap below one is none
}


@dataclass(slots=True)
class Program:
    """Columns are non-negative integers with an upper bound; rows are linear ``lower <= sum <= upper``."""

    upper: list[int] = field(default_factory=list)
    rows: list[tuple[float, float, Mapping[int, int]]] = field(default_factory=list)

    def column(self, upper: int) -> int:
        """A new column; its index."""
        self.upper.append(upper)
        return len(self.upper) - 1

    def row(self, weights: Mapping[int, int], *, lower: float = -math.inf, upper: float = math.inf) -> None:
        """A new row; one without columns says nothing and is left out."""
        if weights:
            self.rows.append((lower, upper, weights))


@dataclass(frozen=True, slots=True)
class Solution:
    """What was found.

    Attributes:
        values: by column.
        bounds: by objective, a value that no solution exceeds, given what was reached in those before.
    """

    values: tuple[int, ...]
    bounds: tuple[int, ...]


def maximize(program: Program, objectives: Sequence[Mapping[int, int]], settled: Sequence[int] = ()) -> Solution:
    """Make each objective as large as can be, the first first.

    Args:
        program: of which all columns zero are a solution.
        objectives: weights by column.
        settled: columns that keep, for the last objective, the values that they have by then: it is less good, and
            found much sooner.
    """
    solver = Highs()
    for option, value in _OPTIONS.items():
        solver.setOptionValue(option, value)
    count = len(program.upper)
    solver.addVars(count, np.zeros(count), np.array(program.upper, dtype=np.float64))
    columns = np.arange(count, dtype=np.int32)
    solver.changeColsIntegrality(count, columns, np.array([highspy.HighsVarType.kInteger] * count))
    for lower, upper, weights in program.rows:
        _add_row(solver, lower, upper, weights)
    solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
    values = [0] * count
    bounds: list[int] = []
    for number, objective in enumerate(objectives, 1):
        if number == len(objectives):
            for column in settled:
                solver.changeColBounds(column, values[column], values[column])
        costs = np.zeros(count)
        costs[list(objective)] = list(objective.values())
        solver.changeColsCost(count, columns, costs)
        solver.setSolution(count, columns, np.array(values, dtype=np.float64))
        solver.run()
        info = solver.getInfo()
        reached = _value(objective, values)
        if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
            found = [round(value) for value in solver.getSolution().col_value]
            if _value(objective, found) >= reached and _holds(program, found):
                values, reached = found, _value(objective, found)
        bounds.append(max(reached, math.floor(info.mip_dual_bound + 1e-6)))
        _add_row(solver, reached, math.inf, objective)
    return Solution(tuple(values), tuple(bounds))


def _add_row(solver: Highs, lower: float, upper: float, weights: Mapping[int, int]) -> None:
    indices = np.fromiter(weights.keys(), dtype=np.int32)
    solver.addRow(lower, upper, len(weights), indices, np.fromiter(weights.values(), dtype=np.float64))


def _value(objective: Mapping[int, int], values: Sequence[int]) -> int:
    return sum(weight * values[column] for column, weight in objective.items())


def _holds(program: Program, values: Sequence[int]) -> bool:
    """Whether rounded values keep every row: what the solver calls feasible is so within a tolerance only."""
    return all(0 <= value <= upper for value, upper in zip(values, program.upper, strict=True)) and all(
        lower <= _value(weights, values) <= upper for lower, upper, weights in program.rows
    )
