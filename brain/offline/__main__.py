"""The command ``n8s``: ``n8s plan FILE...`` plans offline."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from brain.decide.partition import plan
from brain.model.snapshot import Snapshot
from brain.offline import cluster, report, scenario
from brain.offline.errors import InputError
from n8s import commandline

PLAIN_COLUMNS = 160
"""Width of what goes to a file or a pipe."""

_DESCRIPTION = """Work out, without a cluster, which MIG instances each GPU should have so that waiting pods find room.

A FILE holds a scenario (a JSON object with name, nodes and pods; in a .jsonl one a line), or what
`kubectl get nodes,pods,namespaces -A -o json` prints. Names that end in .gz are unpacked; - is standard input."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 2 where a file cannot be planned."""
    parser = commandline.parser("n8s", "Nebulnetes from the command line.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shown = argparse.RawTextHelpFormatter
    planning = commands.add_parser("plan", help="plan offline", description=_DESCRIPTION, formatter_class=shown)
    planning.add_argument("files", nargs="+", metavar="FILE")
    output = "text for people (default), or json: one object a plan"
    planning.add_argument("--output", choices=("text", "json"), default="text", help=output)
    arguments = parser.parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_COLUMNS)
    try:
        for file in arguments.files:
            for name, snapshot in _worlds(file):
                result = plan(snapshot)
                if arguments.output == "json":
                    print(json.dumps(report.document(name, result)), flush=True)
                else:
                    console.print(report.page(name, snapshot, result))
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        print(f"n8s plan: {error}", file=sys.stderr)
        return 2
    return 0


def _worlds(file: str) -> Iterator[tuple[str, Snapshot]]:
    """The name and the world of each problem in a file."""
    text = _text(file)
    if file.removesuffix(".gz").endswith(".jsonl"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield scenario.read(_document(line, f"{file}, line {number}"), f"{file}, line {number}")
        return
    document = _document(text, file)
    if isinstance(document, dict) and document.get("kind") == "List":
        yield file, cluster.read(document, file)
    else:
        yield scenario.read(document, file)


def _text(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return (gzip.decompress(data) if file.endswith(".gz") else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(file, "$", f"cannot be read: {problem}") from error


def _document(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(file, "$", f"is not JSON: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
