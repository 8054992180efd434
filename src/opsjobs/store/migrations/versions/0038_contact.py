"""Since when the machine of a running run cannot be reached."""

from opsjobs.store.migrations import files

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
