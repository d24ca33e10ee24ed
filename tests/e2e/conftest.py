"""One cluster with the chart installed for all end-to-end tests; each test has a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from n8s import names
from tests.e2e.lab import NEBULNETES, Lab, fresh_namespace, laboratory


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with laboratory(say=print) as made:
        yield made


@pytest.fixture
def authorities(lab: Lab, tmp_path: Path) -> Path:
    """A file with those who vouch for the brain's certificate, as any client finds them."""
    path = tmp_path / names.CA_KEY
    path.write_text(lab.cluster.api.get("configmaps", names.BRAIN_CA, namespace=NEBULNETES)["data"][names.CA_KEY])
    return path


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A fresh namespace; what ran in it is gone afterwards."""
    with fresh_namespace(lab.cluster) as name:
        yield name
