"""The command ``n8s``.

``n8s plan FILE...`` plans offline, ``n8s quota decide FILE...`` decides by quotas offline, and ``n8s explain pod NAME``
asks a brain about a pod.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from brain import explain
from brain.decide.partition import plan
from brain.explain import NoAnswerError
from brain.model.snapshot import Snapshot
from brain.offline import cluster, question, quotas, report, scenario
from brain.offline.errors import WHOLE, InputError
from n8s import client, commandline, names

PLAIN_COLUMNS = 160
"""Width of what goes to a file or a pipe."""

_KUBECTL = "kubectl get nodes,pods,namespaces,jobs -A -o json"
_DESCRIPTION = f"""Work out, without a cluster, which MIG instances each GPU should have so that waiting pods find room.

A FILE holds a scenario (a JSON object with name, nodes and pods; in a .jsonl one a line), or what
`{_KUBECTL}` prints. Names that end in .gz are unpacked; - is standard input.
Each FILE is planned by itself: give what belongs to one cluster in one."""


class _Console(Console):
    """A console that leaves it to :func:`main` what happens when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled."""
        raise  # noqa: PLE0704 - see above


_EXPLAINING = """Ask the brain how a pod stands with its quota and its MIG devices: what it waits for, whether it fits,
whether room is being made for it, or what it lacks, on how many nodes. The exit code is 1 where the brain cannot be
reached or knows no such pod."""


_DECIDING = """Work out, without a cluster, what quotas decide: who is let in, who is evicted for whom, who is
over-quota, what a request counts for, whether a quota may be written. MIG devices are taken as they are.

A FILE holds a question (a JSON object with name, quotas, running, nodes, and pending or what else is asked), several
of them under cases, or one a line. Names that end in .gz are unpacked; - is standard input.
Prints one JSON object a question, and on standard error which questions cannot be read: then the exit code is 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 2 where a file cannot be read, 1 where a brain cannot tell of a pod."""
    parser = commandline.parser("n8s", "Nebulnetes from the command line.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shown = argparse.RawTextHelpFormatter
    planning = commands.add_parser("plan", help="plan offline", description=_DESCRIPTION, formatter_class=shown)
    planning.add_argument("files", nargs="+", metavar="FILE", help="what to plan; - for standard input")
    output = "text for people (default), or json: one object a plan"
    planning.add_argument("--output", choices=("text", "json"), default="text", help=output)
    quota = commands.add_parser("quota", help="quotas").add_subparsers(dest="asked", required=True, metavar="COMMAND")
    deciding = quota.add_parser("decide", help="decide offline", description=_DECIDING, formatter_class=shown)
    deciding.add_argument("files", nargs="+", metavar="FILE", help="questions; - for standard input")
    _asking(quota.add_parser("explain", help="ask the brain how a pod stands", description=_EXPLAINING))
    explaining = commands.add_parser("explain", help="ask the brain how a pod stands", description=_EXPLAINING)
    explaining.add_argument("kind", choices=("pod",), metavar="pod")
    _asking(explaining)
    arguments = parser.parse_args(argv)
    console = _Console()
    if not console.is_terminal:
        console = _Console(width=PLAIN_COLUMNS)
    try:
        if "pod" in arguments:
            _explain(arguments, console)
        elif arguments.command == "quota":
            return _decide(arguments)
        else:
            _plan(arguments, console)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        print(f"n8s plan: {error}", file=sys.stderr)
        return 2
    except (NoAnswerError, client.AccessError) as error:
        print(f"n8s explain: {error}", file=sys.stderr)
        return 1
    return 0


def _asking(parser: argparse.ArgumentParser) -> None:
    """What is said to ask a brain about a pod."""
    parser.add_argument("pod", type=_key, metavar="NAMESPACE/NAME")
    parser.add_argument("--brain", required=True, metavar="HOST:PORT", help="where the brain serves gRPC")
    parser.add_argument(
        "--brain-namespace", default=client.NAMESPACE, metavar="NAME", help="the release's namespace (nebulnetes)"
    )
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="how to reach the API server, which gives a token for the brain"
    )
    parser.add_argument(
        "--token", default="", help=f"to be sent, instead of one of the ServiceAccount {names.VIEWER_ACCOUNT}"
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="who vouches for the brain's certificate, instead of the release's"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text", help="text for people (default), or json")


def _plan(arguments: argparse.Namespace, console: Console) -> None:
    for file in arguments.files:
        for name, snapshot in _worlds(file):
            result = plan(snapshot)
            if arguments.output == "json":
                print(json.dumps(report.document(name, result)), flush=True)
            elif not snapshot.nodes and not snapshot.pods:
                console.print(f"{name}: nothing to plan: no nodes and no pods", markup=False, highlight=False)
            else:
                _show(console, report.page(name, snapshot, result))


def _show(console: Console, page: RenderableType) -> None:
    """Prints a page; where that is no terminal, without the blanks that fill its lines."""
    if console.is_terminal:
        console.print(page)
        return
    with console.capture() as shown:
        console.print(page)
    print("\n".join(line.rstrip() for line in shown.get().splitlines()), flush=True)


def _decide(arguments: argparse.Namespace) -> int:
    """Answers all questions that can be read, and says which cannot; the exit code."""
    code = 0
    for answer in itertools.chain.from_iterable(map(_answers, arguments.files)):
        if isinstance(answer, InputError):
            print(f"n8s quota decide: {answer}", file=sys.stderr, flush=True)
            code = 2
        else:
            print(json.dumps(answer), flush=True)
    return code


def _answers(file: str) -> Iterator[dict[str, Any] | InputError]:
    """What follows for each question of a file, or why it cannot be read."""
    try:
        parts = [*_parts(file)]
    except InputError as error:
        yield error
        return
    for text, where in parts:
        try:
            asked = [*question.cases(_document(text, where), where)]
        except InputError as error:
            yield error
            continue
        for case, path in asked:
            name = case.get("name") if isinstance(case, dict) else None
            try:
                yield quotas.answer(case, f"{where}, case {name!r}" if name else where, path)
            except InputError as error:
                yield error


def _explain(arguments: argparse.Namespace, console: Console) -> None:
    credentials = client.credentials(
        namespace=arguments.brain_namespace, kubeconfig=arguments.kubeconfig, token=arguments.token, ca=arguments.ca
    )
    explanation = explain.ask(arguments.brain, credentials, *arguments.pod)
    if arguments.output == "json":
        print(json.dumps(explain.document(explanation)))
    else:
        _show(console, explain.page(explanation))


def _key(text: str) -> tuple[str, str]:
    """Namespace and name of a pod."""
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAMESPACE/NAME")
    return namespace, name


def _worlds(file: str) -> Iterator[tuple[str, Snapshot]]:
    """The name and the world of each problem in a file."""
    for document, where in _documents(file):
        kind = document.get("kind") if isinstance(document, dict) else None
        if kind is None:
            yield scenario.read(document, where)
        elif where != file:
            raise InputError(where, WHOLE, "expected a scenario")
        elif kind == "List":
            yield file, cluster.read(document, file)
        else:
            raise InputError(file, WHOLE, f"is a {kind}, expected a List, as `{_KUBECTL}` prints it")


def _documents(file: str) -> Iterator[tuple[Any, str]]:
    """The documents of a file, each with how messages name its place."""
    return ((_document(text, where), where) for text, where in _parts(file))


def _parts(file: str) -> Iterator[tuple[str, str]]:
    """The texts of a file's documents, one a line where they are so, each with how messages name its place."""
    text = _text(file)
    if not file.removesuffix(".gz").endswith(".jsonl") and not _by_line(text):
        yield text, file
        return
    if not text.strip():
        raise InputError(file, WHOLE, "is empty")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield line, f"{file}, line {number}"


def _by_line(text: str) -> bool:
    """Whether a text is more than one document, the first of which is one line."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _text(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return (gzip.decompress(data) if file.endswith(".gz") else data).decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(file, WHOLE, f"cannot be read: {problem}") from error


def _document(text: str, file: str) -> Any:
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(file, WHOLE, "holds half a surrogate pair (\\ud800 to \\udfff), which is no text") from error
    except RecursionError as error:
        raise InputError(file, WHOLE, "is not a document of ours: nested too deeply") from error
    except ValueError as error:
        if not text.strip():
            raise InputError(file, WHOLE, "is empty") from error
        hint = "" if text.lstrip().startswith(("{", "[")) else "; kubectl prints JSON with `-o json`"
        raise InputError(file, WHOLE, f"is not JSON: {error}{hint}") from error
    return found


if __name__ == "__main__":
    sys.exit(main())
