"""What can be wrong with the files that are planned."""

from __future__ import annotations

from brain.errors import BrainError


class InputError(BrainError):
    """A file that cannot be planned.

    Attributes:
        file: its name.
        path: where in the document, e.g. ``$.nodes[0].gpus[1].index``; ``$`` is the whole.
        problem: what is wrong there and what was expected.
    """

    def __init__(self, file: str, path: str, problem: str) -> None:
        super().__init__(f"{file}: {path}: {problem}")
        self.file = file
        self.path = path
        self.problem = problem
