"""Which sets of instances the hardware allows."""

from __future__ import annotations

import itertools

import pytest

from brain.model.mig import Placement, exclusive, invalid
from tests.worlds import profiles

A100 = {profile.name: profile for profile in profiles("A100-40GB")}

# (placements as profile@start, part of the refusal or "" when allowed)
SETS = [
    ("4g.20gb@0 3g.20gb@4", ""),
    ("3g.20gb@0 3g.20gb@4", ""),
    ("1g.5gb@0 1g.5gb@1 1g.5gb@2 1g.5gb@3 1g.5gb@4 1g.5gb@5 1g.5gb@6", ""),
    ("1g.5gb@7", "cannot start at slot 7"),
    ("3g.20gb@2", "cannot start at slot 2"),
    ("3g.20gb@0 1g.5gb@3", "overlaps"),
    ("7g.40gb@0 1g.5gb@6", "overlaps"),
    ("9g.99gb@0", "no profile 9g.99gb"),
    ("1g.5gb+me@0 1g.5gb+me@1", "at most 1"),
    ("1g.10gb@0 1g.10gb@2 1g.10gb@4 1g.10gb@6", ""),
]


@pytest.mark.parametrize(("text", "refusal"), SETS)
def test_sets(text: str, refusal: str) -> None:
    placements = [Placement(int(start), profile) for profile, start in (item.split("@") for item in text.split())]
    reason = invalid(A100, placements)
    assert reason == "" if not refusal else refusal in reason


@pytest.mark.parametrize(("model", "count"), [("A100-40GB", 297), ("A30-24GB", 25), ("RTX-PRO-6000-96GB", 25)])
def test_the_number_of_valid_sets_of_base_profiles(model: str, count: int) -> None:
    """Computed from the placement tables (1g, 2g, 3g, 4g, 7g): 297 non-empty sets on A100, 25 on A30."""
    known = {p.name: p for p in profiles(model)}
    base = [p for p in known.values() if not any(mark in p.name for mark in ("+", "-")) and p.name != "1g.10gb"]
    every = [Placement(start, p.name) for p in base for start in p.starts]
    found = 0
    frontier: list[tuple[Placement, ...]] = [()]
    while frontier:
        grown = []
        for placed in frontier:
            later = [placement for placement in every if not placed or placement > placed[-1]]
            grown += [(*placed, placement) for placement in later if not invalid(known, [*placed, placement])]
        found += len(grown)
        frontier = grown
    assert found == count


def test_media_engines_exclude_each_other() -> None:
    variants = ["1g.24gb", "1g.24gb+me", "1g.24gb+me.all", "1g.24gb-me"]
    excluded = {pair for pair in itertools.combinations_with_replacement(variants, 2) if exclusive(pair)}
    assert excluded == {
        ("1g.24gb+me", "1g.24gb+me"),
        ("1g.24gb", "1g.24gb+me.all"),
        ("1g.24gb+me", "1g.24gb+me.all"),
        ("1g.24gb+me.all", "1g.24gb+me.all"),
    }
