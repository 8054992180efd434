"""Distribution of tests to test processes: by file, the longest first.

All tests that need the one service of a folder run in one process.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

_LONGEST_FIRST = (
    "e2e",
    "console",
    "chaos",
    "standalone",
    "remote",
    "contract",
    "cli",
    "docs",
    "wakeup",
    "engine",
    "api",
    "store",
)
# All files of a folder share one service (and one browser).
_TOGETHER = ("console", "e2e")
# These start a service of their own.
_APART = ("test_examples.py", "test_leftovers.py")


class Shares(LoadScopeScheduling):
    """Keeps the tests of a file in one process, so that its fixtures are made once.

    Since the longest come first, no process has a long file left when the others are done. Test by
    test (xdist's own way) each process would make all fixtures: three scenes, three stacks, three
    labs, all running at once.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = _folder(file)
        return f"tests/{folder}" if folder in _TOGETHER and not file.endswith(_APART) else file


def turn(item: pytest.Item) -> int:
    """Return the position of a test in the order."""
    folder = _folder(item.nodeid)
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)


def _folder(nodeid: str) -> str:
    return nodeid.removeprefix("tests/").partition("/")[0]
