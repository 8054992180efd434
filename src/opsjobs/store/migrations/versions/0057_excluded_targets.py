"""Targets that a job's selection excludes."""

from opsjobs.store.migrations import files

revision = "0057"
down_revision = "0056"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
