"""Indexes for filters of lists; labels of executions as rows, found in order by scopes."""

from opsjobs.store.migrations import files

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
