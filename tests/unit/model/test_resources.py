"""Quantities as exact integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brain.model import quota, resources
from n8s import names

# (resource, quantity, amount)
AMOUNTS = [
    ("cpu", "500m", 500),
    ("cpu", "2", 2000),
    ("cpu", 2, 2000),
    ("cpu", "0.1", 100),
    ("cpu", "1u", 1),
    ("memory", "1Gi", 1 << 30),
    ("memory", "1G", 10**9),
    ("memory", "1.5Ki", 1536),
    ("memory", "100m", 1),
    ("memory", "1e3", 1000),
    ("memory", "1E", 10**18),
    ("memory", "12E2", 1200),
    ("nvidia.com/gpu", "-1", -1),
    ("memory", "-100m", -1),
    ("memory", "9223372036854775807", 9223372036854775807),
    ("memory", "1e99999999", 9223372036854775807),
    ("memory", "-10E", -9223372036854775807),
]


@pytest.mark.parametrize(("resource", "text", "amount"), AMOUNTS)
def test_amounts(resource: str, text: str | int, amount: int) -> None:
    assert resources.amount(resource, text) == amount


@pytest.mark.parametrize(
    "text", ["", "x", "1 Gi", "1Kib", "--1", "1.2.3", "Gi", "1e", " 1", "1\n", "٣", "1.५", "1e٢", None]
)
def test_no_quantity(text: str) -> None:
    with pytest.raises(resources.QuantityError, match="is not a Kubernetes quantity"):
        resources.amount("cpu", text)


@pytest.mark.parametrize("text", ["٣", "1.५", "1e٢"])
def test_digits_of_other_scripts_are_none(text: str) -> None:
    with pytest.raises(resources.QuantityError):
        resources.amount("cpu", text)


@given(st.sampled_from(["cpu", "memory"]), st.integers(min_value=0, max_value=1 << 62))
def test_what_is_written_reads_the_same(resource: str, amount: int) -> None:
    assert resources.amount(resource, resources.quantity(resource, amount)) == amount


def test_gpu_memory_counts_every_suffix() -> None:
    request = {
        "nvidia.com/mig-1g.10gb": 2,
        "nvidia.com/mig-1g.24gb.me.all": 1,
        "nvidia.com/mig-2g.48gb-me": 1,
        "cpu": 5,
    }
    assert resources.with_gpu_memory(request, 32)[names.GPU_MEMORY] == 92
    assert resources.with_gpu_memory({"nvidia.com/gpu": 2}, 16)[names.GPU_MEMORY] == 32
    assert names.GPU_MEMORY not in resources.with_gpu_memory({"cpu": 5, names.GPU_MEMORY: 7}, 32)


NAMES = ["cpu", "ephemeral-storage", "hugepages-2Mi", f"{'a' * 253}/{'g' * 63}", "a.b-c/d", "1/2", "a/Not_a.device-1"]
NOT_REQUESTABLE = ["gpu", "pods", "Not_a.device-1", "r" * 63]
NO_NAMES = [
    "",
    "näme ✓",
    "r" * 64,
    f"{'a' * 254}/gpu",
    "Example.com/gpu",
    "a/b/c",
    "/gpu",
    "a/",
    "cpu\n",
    "-cpu",
    "a..b/c",
]


@pytest.mark.parametrize("text", NAMES)
def test_names_of_resources(text: str) -> None:
    assert resources.is_name(text)
    assert quota.spec_problems({"min": {text: 1}}) == []


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_cannot_name_a_resource(text: str) -> None:
    assert not resources.is_name(text)
    for spec in ({"min": {text: 1}}, {"min": {"cpu": 1}, "max": {text: 1}}):
        (problem,) = quota.spec_problems(spec)
        assert f"{text!r} cannot name a resource" in problem


@pytest.mark.parametrize("text", NOT_REQUESTABLE)
def test_what_no_pod_can_ask_for(text: str) -> None:
    assert resources.is_name(text)
    (problem,) = quota.spec_problems({"min": {"cpu": 1}, "max": {text: 1}})
    assert problem == f"spec.max[{text}]: no pod can ask for it; devices have a domain, e.g. nvidia.com/gpu"


# (spec, what is wrong with it)
SPECS: list[tuple[dict[str, object], list[str]]] = [
    ({"min": {"cpu": "1"}, "max": {"cpu": "2"}}, []),
    ({"min": {"cpu": "1"}, "max": {"memory": "1Gi"}}, []),
    ({"min": {"cpu": "2"}, "max": {"cpu": "1500m"}}, ["spec.min[cpu]: 2 is more than spec.max[cpu], which is 1500m"]),
    ({"min": {"nvidia.com/gpu": "-1"}}, ["spec.min[nvidia.com/gpu]: -1 is negative"]),
    ({"min": {names.GPU_MEMORY: "1.5"}}, [f"spec.min[{names.GPU_MEMORY}]: 1.5 must be a whole number"]),
    ({"min": {names.GPU_MEMORY: 10_000_000}}, []),
    (
        {"min": {names.GPU_MEMORY: "80Gi"}},
        [f"spec.min[{names.GPU_MEMORY}]: 80Gi is too much: it is in GB, without a suffix, so write 80, not 80Gi"],
    ),
    ({"min": {"cpu": "lots"}}, ["spec.min[cpu]: 'lots' is not a Kubernetes quantity such as 2, 500m or 8Gi"]),
    ({"min": {}}, ["spec.min: name at least one resource"]),
    ({}, ["spec.min: name at least one resource"]),
    ({"min": ["cpu"]}, ["spec.min: expected resource names with quantities"]),
]


@pytest.mark.parametrize(("spec", "problems"), SPECS)
def test_spec_problems(spec: dict[str, object], problems: list[str]) -> None:
    assert quota.spec_problems(spec) == problems
