"""Indexes for the filters of lists; labels of executions as rows, so that what a scope sees is found in order."""

from opsjobs.store.migrations import files

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
