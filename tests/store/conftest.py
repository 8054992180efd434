"""Fixtures that several tests of the store need."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.migrations import Versions
from opsjobs.store.migrations import runner


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """The migrations that the runner reads; a test may add some."""
    copy = Versions.copy(tmp_path / "versions")
    monkeypatch.setattr(runner, "VERSIONS", copy.folder)
    return copy
