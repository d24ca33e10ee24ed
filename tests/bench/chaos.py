"""Nothing used is destroyed and all comes to rest, though brain, agents and plugins are killed for ten minutes.

As the end-to-end test of that name, for longer.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from deploy.local.chart import Release
from deploy.local.cluster import Cluster
from tests.e2e.chaos import Chaos
from tests.e2e.lab import Lab, fresh_namespace

SECONDS: Final = 600.0


def main() -> None:
    """Runs it and prints what it was; fails where something was lost."""
    with Cluster(Path(__file__).parents[1] / "e2e" / "nodes.yaml") as cluster:
        release = Release(cluster)
        release.install()
        with release.connect() as channel, fresh_namespace(cluster) as namespace:
            lab = Lab(cluster, release, release.inventory_address, channel)
            lab.enable(*cluster.nodes)
            seed = random.SystemRandom().randrange(10**6)
            print(f"seed {seed}", flush=True)
            figures = Chaos(lab, namespace, seed).run(SECONDS)
    print(f"{SECONDS:g} s, {figures}")
    assert not figures.failed, figures.failed
    assert not figures.wrong, figures.wrong
