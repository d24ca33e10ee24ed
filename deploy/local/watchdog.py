"""Cleans up after a cluster, whatever ended the process that made it.

It waits for the end of its standard input, which the owner holds open: a closed pipe is the one sign of death that
no signal can suppress. Then it kills the cluster's processes and removes its directory. An owner who wants the cluster
to outlive him writes a byte first; then SIGTERM is the sign. It also inherits the socket that reserves the cluster's
network, and so keeps it as long as there may be processes. It knows nothing else.
"""

from __future__ import annotations

import shutil
import signal
import sys

from .process import kill_members


def main() -> None:
    """Arguments: the cluster's id, and the directory to remove; an empty one stands for none."""
    cluster_id, directory = sys.argv[1:3]
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit())
    try:
        while sys.stdin.buffer.read():
            signal.pause()
    finally:
        kill_members(cluster_id)
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
