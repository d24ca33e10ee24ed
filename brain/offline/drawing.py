"""A GPU as a bar of its slots, for terminals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rich.text import Text

USED: Final = "black on green"
FREE: Final = "black on cyan"
NEW: Final = "black on yellow"
COLUMNS: Final = 72
"""Width of a bar; a multiple of 4, 8 and 12 slots."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An instance in a bar: where it lies, in slots, and how it is shown."""

    start: int
    size: int
    text: str
    style: str


def bar(slots: int, pieces: Iterable[Piece], columns: int = COLUMNS) -> Text:
    """The slots from left to right, ``columns`` wide; empty ones are dots."""
    cell = columns // max(slots, 1)
    drawn = Text(no_wrap=True)
    slot = 0
    for piece in [*sorted(pieces, key=lambda piece: piece.start), Piece(slots, 0, "", "")]:
        for _ in range(slot, piece.start):
            drawn.append("·".ljust(cell), "dim")
        if piece.size:
            width = piece.size * cell - 1
            drawn.append(piece.text[:width].ljust(width), piece.style)
            drawn.append(" ")
        slot = piece.start + piece.size
    return drawn
