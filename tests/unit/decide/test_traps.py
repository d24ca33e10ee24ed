"""The traps that other partitioners fall into: what fits by count and not by place, and the other way round.

Sources: NVIDIA's MIG user guide (placements, known issue on the order of creation), and what public partitioners do.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from brain.decide.partition import plan
from brain.model.mig import Gpu, Instance, InstanceState, Placement, invalid
from brain.model.pod import Pod
from brain.model.snapshot import Snapshot
from tests.worlds import gpu, node, pod, profiles

Sets = frozenset[Placement]


def maximal(model: str, *, double: bool = False) -> list[Sets]:
    """The sets of plain instances that take no further one, by trying all; ``double`` memory is extra on an A100."""
    known = {p.name: p for p in profiles(model) if not any(mark in p.name for mark in ("+", "-"))}
    if not double:
        known.pop("1g.10gb", None)
    every = [Placement(start, p.name) for p in known.values() for start in p.starts]
    found: set[Sets] = set()
    frontier: set[Sets] = {frozenset()}
    while frontier:
        found |= frontier
        frontier = {held | {one} for held in frontier for one in every if one not in held}
        frontier = {held for held in frontier if not invalid(known, held)}
    return sorted((held for held in found if not any(held < other for other in found)), key=sorted)


def multisets(sets: list[Sets]) -> list[Counter[str]]:
    """The profiles of sets, those left out that are part of others."""
    kinds = {tuple(sorted(placement.profile for placement in held)) for held in sets}
    counted = [Counter(kind) for kind in sorted(kinds)]
    return [one for one in counted if not any(one < other for other in counted)]


def used(model: str, held: Sets) -> Gpu:
    plain = gpu(0, "", model)
    sizes = {profile.name: profile.size for profile in plain.profiles}
    made = [Instance(p.profile, p.start, sizes[p.profile], InstanceState.USED, f"MIG-{p}") for p in sorted(held)]
    return replace(plain, instances=tuple(made))


def asking(wanted: Counter[str]) -> tuple[Pod, ...]:
    return tuple(pod(f"p{number}", {profile: 1}) for number, profile in enumerate(sorted(wanted.elements())))


@pytest.mark.parametrize(
    ("model", "double", "sets", "kinds"),
    [
        ("A100-40GB", False, 19, 12),
        ("A100-40GB", True, None, 28),
        ("A30-24GB", False, None, 4),
        ("RTX-PRO-6000-96GB", False, None, 4),
    ],
)
def test_what_a_gpu_can_be_full_of(model: str, double: bool, sets: int | None, kinds: int) -> None:
    """Each of the multisets is planned on an empty GPU, ``3g+1g*4`` and ``4g+3g`` among them, which nos leaves out."""
    found = maximal(model, double=double)
    assert sets in {None, len(found)}
    wanted = multisets(found)
    assert len(wanted) == kinds
    for each in wanted:
        result = plan(Snapshot((node("a", [gpu(0, "", model)]),), asking(each)))
        assert len(result.assigned) == each.total(), each
        assert Counter(placement.profile for placement in result.geometries["a"][0]) == each


@pytest.mark.parametrize("model", ["A100-40GB", "A30-24GB", "RTX-PRO-6000-96GB"])
def test_around_anything_that_leaves_room(model: str) -> None:
    """Whatever part of a full GPU is in use, and wherever it lies: the rest is still made."""
    known = {profile.name: profile for profile in profiles(model)}
    for full in maximal(model):
        for count in range(len(full)):
            for held in map(frozenset, itertools.combinations(sorted(full), count)):
                rest = Counter(placement.profile for placement in full - held)
                result = plan(Snapshot((node("a", [used(model, held)]),), asking(rest)))
                assert len(result.assigned) == rest.total(), (held, rest)
                geometry = result.geometries["a"][0]
                assert held <= set(geometry)
                assert not invalid(known, geometry)


# (what it shows, instances of GPU 0, profiles asked for, geometry wanted; None where not all find room)
TRAPS = [
    (
        "an order of creation that the driver refuses",
        "",
        "1g.5gb 1g.5gb 2g.10gb 3g.20gb",
        "1g.5gb@0 1g.5gb@1 2g.10gb@2 3g.20gb@4",
    ),
    (
        "what that order leaves",
        "2g.10gb@0f 1g.5gb@4f 1g.5gb@6f",
        "1g.5gb 1g.5gb 2g.10gb 3g.20gb",
        "2g.10gb@0 1g.5gb@2 1g.5gb@3 3g.20gb@4",
    ),
    ("two 3g", "", "3g.20gb 3g.20gb", "3g.20gb@0 3g.20gb@4"),
    ("3g at 4 before 0", "", "3g.20gb", "3g.20gb@4"),
    ("1g at 6 first", "", "1g.5gb", "1g.5gb@6"),
    ("2g at 4 first", "", "2g.10gb", "2g.10gb@4"),
    ("double memory at 6 first", "", "1g.10gb", "1g.10gb@6"),
    ("double memory leaves 3g at 4 where it can", "1g.5gb@0u", "1g.10gb", "1g.5gb@0 1g.10gb@2"),
    ("slot 7 is no use to a 1g", " ".join(f"1g.5gb@{n}u" for n in range(7)), "1g.5gb", None),
    ("slot 6 is no use to a 2g", "4g.20gb@0u 1g.5gb@4u", "2g.10gb", None),
    ("slots 6 and 7 are a 1g of double memory", "4g.20gb@0u 2g.10gb@4u", "1g.10gb", "4g.20gb@0 2g.10gb@4 1g.10gb@6"),
    ("7 slots of compute, 8 of memory: 4g and 3g", "", "4g.20gb 3g.20gb", "4g.20gb@0 3g.20gb@4"),
    ("4g only at 0", "1g.5gb@3u", "4g.20gb", None),
    ("3g at 0 leaves three 1g, not four", "3g.20gb@0u", "1g.5gb 1g.5gb 1g.5gb 1g.5gb", None),
    (
        "3g at 4 leaves four",
        "3g.20gb@4u",
        "1g.5gb 1g.5gb 1g.5gb 1g.5gb",
        "1g.5gb@0 1g.5gb@1 1g.5gb@2 1g.5gb@3 3g.20gb@4",
    ),
    ("enough slots in two pieces", "1g.5gb@1u 1g.5gb@5u", "3g.20gb", None),
    ("free ones that the driver would fill up from below", "1g.5gb@0f 2g.10gb@4f", "4g.20gb", "4g.20gb@0 2g.10gb@4"),
]


@pytest.mark.parametrize(("instances", "asked", "geometry"), [row[1:] for row in TRAPS], ids=[row[0] for row in TRAPS])
def test_traps(instances: str, asked: str, geometry: str | None) -> None:
    result = plan(Snapshot((node("a", [gpu(0, instances)]),), asking(Counter(asked.split()))))
    assert bool(result.unplaced) == (geometry is None)
    if geometry is not None:
        assert " ".join(f"{p.profile}@{p.start}" for p in result.geometries["a"][0]) == geometry


@pytest.mark.parametrize(
    ("double", "plain", "profile"),
    [("A100-40GB", "A100-80GB", "1g.10gb"), ("H200-141GB", "GB300-278GB", "1g.35gb")],
)
def test_one_name_is_the_double_memory_of_one_model_and_the_plain_1g_of_another(
    double: str, plain: str, profile: str
) -> None:
    nodes = (node("double", [gpu(0, "", double)]), node("plain", [gpu(0, "", plain)]))
    result = plan(Snapshot(nodes, asking(Counter({profile: 12}))))
    assert Counter(result.assigned.values()) == {"double": 4, "plain": 7}
    assert [p.start for p in result.geometries["double"][0]] == [0, 2, 4, 6]


def test_a_name_that_another_begins_with_is_another_profile() -> None:
    """``1g.24gb`` is no ``1g.24gb-me``, though older device plugins took one for the other."""
    there = node("a", [gpu(0, "1g.24gb-me@0f 1g.24gb+gfx@3f 1g.24gb@6u 1g.24gb@9u", "RTX-PRO-6000-96GB")])
    assert plan(Snapshot((there,), asking(Counter(["1g.24gb"])))).geometries["a"][0] != there.agent.gpus[0].geometry  # type: ignore[union-attr]


def test_the_driver_s_instance_ids_say_nothing() -> None:
    """The same id stands for slot 4 on one GPU and for slot 2 on another: only the placement counts."""
    plain = gpu(0, "3g.20gb@0u 1g.5gb@6u")
    other = replace(plain, instances=tuple(replace(each, gpu_instance_id=13) for each in plain.instances))
    pods = asking(Counter(["2g.10gb", "1g.5gb"]))
    plans = [plan(Snapshot((node("a", [each]),), pods)) for each in (plain, other)]
    assert plans[0] == plans[1]


def test_what_the_driver_does_not_list_takes_its_slots() -> None:
    """A profile of a newer driver that is still there: it stays, and nothing is planned on top of it."""
    odd = replace(gpu(0, "4g.20gb@0u").instances[0], profile="4g.odd")
    there = replace(gpu(0), instances=(odd,))
    result = plan(Snapshot((node("a", [there]),), asking(Counter({"3g.20gb": 1, "1g.5gb": 1}))))
    assert (list(result.assigned.values()), result.geometries["a"][0]) in (
        (["a"], (Placement(0, "4g.odd"), Placement(4, "3g.20gb"))),
        (["a"], (Placement(0, "4g.odd"), Placement(6, "1g.5gb"))),
    )
