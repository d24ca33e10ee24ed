"""Nothing used is destroyed and all comes to rest, though brain, agents and plugins are killed for ten minutes.

As the end-to-end test of that name, for longer.
"""

from __future__ import annotations

import random
from typing import Final

from tests.e2e.chaos import Chaos
from tests.e2e.lab import fresh_namespace, laboratory

SECONDS: Final = 600.0


def main() -> None:
    """Runs it and prints what it was; fails where something was lost."""
    with laboratory() as lab, fresh_namespace(lab.cluster) as namespace:
        lab.enable(*lab.cluster.nodes)
        seed = random.SystemRandom().randrange(10**6)
        print(f"seed {seed}", flush=True)
        figures = Chaos(lab, namespace, seed).run(SECONDS)
    print(f"{SECONDS:g} s, {figures}")
    assert not figures.failed, figures.failed
    assert not figures.wrong, figures.wrong
