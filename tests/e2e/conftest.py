"""One cluster with the chart installed for all end-to-end tests; each test has a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from deploy.local.chart import Release
from deploy.local.cluster import Cluster
from tests.e2e.lab import Lab, fresh_namespace


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Cluster(Path(__file__).with_name("nodes.yaml"), say=print) as cluster:
        release = Release(cluster)
        release.install()
        with grpc.insecure_channel(release.inventory_address) as channel:
            yield Lab(cluster, release, release.inventory_address, channel)


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A fresh namespace; what ran in it is gone afterwards."""
    with fresh_namespace(lab.cluster) as name:
        yield name
