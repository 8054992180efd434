"""Positions of events, and deliveries: messages to receivers outside, with their state."""

from opsjobs.store.migrations import files

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    """Add the column of positions and the tables of deliveries."""
    files.run(__file__)
