"""How many random examples a property test draws: ``EXAMPLES`` in the environment multiplies them all.

1 is what CI runs, a few thousand for the planner; ``make explore EXAMPLES=50`` looks longer, 0.02 only glances.
"""

from __future__ import annotations

import os

_FACTOR = float(os.environ.get("EXAMPLES") or 1)


def examples(count: int) -> int:
    """So many examples, times the factor; one at least."""
    return max(1, round(count * _FACTOR))
