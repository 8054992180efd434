"""Triggers: URLs that launch a job, and their last calls."""

from opsjobs.store.migrations import files

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
