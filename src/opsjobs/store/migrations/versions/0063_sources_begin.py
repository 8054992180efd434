"""Sources of deliveries begin with the installation."""

from opsjobs.store.migrations import files

revision = "0063"
down_revision = "0062"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
