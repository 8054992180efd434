"""Restores of a backup, and which executions may have run since it unrecorded."""

from opsjobs.store.migrations import files

revision = "0050"
down_revision = "0048"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
