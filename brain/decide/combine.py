"""The cheapest way to make up what is short by one option of each of some parts, in exact steps that are counted.

An option is some pods that may go together. What they give adds up, what they count against limits adds up, and so does
what they cost: of two ways to reach the same, only the cheaper need be kept. What a part is, is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from brain.model.pod import Pod

Amounts = tuple[int, ...]


class Option(NamedTuple):
    """Some pods that may go.

    Attributes:
        pods: the pods.
        gives: what of each shortage they make up.
        takes: how much they count against each limit.
        freed: what they free of what is lacking.
    """

    pods: tuple[Pod, ...]
    gives: Amounts
    takes: Amounts
    freed: int

    def beside(self, other: Option) -> Option:
        """Both."""
        return Option(
            (*self.pods, *other.pods),
            tuple(map(int.__add__, self.gives, other.gives)),
            tuple(map(int.__add__, self.takes, other.takes)),
            self.freed + other.freed,
        )

    @property
    def priority(self) -> int:
        """Of its pods the highest."""
        return max([pod.priority for pod in self.pods], default=0)

    @property
    def cost(self) -> tuple[Any, ...]:
        """What it costs, beside options of as many pods: what it frees, then who goes first, then names."""
        return self.freed, sorted(pod.first_out for pod in self.pods), sorted(pod.key for pod in self.pods)


class TooManyError(Exception):
    """The steps that may be taken are used up."""


class Steps:
    """Steps that may still be taken.

    Attributes:
        left: how many.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        """Take some.

        Raises:
            TooManyError: they are used up.
        """
        self.left -= count
        if self.left < 0:
            raise TooManyError


def cheaper(one: Option, other: Option | None) -> bool:
    """Whether one option costs less than another of as many pods."""
    if other is None or one.freed != other.freed:
        return other is None or one.freed < other.freed
    return one.cost < other.cost


def useful(options: Iterable[Option], steps: Steps) -> list[Option]:
    """Of options in the order of size, those that no smaller one matches, and of equal ones the cheapest."""
    found: list[Option] = []
    equal: dict[tuple[int, Amounts, Amounts], Option] = {}
    for option in options:
        steps.take(1)
        size = len(option.pods)
        key = size, option.gives, option.takes
        known = equal.get(key)
        if known is None:
            steps.take(len(found) // 4)
            if any(len(each.pods) < size and _matches(each, option) for each in found):
                continue
            found.append(option)
        if cheaper(option, known):
            equal[key] = option
    return [equal[len(each.pods), each.gives, each.takes] for each in found]


def _matches(one: Option, other: Option) -> bool:
    return all(map(int.__ge__, one.gives, other.gives)) and all(map(int.__le__, one.takes, other.takes))


def cheapest(
    parts: Sequence[Sequence[Option]], short: Amounts, limits: Amounts, size: int, steps: Steps
) -> Option | None:
    """The cheapest combination of at most so many pods that makes up what is short within limits; None: there is none.

    Args:
        parts: of each part the options of which one is taken, by size.
        short: what must be given.
        limits: what may be taken.
        size: how many pods; fewer are known not to do.
        steps: what may still be done.

    Raises:
        TooManyError: the steps are used up.
    """
    reach = _reach(parts, size, len(short), steps)
    if not _within(short, reach[0], size):
        return None
    # By what is left to give and what limits leave, and the number of pods: the cheapest way there.
    states: dict[tuple[int, Amounts, Amounts], Option] = {
        (0, short, limits): Option((), (0,) * len(short), (0,) * len(limits), 0)
    }
    for part, rest in zip(parts, reach[1:], strict=True):
        new: dict[tuple[int, Amounts, Amounts], Option] = {}
        for (used, left, spare), chosen in states.items():
            steps.take(len(part))
            for option in part:
                count = used + len(option.pods)
                if count > size:
                    break
                lacking = tuple(
                    [lack - give if lack > give else 0 for lack, give in zip(left, option.gives, strict=True)]
                )
                if not _within(lacking, rest, size - count):
                    continue
                still = tuple(map(int.__sub__, spare, option.takes)) if spare else spare
                if still and min(still) < 0:
                    continue
                key = count, lacking, still
                both = chosen.beside(option) if option.pods else chosen
                if cheaper(both, new.get(key)):
                    new[key] = both
        states = new
    best: Option | None = None
    fewest = min([used for used, _, _ in states], default=0)
    for (used, _, _), option in states.items():
        if used == fewest and cheaper(option, best):
            best = option
    return best


def _within(short: Amounts, most: Sequence[Sequence[int]], size: int) -> bool:
    return all(lack <= each[size] for lack, each in zip(short, most, strict=True))


def _reach(parts: Sequence[Sequence[Option]], size: int, dimensions: int, steps: Steps) -> list[list[list[int]]]:
    """By part, what those from it on give at most of each shortage, by how many pods go."""
    found = [[[0] * (size + 1) for _ in range(dimensions)]]
    for part in reversed(parts):
        steps.take(dimensions * len(part) * (size + 1) // 4 + 1)
        table = []
        for position, after in enumerate(found[-1]):
            row = [0] * (size + 1)
            best: dict[int, int] = {}
            for option in part:
                count = len(option.pods)
                best[count] = max(best.get(count, 0), option.gives[position])
            for count, gives in best.items():
                for used in range(count, size + 1):
                    row[used] = max(row[used], gives + after[used - count])
            table.append(row)
        found.append(table)
    found.reverse()
    return found
