"""SECURITY.md names existing tests for each point, or that it is not built yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POINTS = range(1, 31)
NOT_BUILT = "not built yet"


def told() -> dict[int, str]:
    """Return the row of SECURITY.md of each point."""
    rows = re.findall(r"^\| (\d+) (\|.*\|)$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    return {int(number): row for number, row in rows}


def files_of(point: int) -> set[str]:
    """Return the test files whose docstring begins with the number of this point."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests" / "security").glob("test_*.py")
        if re.match(rf'"""Point {point}\b', path.read_text())
    }


def test_every_point_has_a_row() -> None:
    assert sorted(told()) == list(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_each_is_shown_by_tests_that_are_there_or_is_not_built_yet(point: int) -> None:
    row = told()[point]
    files = re.findall(r"`(tests/[\w/]+\.py)`", row)
    assert files or NOT_BUILT in row
    assert [file for file in files if "def test_" not in (ROOT / file).read_text()] == []
    assert sorted(files_of(point) - set(files)) == []
