"""Runs that are cancelled one by one."""

from opsjobs.store.migrations import files

revision = "0067"
down_revision = "0066"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
