"""No pod is lost to a repartition: hundreds of them while pods come as fast as they can, at two node status intervals.

As the end-to-end test of that name, on four nodes of the same model, so that the scheduler may choose among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.e2e.lab import fresh_namespace, laboratory
from tests.e2e.storm import Storm

REPARTITIONS: Final = 300
STATUS_SECONDS: Final = (1.0, 10.0)
LIMIT_SECONDS: Final = 1200.0


def main() -> None:
    """Runs a storm at each interval and prints what it was; fails where a pod was lost."""
    for seconds in STATUS_SECONDS:
        with (
            laboratory(Path(__file__).with_name("storm.yaml"), status_seconds=seconds) as lab,
            fresh_namespace(lab.cluster) as namespace,
        ):
            lab.enable(*lab.cluster.nodes)
            figures = Storm(lab, namespace).run(seconds=LIMIT_SECONDS, repartitions=REPARTITIONS)
        print(f"kubelet status interval {seconds:g} s: {figures}")
        assert not figures.failed, figures.failed
        assert not figures.wrong, figures.wrong
