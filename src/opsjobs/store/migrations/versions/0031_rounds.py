"""Indexes and functions that keep repair, exclusive names and lists fast at scale."""

from opsjobs.store.migrations import files

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
