"""The command line of the local cluster; see README.md beside this file. It refuses to know more than its library."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from . import binaries, chart, cluster, config
from .errors import LocalError


def main() -> None:
    """Runs one command; errors of ours end as one message and status 1."""
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        args.run(args)
    except LocalError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="A Kubernetes cluster on this machine, with real kubelets, simulated MIG GPUs and no containers.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up",
        help="bring a cluster up and keep it until Ctrl-C",
        description="Brings a cluster up with Nebulnetes in it and keeps it until Ctrl-C, which removes everything.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    up.add_argument("--config", type=Path, default=config.DEFAULT, metavar="FILE", help="YAML file with the nodes")
    up.add_argument("--state", type=Path, metavar="DIR", help="empty directory for all files, else a temporary one")
    up.add_argument("--keep", action="store_true", help="leave the files when the cluster ends, to read its logs")
    up.add_argument("--no-chart", action="store_true", help="do not install Nebulnetes")
    up.add_argument("--detach", action="store_true", help="return when the cluster is up; `down` ends it")
    up.add_argument(
        "--status-seconds",
        type=float,
        default=10.0,
        metavar="N",
        help="how often kubelets report their status (the kubelet's own default is 10)",
    )
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="end a cluster", description="Ends a cluster, from another terminal too.")
    down.add_argument(
        "--state", type=Path, metavar="DIR", help="its directory, else that of this checkout's `up --detach`"
    )
    down.set_defaults(run=_down)

    build = commands.add_parser(
        "binaries",
        help="find or build the programs",
        description="Finds the programs in KUBEBUILDER_ASSETS or the cache, builds those that are missing.",
    )
    build.set_defaults(run=lambda _: _say(binaries.report(binaries.ensure(_say))))
    return parser


def _up(args: argparse.Namespace) -> None:
    made = cluster.Cluster(args.config, state=args.state, keep=args.keep, status_seconds=args.status_seconds, say=_say)
    with made:
        if not args.no_chart:
            release = chart.Release(made)
            release.install()
            _say(f"Nebulnetes is installed in namespace nebulnetes; inventory (gRPC) at {release.inventory_address}")
        _say(f"logs: {made.state}/control-plane/*.log, {made.state}/nodes/*/*.log, {made.state}/nodes/*/varlog/pods/")
        _say(f"\nexport KUBECONFIG={made.kubeconfig}\nkubectl: {made.binaries['kubectl']}")
        if args.detach:
            made.detach()
            _say(f"\nend it with: python -m deploy.local down --state {made.state}")
            return
        _say("\nCtrl-C ends the cluster.")
        made.hold()


def _down(args: argparse.Namespace) -> None:
    state = args.state
    if state is None:
        found = cluster.detached(Path(tempfile.gettempdir()))
        if len(found) > 1:
            listed = "".join(f"\n  {path}" for path in found)
            raise LocalError(f"{len(found)} clusters run that `up --detach` of this checkout made: name one:{listed}")
        if not found:
            raise LocalError("no cluster runs that `up --detach` of this checkout made; name another with --state DIR")
        state = found[0]
    cluster.end(state)
    _say(f"the cluster in {state} has ended")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
