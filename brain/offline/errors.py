"""What can be wrong with the files that are planned."""

from __future__ import annotations

from typing import Final

from brain.errors import BrainError

WHOLE: Final = "$"
"""The path of a whole document."""


class InputError(BrainError):
    """A file that cannot be planned.

    Attributes:
        file: its name.
        path: where in the document, e.g. ``$.nodes[0].gpus[1].index``; ``$`` is the whole, and not part of the message.
        problem: what is wrong there and what was expected.
    """

    def __init__(self, file: str, path: str, problem: str) -> None:
        super().__init__(": ".join([file, problem] if path == WHOLE else [file, path, problem]))
        self.file = file
        self.path = path
        self.problem = problem
