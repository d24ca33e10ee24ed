"""Runs tests against programs that have one thing wrong: a test suite is worth what it notices.

As a program, it reads jobs from standard input, one JSON object a line, and answers each with one on standard output.
Each job is done in a child process of its own, forked after the libraries and what decisions are about are loaded, and
before any module that is changed is: the child takes the changed text of one for its source, and runs pytest. Nothing
is written to the checkout.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_EXAMPLES: Final = "0.045"
"""Of random examples only so few: what is noticed by luck alone is not counted on."""
_PROFILE: Final = "mutant"
_OPTIONS: Final = (
    *("-x", "-q", "--tb=line", "--assert=plain", f"--hypothesis-profile={_PROFILE}"),
    *("-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider"),
    *("-p", "_hypothesis_pytestplugin"),
)
"""No settings and no plugins but one: to load them takes as long as most tests do, and limits of theirs would put off
the alarm below."""
SECONDS: Final = 240
"""A job that takes longer has failed without an answer."""


class Nursery:
    """The program, as a context: children cost a few tenths of a second each."""

    def __enter__(self) -> Nursery:
        environment = os.environ | {"EXAMPLES": _EXAMPLES, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, "-P", "-m", "tests.mutants"]
        paths = [str(ROOT / "proto"), str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        self._cache = tempfile.TemporaryDirectory()
        environment |= {"PYTHONPYCACHEPREFIX": self._cache.name, "PYTHONDONTWRITEBYTECODE": ""}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()
        self._cache.cleanup()

    def run(self, module: str, text: str, tests: Sequence[str]) -> tuple[int, str]:
        """Run tests, until the first that fails, with another text of a module; pytest's exit code and output."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"module": module, "text": text, "tests": tests}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the process that runs the mutants has ended"
        code, output = json.loads(answer)
        return code, output


def source(module: str) -> Path:
    """Where a module's text is."""
    return ROOT / Path(*module.split(".")).with_suffix(".py")


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from its own place, but with another text."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        """The changed program, past all caches."""
        code: CodeType = compile(self._text, self.get_filename(fullname), "exec", dont_inherit=True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, text: str) -> None:
        self._module = module
        self._text = text

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The changed module's; None for all others."""
        del path, target
        if fullname != self._module:
            return None
        where = str(source(fullname))
        return importlib.util.spec_from_file_location(fullname, where, loader=_Loader(fullname, where, self._text))


def _child(job: dict[str, Any], output: str) -> int:
    """Do a job; pytest's exit code, its output in a file."""
    import pytest  # noqa: PLC0415 - the program has it already; who only asks for a nursery need not load it again
    from hypothesis import Phase, settings  # noqa: PLC0415

    # Known examples are not for mutants, nor theirs for others; and nobody looks at their smallest ones.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile(_PROFILE, database=None, derandomize=True, phases=phases, print_blob=False)
    assert job["module"] not in sys.modules, "it is loaded already, as it is"
    sys.meta_path.insert(0, _Finder(job["module"], job["text"]))
    with Path(output).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        return int(pytest.main([*_OPTIONS, *job["tests"]]))


def _do(job: dict[str, Any]) -> tuple[int, str]:
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # no thread of ours runs when this forks
            child = os.fork()
        if not child:
            code = 3
            try:
                import signal  # noqa: PLC0415

                signal.alarm(SECONDS)
                code = _child(job, output.name)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), output.read()


def main() -> None:
    """Do jobs until standard input ends."""
    answers = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), encoding="utf-8")
    os.dup2(2, 1)  # what tests print is no answer
    for module in ("highspy", "hypothesis.extra.pytestplugin", "numpy", "tests.worlds"):
        importlib.import_module(module)
    importlib.import_module("pytest").main([*_OPTIONS, "--version"])  # it loads what it needs when it first runs
    gc.freeze()  # what all children share is not gone through by each
    for line in sys.stdin:
        print(json.dumps(_do(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
