"""Migrations that a test adds after those of the release."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from opsjobs.store.migrations import runner

MIGRATION = """
from opsjobs.store.migrations import files

revision = {revision!r}
down_revision = {before!r}


def upgrade() -> None:
    files.run(__file__)
"""


@dataclass
class Versions:
    """A folder of migrations for the runner:

    a copy of the release's, and those that a test adds.
    """

    folder: Path

    @classmethod
    def copy(cls, folder: Path) -> Versions:
        shutil.copytree(runner.VERSIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        return cls(folder)

    def add(self, statements: str, indexes: str = "") -> Path:
        """Add a migration after the last one."""
        last = max(path.name[:4] for path in self.folder.glob("[0-9]*.py"))
        revision = f"{int(last) + 1:04}"
        path = self.folder / f"{revision}_added.py"
        path.write_text(MIGRATION.format(revision=revision, before=last))
        path.with_suffix(".sql").write_text(statements)
        if indexes:
            path.with_suffix(".indexes.sql").write_text(indexes)
        return path
