"""Executions by the hour in which they ended, for GET /stats."""

from opsjobs.store.migrations import files

revision = "0048"
down_revision = "0047"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
