"""One service for all tests here; each test finds it whole, and leaves every invariant unbroken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.house import House
from e2e.house import house as open_house
from kit.sshd import needs_sshd


@pytest.fixture(scope="package")
def _house() -> Iterator[House]:
    needs_sshd()
    with open_house() as found:
        yield found


@pytest.fixture
def house(_house: House) -> Iterator[House]:
    """The service with all its processes; afterwards everything that was launched must end, and every invariant hold."""
    _house.heal()
    yield _house
    _house.heal()
    _house.settle()
    _house.sweep()
    _house.invariants.check()
    complaints = _house.complaints()
    assert not complaints, "\n".join(complaints)
