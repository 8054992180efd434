"""Targets of transport winrm, with their options."""

from opsjobs.store.migrations import files

revision = "0047"
down_revision = "0046"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
