"""Partitions that heal themselves, and indexes for housekeeping; additions only."""

from opsjobs.store.migrations import files

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
