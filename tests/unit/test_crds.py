"""The CRDs as files: what both kinds share is the same, every field says what it means, names are the code's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from n8s import names

DIRECTORY = Path(__file__).parents[2] / "deploy" / "helm" / "nebulnetes" / "files" / "crds"


def crd(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DIRECTORY / f"{plural}.yaml").read_text())
    return found


def version(plural: str) -> dict[str, Any]:
    (found,) = crd(plural)["spec"]["versions"]
    only: dict[str, Any] = found
    return only


def schema(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = version(plural)["schema"]["openAPIV3Schema"]
    return found


KINDS = {
    names.ELASTIC_QUOTAS: (names.ELASTIC_QUOTA, ["eq", "eqs"]),
    names.COMPOSITE_ELASTIC_QUOTAS: (names.COMPOSITE_ELASTIC_QUOTA, ["ceq", "ceqs"]),
}


@pytest.mark.parametrize("plural", KINDS)
def test_names(plural: str) -> None:
    kind, short = KINDS[plural]
    spec = crd(plural)["spec"]
    assert (spec["group"], spec["scope"], version(plural)["name"]) == (names.GROUP, "Namespaced", names.VERSION)
    assert (spec["names"]["kind"], spec["names"]["plural"], spec["names"]["shortNames"]) == (kind, plural, short)
    assert crd(plural)["metadata"]["name"] == f"{plural}.{names.GROUP}"


@pytest.mark.parametrize("plural", KINDS)
def test_quotas_outlive_the_release(plural: str) -> None:
    assert crd(plural)["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize("plural", KINDS)
def test_columns(plural: str) -> None:
    columns = [column["name"] for column in version(plural)["additionalPrinterColumns"]]
    assert [name for name in columns if name != "Namespaces"] == ["Min", "Max", "Used", "Active", "Age", "Message"]
    assert ("Namespaces" in columns) is (plural == names.COMPOSITE_ELASTIC_QUOTAS)
    assert version(plural)["subresources"] == {"status": {}}


def test_both_kinds_say_the_same_of_what_both_have() -> None:
    single, composite = (schema(plural)["properties"] for plural in KINDS)
    assert {"namespaces"} == set(composite["spec"]["properties"]) - set(single["spec"]["properties"])
    for field in ("min", "max"):
        assert single["spec"]["properties"][field] == composite["spec"]["properties"][field]
    assert single["spec"]["x-kubernetes-validations"] == composite["spec"]["x-kubernetes-validations"]
    for plural_status in (single, composite):
        plural_status["status"]["properties"]["conditions"].pop("description")
    assert single["status"] == composite["status"]


def fields(found: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in found.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for inside in ("items", "additionalProperties"):
        if inside in found:
            yield f"{path}[]", found[inside]
            yield from fields(found[inside], f"{path}[]")


@pytest.mark.parametrize("plural", KINDS)
def test_every_field_has_a_description(plural: str) -> None:
    silent = [path for path, field in fields(schema(plural), "") if not field.get("description")]
    assert silent == [".metadata"]  # Kubernetes' own
