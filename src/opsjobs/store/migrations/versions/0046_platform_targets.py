"""Targets of the platform's Target Service, mirrored into the inventory."""

from opsjobs.store.migrations import files

revision = "0046"
down_revision = "0044"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
