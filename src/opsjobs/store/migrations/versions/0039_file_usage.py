"""The total bytes of uploaded files, per caller."""

from opsjobs.store.migrations import files

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
