"""Prints the figures that the documentation names: ``python -m tests.bench [NAME...]``; without names, all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Final

from tests.bench import admissions, agent, chaos, fragmentation, latency, planner, quotas, replan, stall, storm

BENCHES: Final[Mapping[str, Callable[[], None]]] = {
    "latency": latency.main,
    "planner": planner.main,
    "replan": replan.main,
    "stall": stall.main,
    "fragmentation": fragmentation.main,
    "quotas": quotas.main,
    "admissions": admissions.main,
    "agent": agent.main,
    "storm": storm.main,
    "chaos": chaos.main,
}


def main() -> int:
    """Runs the benches asked for, one after the other."""
    lines = [
        (name, (sys.modules[bench.__module__].__doc__ or "").partition("\n")[0]) for name, bench in BENCHES.items()
    ]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog="\n".join(f"{name:14}{line}" for name, line in lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of those below (default: all)")
    chosen = parser.parse_args().names or list(BENCHES)
    unknown = sorted(set(chosen) - set(BENCHES))
    if unknown:
        parser.error(f"no bench named {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    for name in chosen:
        print(f"== {name}")
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
