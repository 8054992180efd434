"""Webhooks, and the indexes of the positions of events."""

from opsjobs.store.migrations import files

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    """Build the indexes, and add the table."""
    files.run(__file__)
