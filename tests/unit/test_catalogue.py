from __future__ import annotations

import pytest

from n8s.catalogue import lookup, models


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("A100-40GB", "A100-40GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA-A30", "A30-24GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100-80GB"),
    ],
)
def test_a_model_is_found_by_key_and_by_product_name(name: str, key: str) -> None:
    model = lookup(name)
    assert model is not None
    assert model.key == key


@pytest.mark.parametrize("name", ["", "Tesla-T4", "RTX-PRO-5000-48GB"])
def test_what_is_unknown_or_not_sourced_is_not_guessed(name: str) -> None:
    assert lookup(name) is None


def test_the_same_name_and_id_mean_different_things_on_different_models() -> None:
    a100, a30 = lookup("A100-40GB"), lookup("A30-24GB")
    h200, gb300 = lookup("H200-141GB"), lookup("GB300-278GB")
    assert a100
    assert a30
    assert h200
    assert gb300
    assert {p.name for p in a100.profiles if p.id == 14} == {"2g.10gb"}
    assert {p.name for p in a30.profiles if p.id == 14} == {"1g.6gb"}
    double, plain = h200.profile("1g.35gb"), gb300.profile("1g.35gb")
    assert double
    assert plain
    assert (double.size, double.max_count) == (2, 4)
    assert (plain.size, plain.max_count) == (1, 7)


def test_three_grids_exist() -> None:
    assert {model.memory_slices for model in models().values()} == {4, 8, 12}


@pytest.mark.parametrize("key", list(models()))
def test_every_profile_can_be_placed_within_its_grid(key: str) -> None:
    model = models()[key]
    assert model.profiles
    for profile in model.profiles:
        assert profile.starts
        assert all(start >= 0 and start + profile.size <= model.memory_slices for start in profile.starts)
        assert 1 <= profile.max_count <= len(profile.starts)
    assert model.largest.size == model.memory_slices
    assert model.largest.starts == (0,)
