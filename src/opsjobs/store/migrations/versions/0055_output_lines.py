"""The number of lines of output that begin in each entry of the log."""

from opsjobs.store.migrations import files

revision = "0055"
down_revision = "0052"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
