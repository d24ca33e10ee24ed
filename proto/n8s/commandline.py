"""What the command lines of our programs have in common: how help reads, ``--version``, how a bad setting ends one.

It knows no program's settings.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from typing import Final, NoReturn

BAD_SETTING: Final = 2
"""Exit status after a setting that cannot be used; argparse's own."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A command line with ``--version`` and no abbreviations, for a program to add its options to."""
    made = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    version = importlib.metadata.version("nebulnetes")
    made.add_argument("--version", action="version", version=f"{program} {version}", help="show the version and exit")
    return made


def refuse(program: str, *problems: object) -> NoReturn:
    """Says what cannot be used, one line each, and ends the program."""
    sys.stderr.writelines(f"{program}: {problem}\n" for problem in problems)
    sys.exit(BAD_SETTING)
