"""The state of connected services by process."""

from opsjobs.store.migrations import files

revision = "0062"
down_revision = "0058"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
