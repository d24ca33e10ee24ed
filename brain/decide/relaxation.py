"""The batch of a large cluster without its nodes: how many GPUs of each content get which filling, fractions allowed.

Nodes that suit the same pods are taken together, so what one node lacks another may lend; no plan serves more than this
says. A linear program, bounded by iterations, one thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import highspy
import numpy as np
from highspy._core import _Highs as Highs  # what the public class adds writes a banner to standard output

_ITERATIONS: Final = 100_000
_OPTIONS: Final[Mapping[str, bool | int | float | str]] = {
    "output_flag": False,
    "threads": 1,
    "parallel": "off",
    "solver": "simplex",
    "simplex_strategy": 4,  # primal: what solved one objective is where the next starts
    "presolve": "off",
    "random_seed": 0,
    "simplex_iteration_limit": _ITERATIONS,
}


class Relaxation:
    """A linear program in the making, then its solution.

    Attributes:
        values: the best values found, by column; empty while nothing is solved.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self._upper: list[float] = []
        self._starts: list[int] = []
        self._indices: list[int] = []
        self._weights: list[float] = []
        self._lowers: list[float] = []
        self._uppers: list[float] = []
        self._highs: Highs | None = None

    def column(self, upper: float) -> int:
        """A new column; its index."""
        self._upper.append(upper)
        return len(self._upper) - 1

    def row(self, weights: Mapping[int, float], *, lower: float = -math.inf, upper: float = math.inf) -> None:
        """A new row; one without columns says nothing and is left out."""
        if weights:
            self._starts.append(len(self._indices))
            self._indices += weights.keys()
            self._weights += weights.values()
            self._lowers.append(lower)
            self._uppers.append(upper)

    def maximize(self, columns: Sequence[int]) -> float:
        """Make a sum of columns as large as can be; what no solution exceeds."""
        highs = self._model()
        count = len(self._upper)
        costs = np.zeros(count)
        costs[list(columns)] = 1.0
        highs.changeColsCost(count, np.arange(count, dtype=np.int32), costs)
        highs.run()
        most = sum(self._upper[column] for column in columns)
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return most
        self.values = list(highs.getSolution().col_value)
        return min(float(highs.getInfo().objective_function_value), most)

    def hold(self, columns: Sequence[int], value: float) -> None:
        """Let no later solution make a sum of columns smaller than a value, but for what the solver may be off."""
        least = value - 1e-6 * max(1.0, value)
        self._model().addRow(least, math.inf, len(columns), np.array(columns, dtype=np.int32), np.ones(len(columns)))

    def _model(self) -> Highs:
        if self._highs is None:
            self._highs = Highs()
            for option, value in _OPTIONS.items():
                self._highs.setOptionValue(option, value)
            program = highspy.HighsLp()
            program.num_col_ = len(self._upper)
            program.num_row_ = len(self._lowers)
            program.sense_ = highspy.ObjSense.kMaximize
            program.col_cost_ = np.zeros(len(self._upper))
            program.col_lower_ = np.zeros(len(self._upper))
            program.col_upper_ = np.array(self._upper, dtype=np.float64)
            program.row_lower_ = np.array(self._lowers, dtype=np.float64)
            program.row_upper_ = np.array(self._uppers, dtype=np.float64)
            program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
            program.a_matrix_.start_ = np.array([*self._starts, len(self._indices)], dtype=np.int32)
            program.a_matrix_.index_ = np.array(self._indices, dtype=np.int32)
            program.a_matrix_.value_ = np.array(self._weights, dtype=np.float64)
            self._highs.passModel(program)
        return self._highs
