"""The log format that kubelets expect of a container runtime, written and read.

One line: time, stream, ``F`` for a full line or ``P`` for a part of one, text. Rotation is the kubelet's affair.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

LONGEST: Final = 16 * 1024
"""Bytes of a line that are written as one; the rest follows as further parts (containerd's limit)."""


def format_line(time_ns: int, stream: str, text: bytes, *, partial: bool = False) -> bytes:
    """One line of the file.

    Args:
        time_ns: nanoseconds since the epoch.
        stream: ``stdout`` or ``stderr``.
        text: without its newline.
        partial: whether the line goes on in the next one.
    """
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{nanoseconds:09d}Z {stream} {'P' if partial else 'F'} ".encode() + text + b"\n"


def plain_text(lines: Iterable[str]) -> str:
    """What the container wrote, both streams in order. Lines that are not of the format are left as they are."""
    text = []
    for line in lines:
        parts = line.rstrip("\n").split(" ", 3)
        if len(parts) == 4 and parts[2] in ("F", "P"):
            text.append(parts[3] + ("\n" if parts[2] == "F" else ""))
        else:
            text.append(line.rstrip("\n") + "\n")
    return "".join(text)


async def copy(
    reader: asyncio.StreamReader, stream: str, clock_ns: Callable[[], int], write: Callable[[bytes], None]
) -> None:
    """Copies a stream to its end, line by line.

    Args:
        reader: the container's output.
        stream: ``stdout`` or ``stderr``.
        clock_ns: tells the time of a line, in nanoseconds since the epoch.
        write: takes one formatted line.
    """
    pending = b""
    while chunk := await reader.read(LONGEST):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            write(format_line(clock_ns(), stream, line))
        if len(pending) >= LONGEST:
            write(format_line(clock_ns(), stream, pending, partial=True))
            pending = b""
    if pending:
        write(format_line(clock_ns(), stream, pending))
