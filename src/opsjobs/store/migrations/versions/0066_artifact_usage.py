"""Bytes and number of the artifacts of each caller."""

from opsjobs.store.migrations import files

revision = "0066"
down_revision = "0065"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
