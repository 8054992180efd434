"""One service for all tests here; each test gets it intact, and must keep every invariant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.cluster import cluster as open_cluster
from kit.sshd import needs_sshd


@pytest.fixture(scope="package")
def _cluster() -> Iterator[Cluster]:
    needs_sshd()
    with open_cluster() as found:
        yield found


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """Yield the service with all its processes; then check that all has ended and is consistent."""
    _cluster.heal()
    yield _cluster
    _cluster.heal()
    _cluster.settle()
    _cluster.sweep()
    _cluster.invariants.check()
    complaints = _cluster.complaints()
    assert not complaints, "\n".join(complaints)
