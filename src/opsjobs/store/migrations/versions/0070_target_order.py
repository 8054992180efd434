"""The order of the list of targets, found by an index."""

from opsjobs.store.migrations import files

revision = "0070"
down_revision = "0069"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
