"""The SQL files of a migration.

`NNNN_name.sql` runs in the migration's transaction, `NNNN_name.indexes.sql` holds indexes that are
built while the service runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from alembic import op

_INDEX = re.compile(r"create (?P<unique>unique )?index (?P<name>\w+) (?P<rest>on .+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Index:
    """One statement of an indexes file."""

    name: str
    unique: str
    rest: str

    @property
    def concurrently(self) -> str:
        """The statement that builds it while rows are written, outside a transaction."""
        return f"create {self.unique}index concurrently {self.name} {self.rest}"

    @property
    def if_missing(self) -> str:
        """The statement that builds it in a transaction, unless it exists."""
        return f"create {self.unique}index if not exists {self.name} {self.rest}"


def indexes(migration: str | Path) -> list[Index]:
    """Return the indexes of `NNNN_name.indexes.sql` next to the migration, if that exists."""
    path = Path(migration).with_suffix(".indexes.sql")
    if not path.is_file():
        return []
    text = re.sub(r"--[^\n]*", "", path.read_text())
    return [_parsed(path, statement.strip()) for statement in text.split(";") if statement.strip()]


def run(migration: str | Path) -> None:
    """Build the indexes that are missing (in a new database: all), and run `NNNN_name.sql`."""
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    for index in indexes(migration):
        driver.execute(index.if_missing)
    path = Path(migration).with_suffix(".sql")
    if path.is_file():
        driver.execute(path.read_text())


def _parsed(path: Path, statement: str) -> Index:
    found = _INDEX.fullmatch(statement)
    if found is None:
        raise ValueError(
            f"{path.name} may hold `create index name on ...;` and comments only: {statement[:60]}"
        )
    return Index(found["name"], found["unique"] or "", found["rest"])
