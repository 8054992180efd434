"""Output without what differs on every machine, for groups of targets."""

from opsjobs.store.migrations import files

revision = "0056"
down_revision = "0055"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
